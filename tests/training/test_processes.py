"""Several processes train as one would that takes all their batches itself."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_stage import TinyStage
from torch import nn

from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.training.loop import TrainingConfig, train_stage
from ladle.training.processes import Processes, is_main, several
from ladle.training.recipe import parse_recipe, read_recipe
from ladle.training.run import train
from ladle.training.sharding import check_sharding, is_sharded

SETTINGS: dict[str, Any] = {
    "steps": 12, "precision": "fp32", "validate_every": 0.25, "keep_best": "mse", "lr": 0.01, "save_every_seconds": 0,
}  # fmt: skip
SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from test_processes import {body}
{body}(sys.argv[1])
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


def by_torchrun(run_dir: Path, body: str = "train_in", **environ: str) -> str:
    """Two processes on the CPU; what they say."""
    script = run_dir.parent / "script.py"
    script.write_text(SCRIPT.format(paths=[str(Path(__file__).parent), *sys.path], body=body))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(script), str(run_dir)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


RECIPE = """
start = "nothing"
autoencoder.backbone = { vocab_size = 300, width = 32, num_encoder_layers = 1, num_decoder_layers = 1 }
diffusion.denoiser = { width = 32, num_layers = 2 }
training.steps = 9
training.sample_every = 1
training.autoencoder = { share = 1, optimiser = { optimizer = "muon" } }
training.diffusion.share = 0
training.joint.share = 1
training.decoder.share = 1
"""


def train_model_in(run_dir: str) -> None:
    """All stages, and a sample by transformers, which would have the other process take part in it."""
    folder = Path(run_dir).parent
    texts = [
        f"the {what} is {how} and has {n} doors" for what in ("inn", "pub") for how in ("old", "new") for n in range(9)
    ]
    folder.joinpath("recipe.toml").write_text(RECIPE)
    folder.joinpath("texts.txt").write_text("\n".join(texts))
    recipe = read_recipe(folder / "recipe.toml") | {"data": {"path": str(folder / "texts.txt")}, "name": "sharded"}
    final = train(parse_recipe(recipe, "recipe"), run_dir)
    assert len(LatentDiffusion.from_pretrained(final).generate(num_samples=2)) == 2


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def figures(row: dict[str, Any]) -> dict[str, float]:
    """What does not depend on the clock."""
    row = row | row.get("validation", {})
    return {name: row[name] for name in ("step", "epoch", "loss", "abs", "grad_norm", "lr", "mse") if name in row}


needs_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)
MUON: dict[str, Any] = {"optimizer": "muon", "lr": 0.003}
FSDP = {"ACCELERATE_USE_FSDP": "true"}  # what `accelerate launch --use_fsdp` sets


class Tied(Plain):
    """With one matrix at two places, one that is never trained, and one that every other batch does not use."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            first, last = nn.Linear(8, 8), nn.Linear(8, 8)
            last.weight = first.weight
            others = {"fixed": nn.Linear(8, 8), "some": nn.ModuleList([nn.Linear(8, 8)]), "out": nn.Linear(8, 2)}
            self.module = nn.ModuleDict({"first": first, "last": last, **others})
            self.module["fixed"].requires_grad_(False)

    def batches(self, epoch: int) -> Any:
        return list(enumerate(super().batches(epoch)))

    def load(self, batch_spec: Any) -> Any:
        number, rows = batch_spec
        return {**super().load(rows), "some": number % 2 == 0}

    def _predict(self, x: torch.Tensor, some: bool) -> torch.Tensor:
        part = self.module
        hidden = torch.relu(part["fixed"](part["last"](torch.relu(part["first"](x)))))
        return part["out"](hidden + torch.relu(part["some"][0](x)) if some else hidden)

    def loss(self, batch: dict[str, torch.Tensor]) -> Any:
        difference = self._predict(batch["x"], bool(batch["some"])) - batch["y"]
        return difference.square().mean(), {"abs": difference.abs().mean()}

    def validate(self) -> dict[str, float]:
        return {"mse": (self._predict(self.inputs, True) - self.targets).square().mean().item()}


