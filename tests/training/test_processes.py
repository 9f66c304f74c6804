"""Several processes train as one would that takes all their batches itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_stage import TinyStage
from torch import nn

from ladle.training.loop import TrainingConfig, train_stage
from ladle.training.processes import Processes, is_main, several

SETTINGS: dict[str, Any] = {
    "steps": 12, "precision": "fp32", "validate_every": 0.25, "keep_best": "mse", "lr": 0.01, "save_every_seconds": 0,
}  # fmt: skip
SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from test_processes import train_in
train_in(sys.argv[1])
"""


class Plain(TinyStage):
    """Without statistics of a batch, which are of what one process sees."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.module = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.Linear(16, 2))


def train_in(run_dir: str, **settings: Any) -> None:
    torch.set_num_threads(1)
    train_stage(Plain(texts=["a b c d"]), TrainingConfig(**SETTINGS | settings), Path(run_dir))


def by_torchrun(run_dir: Path) -> str:
    """Two processes on the CPU; what they say."""
    script = run_dir.parent / "script.py"
    script.write_text(SCRIPT.format(paths=[str(Path(__file__).parent), *sys.path]))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(script), str(run_dir)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def figures(row: dict[str, Any]) -> dict[str, float]:
    """What does not depend on the clock."""
    row = row | row.get("validation", {})
    return {name: row[name] for name in ("step", "epoch", "loss", "abs", "grad_norm", "lr", "mse") if name in row}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_train_as_one_of_twice_the_batches(tmp_path: Path) -> None:
    """Weights, losses and validations are those of one process that accumulates two batches, to rounding; random
    numbers are each batch's own. One process speaks and writes."""
    (tmp_path / "two").mkdir()
    said = by_torchrun(tmp_path / "two" / "run")
    assert said.count("diffusion: done") == 1
    train_in(str(tmp_path / "one"), gradient_accumulation=2)
    paths = [tmp_path / which / "state/diffusion/ema.safetensors" for which in ("two/run", "one")]
    two, one = map(load_file, paths)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)
    ours, theirs = rows(tmp_path / "two/run"), rows(tmp_path / "one")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert figures(mine) == pytest.approx(figures(other), rel=1e-4)


def test_a_cluster_that_counts_its_jobs_starts_no_second_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    processes = Processes(torch.device("cpu"))
    assert not several() and is_main() and (processes.count, processes.rank) == (1, 0)
    assert processes.of_main(3) == 3 and processes.together({"a": [1.0]}) == {"a": [1.0]}
