"""A real, tiny stage for the tests of the loop: a two-layer network with dropout fits a noisy linear map."""

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ladle.training.loop import TrainingConfig, train_stage


class TinyStage:
    """Rows of 8 numbers, two targets. After `max_loads` batches it waits for ever, so that a kill comes in time."""

    name = "diffusion"
    progress = 0.0

    def __init__(
        self,
        *,
        num_rows: int = 60,
        pause: float = 0.0,
        max_loads: int | None = None,
        texts: Sequence[str] = (),
        width: int = 16,
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(num_rows, 8, generator=generator)
        self.targets = self.inputs @ torch.randn(8, 2, generator=generator)
        self.pause, self.max_loads, self.num_loads, self.texts = pause, max_loads, 0, list(texts)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.module = nn.Sequential(
                nn.Linear(8, width), nn.BatchNorm1d(width), nn.Dropout(0.1), nn.Linear(width, 2)
            )

    def batches(self, epoch: int) -> list[list[int]]:
        rows = torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(epoch)).tolist()
        return [rows[i : i + 8] for i in range(0, len(rows), 8)]

    def load(self, batch_spec: list[int]) -> dict[str, Tensor]:
        self.num_loads += 1
        while self.max_loads is not None and self.num_loads > self.max_loads:
            time.sleep(0.1)
        time.sleep(self.pause)
        return {"x": self.inputs[batch_spec], "y": self.targets[batch_spec]}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        noisy = batch["x"] + 0.1 * torch.randn_like(batch["x"]) + 1e-3 * random.random() + 1e-3 * np.random.rand()
        difference = self.module(noisy) - batch["y"]
        return difference.square().mean(), {"abs": difference.abs().mean(), "num_tokens": len(noisy)}

    def validate(self) -> dict[str, float]:
        torch.randn(7)  # draws that the training must not notice
        return {"mse": (self.module(self.inputs) - self.targets).square().mean().item()}

    def sample(self) -> list[str]:
        random.random()
        return self.texts


def run(run_dir: str, pause: float = 0.0, max_loads: int | None = None, **settings: Any) -> None:
    """The body of a process that trains and may be killed; exit code 130 when interrupted."""
    torch.set_num_threads(1)
    stage = TinyStage(pause=pause, max_loads=max_loads, texts=["a b c d", "e f g h"])
    try:
        train_stage(stage, TrainingConfig(precision="fp32", **settings), Path(run_dir))
    except KeyboardInterrupt:
        sys.exit(130)
