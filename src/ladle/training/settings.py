"""How a stage is trained: its budget, batch size, optimiser and learning rate over time."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from ladle.config import Config

# What one may change between two runs of one training: it does not touch the weights.
FREE_SETTINGS = {"save_every_seconds", "validate_every", "sample_every", "num_threads"}


class TrainingConfig(Config):
    """How a stage is trained."""

    steps: int | None = Field(None, ge=1)
    """The budget in optimiser steps, or"""
    minutes: float | None = Field(None, gt=0, validate_default=True)
    """in minutes of this loop (with its validations and samples), over all runs together. Exactly one of the two."""
    lr: float = Field(5e-4, gt=0)
    warmup: float = Field(0.02, ge=0)
    """Linear warm-up: a share of the budget if under 1, otherwise a number of steps."""
    lr_schedule: Literal["cosine", "linear", "constant", "trapezoid"] = "cosine"
    weight_decay: float = Field(0.01, ge=0)
    """Of matrices; vectors (biases, gains) are not decayed."""
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float = Field(1.0, ge=0)
    """The largest norm of the gradient; 0 is off."""
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    gradient_accumulation: int = Field(1, ge=1)
    """Batches to a step."""
    max_tokens: int = Field(4096, ge=1)
    """Size of a batch, in tokens with padding; read by the stages."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the products of matrices (weights stay float32). auto: bf16 where the processor has units for it."""
    save_every_seconds: float = Field(45, ge=0)
    validate_every: float = Field(0.1, ge=0)
    """A share of the budget if at most 1, otherwise seconds; 0: only at the end."""
    sample_every: float = Field(0.1, ge=0)
    """As `validate_every`."""
    seed: int = Field(0, ge=0, lt=2**32)
    num_threads: int | None = Field(None, ge=1)
    """torch's threads; None leaves them as they are."""

    @field_validator("minutes")
    @classmethod
    def _one_budget(cls, minutes: float | None, info: ValidationInfo) -> float | None:
        if "steps" in info.data and (minutes is None) == (
            info.data["steps"] is None
        ):  # absent: said to be wrong already
            raise ValueError("give either steps or minutes, " + ("one of them" if minutes is None else "not both"))
        return minutes

    @field_validator("betas")
    @classmethod
    def _betas_in_range(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both must be at least 0 and under 1")
        return betas


LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "constant": lambda share: 1.0,
    "trapezoid": lambda share: min(1.0, (1 - share) / 0.2),  # level, then down over the last fifth
}


def lr_factor(config: TrainingConfig, step: int, share: float) -> float:
    """What `config.lr` is multiplied by at a step, `share` of the budget being used up: warm-up times schedule."""
    used, whole = (step + 1, config.warmup) if config.warmup >= 1 else (share, config.warmup)
    ramp = min(1.0, used / whole) if whole else 1.0
    return ramp * LR_SCHEDULES[config.lr_schedule](min(share, 1.0))


def build_optimizer(parameters: Sequence[nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    """Fused AdamW; weight decay for matrices only."""
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True
    )