class Stopped(Tied):
    """Its first process is told to end when it loads its ninth batch."""

    def load(self, batch_spec: Any) -> Any:
        batch = super().load(batch_spec)
        if self.num_loads == 9 and is_main():
            os.kill(os.getpid(), signal.SIGTERM)
        return batch


def train_tied_in(run_dir: str, **settings: Any) -> None:
    torch.set_num_threads(1)
    stage = Tied(texts=["a b c d"])
    train_stage(stage, TrainingConfig(**SETTINGS | MUON | settings), Path(run_dir))
    part = stage.module
    assert part["last"].weight is part["first"].weight and not part["fixed"].weight.requires_grad
    assert all(type(parameter) is nn.Parameter for parameter in part.parameters())
    assert part["out"](torch.zeros(1, 8)).shape == (1, 2)  # by each process for itself: whole again


def stop_and_go_on_in(run_dir: str) -> None:
    torch.set_num_threads(1)
    config = TrainingConfig(**SETTINGS | MUON | {"save_every_seconds": 100})
    with pytest.raises(KeyboardInterrupt):
        train_stage(Stopped(texts=["a b c d"]), config, Path(run_dir))
    if is_main():  # (the other may be here before the state is)
        assert json.loads((Path(run_dir) / "state/diffusion/state.json").read_text())["position"]["step"] == 9
    train_stage(Tied(texts=["a b c d"]), config, Path(run_dir))


def assert_equal_runs(two: Path, one: Path, tolerance: float = 1e-5) -> None:
    """The same weights, losses and validations, to rounding."""
    found, expected = (load_file(path / "state/diffusion/ema.safetensors") for path in (two, one))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=10 * tolerance)
    ours, theirs = rows(two), rows(one)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert figures(mine) == pytest.approx(figures(other), rel=10 * tolerance, abs=0)


@needs_distributed
@pytest.mark.parametrize("environ", [{}, FSDP], ids=["whole", "sharded"])
def test_two_processes_train_as_one_of_twice_the_batches(tmp_path: Path, environ: dict[str, str]) -> None:
    """Weights, losses and validations are those of one process that accumulates two batches, to rounding; random
    numbers are each batch's own. One process speaks and writes."""
    said = by_torchrun(tmp_path / "two", **environ)
    assert said.count("diffusion: done") == 1
    train_in(str(tmp_path / "one"), gradient_accumulation=2)
    assert_equal_runs(tmp_path / "two", tmp_path / "one")


@pytest.fixture(scope="module")
def sharded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("sharded") / "run"
    by_torchrun(run_dir, "train_tied_in", **FSDP)
    return run_dir


@needs_distributed
def test_sharded_training_of_tied_frozen_and_unused_parameters(sharded_run: Path, tmp_path: Path) -> None:
    train_tied_in(str(tmp_path), gradient_accumulation=2)
    assert_equal_runs(sharded_run, tmp_path, tolerance=1e-3)  # (Muon multiplies in bfloat16)


@needs_distributed
def test_sharded_training_goes_on_where_it_was_stopped(sharded_run: Path, tmp_path: Path) -> None:
    """The signal reaches one process; both end the step, bring their parts together and save."""
    by_torchrun(tmp_path / "run", "stop_and_go_on_in", **FSDP)
    assert_equal_runs(tmp_path / "run", sharded_run, tolerance=0.0)


@needs_distributed
def test_every_stage_trains_sharded(tmp_path: Path) -> None:
    said = by_torchrun(tmp_path / "run", "train_model_in", **FSDP)
    assert [said.count(f"{stage}: done") for stage in ("autoencoder", "joint", "decoder")] == [1, 1, 1]


def test_what_sharding_would_not_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FSDP.items() | {("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("FSDP_OFFLOAD_PARAMS", "True")}:
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(UserError, match="fsdp_offload_params"):
        check_sharding()
    monkeypatch.delenv("FSDP_OFFLOAD_PARAMS")
    check_sharding()
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    monkeypatch.delenv("LOCAL_RANK")
    assert not is_sharded()


def test_a_cluster_that_counts_its_jobs_starts_no_second_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    processes = Processes(torch.device("cpu"))
    assert not several() and is_main() and (processes.count, processes.rank) == (1, 0)
    assert processes.of_main(3) == 3 and processes.together({"a": [1.0]}) == {"a": [1.0]}
