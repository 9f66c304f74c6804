"""A state brings back everything that a training depends on, or says in one line why it cannot."""

import json
import random
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ladle.errors import LadleError, UserError
from ladle.training.ema import EMA
from ladle.training.state import Position, StateFolder, check_identity, describe_module, digest, preserved_random

IDENTITY = {"training": {"lr": 0.1}, "data": {"batches": "abc"}}


def make(width: int = 4) -> tuple[nn.Module, torch.optim.Optimizer, EMA]:
    """A module with shared weights, a buffer and a frozen part, with an optimiser that has taken a step."""
    module = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, width), nn.Linear(1, 1))
    module[2].weight = module[0].weight
    module[3].requires_grad_(False)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, fused=True)
    ema = EMA(module, 0.9)
    step(module, optimizer, ema)
    return module, optimizer, ema


def step(module: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA) -> None:
    module[:3](torch.randn(5, module[0].in_features)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    ema.update()


def test_a_restored_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    """Weights, moments, averages, buffers and position."""
    folder = StateFolder(tmp_path / "state" / "diffusion", IDENTITY)
    module, optimizer, ema = make()
    position = Position(step=7, epoch=1, batch=3, seconds=1.5, window={"loss": [0.1, 0.2]}, loss=0.3, num_rows=2)
    folder.save(position, module, optimizer, ema)
    torch.manual_seed(1)
    step(module, optimizer, ema)

    other, other_optimizer, other_ema = make()
    assert folder.restore(other, other_optimizer, other_ema) == position
    torch.manual_seed(1)
    step(other, other_optimizer, other_ema)
    for name, tensor in module[:3].state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    for name, tensor in ema.tensors().items():
        assert torch.equal(other_ema.tensors()[name], tensor), name


def test_the_folder_holds_safetensors_and_json_only(tmp_path: Path) -> None:
    """Nothing pickled, no frozen weights, and no temporary folder left."""
    folder = StateFolder(tmp_path / "diffusion", IDENTITY)
    for number in (1, 2):
        folder.save(Position(step=number), *make())
    names = {path.name for path in folder.path.iterdir()}
    assert names == {f"{n}.safetensors" for n in ("model", "ema", "optimizer")} | {"state.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["diffusion"]
    assert b'"3.weight"' not in (folder.path / "model.safetensors").read_bytes()


def test_no_state_is_none(tmp_path: Path) -> None:
    """A new run is no error."""
    assert StateFolder(tmp_path / "diffusion", IDENTITY).restore(*make()) is None


def test_a_finished_stage_gives_its_averages(tmp_path: Path) -> None:
    """What is kept is what ships: averages and buffers, without the optimiser."""
    folder = StateFolder(tmp_path / "diffusion", IDENTITY)
    module, optimizer, ema = make()
    folder.save(Position(step=1), module, optimizer, ema)
    assert folder.finished(module) is None
    folder.finish(Position(step=2), module, ema, {"mse": 0.5})
    assert {path.name for path in folder.path.iterdir()} == {"ema.safetensors", "state.json"}
    other = make()[0]
    assert folder.finished(other) == (Position(step=2), {"mse": 0.5})
    assert torch.equal(other[0].weight, ema.tensors()["0.weight"])
    assert torch.equal(other[1].running_mean, module[1].running_mean)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (
            {"training": {"lr": 0.2}, "data": {"batches": "abc"}},
            ["training.diffusion.optimiser.lr = 0.1", "but now 0.2 is given", "--output"],
        ),
        ({"training": {"lr": 0.1}, "data": {"batches": "xyz"}}, ['data.batches = "abc"', 'now "xyz"']),
        (
            {"training": {"lr": 0.2}, "data": {"batches": "xyz"}},
            ["training.diffusion.optimiser.lr", "also different: data.batches"],
        ),
        ({"training": {"lr": 0.1}}, ["data.batches", "now nothing"]),
    ],
)
def test_another_identity_is_refused_by_key_and_values(tmp_path: Path, given: dict, parts: list[str]) -> None:
    """Going on with other settings would make a run that nobody asked for."""
    StateFolder(tmp_path / "diffusion", IDENTITY).save(Position(step=1), *make())
    with pytest.raises(UserError) as caught:
        StateFolder(tmp_path / "diffusion", given).restore(*make())
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_identity_is_compared_as_json() -> None:
    """Tuples become lists on the way through the file; that is no difference."""
    check_identity(Path("x"), json.loads(json.dumps({"betas": (0.9, 0.99)})), {"betas": (0.9, 0.99)})


def test_a_setting_that_is_newer_than_the_state_may_have_its_default() -> None:
    """A training goes on under a later version, unless the new setting is asked for."""
    defaults = {"diffusion": {"times": "uniform", "width": 64}}
    stored = {"diffusion": {"width": 32}}
    check_identity(Path("x"), stored, {"diffusion": {"width": 32, "times": "uniform"}}, defaults)
    for given in ({"width": 32, "times": "adaptive"}, {"width": 64, "times": "uniform"}, {"times": "uniform"}):
        with pytest.raises(UserError, match="was started with diffusion"):
            check_identity(Path("x"), stored, {"diffusion": given}, defaults)


def test_modules_of_other_shapes_have_other_descriptions() -> None:
    """The weights of one size do not fit another, and the identity must say so before they are read."""
    assert describe_module(make(4)[0]) == describe_module(make(4)[0])
    assert describe_module(make(4)[0]) != describe_module(make(5)[0])
    assert digest([torch.arange(2000)]) != digest([torch.arange(2000).flip(0)])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_state_is_one_line(tmp_path: Path, name: str, damage: str) -> None:
    """It names the folder and the way out, and no traceback of a library."""
    folder = StateFolder(tmp_path / "diffusion", IDENTITY)
    folder.save(Position(step=1), *make())
    file = folder.path / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(LadleError, match=r"diffusion is damaged \(.*delete that folder.*--output") as caught:
        folder.restore(*make())
    assert not isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_earlier_state(tmp_path: Path) -> None:
    """The kernel refuses the bytes in mid-file, as a full disk does."""
    folder = StateFolder(tmp_path / "diffusion", IDENTITY)
    folder.save(Position(step=1), *make())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(LadleError, match=r"cannot write .*diffusion.*earlier state is intact"):
            folder.save(Position(step=2), *make(width=100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    position = folder.restore(*make())
    assert position is not None
    assert position.step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["diffusion"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """Here `state` is a file; a folder without permission fails in the same call."""
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(LadleError, match="cannot write"):
        StateFolder(tmp_path / "state" / "diffusion", IDENTITY).save(Position(step=1), *make())


def test_a_kill_while_files_are_put_in_place_loses_nothing(tmp_path: Path) -> None:
    """The rest of the new state waits in a hidden folder."""
    folder = StateFolder(tmp_path / "diffusion", IDENTITY)
    folder.save(Position(step=1), *make())
    put = folder.path / ".ladle-put" / "files"
    put.mkdir(parents=True)
    for name in ("state.json", "model.safetensors"):
        shutil.move(folder.path / name, put)
    position = folder.restore(*make())
    assert position is not None
    assert position.step == 1


def test_preserved_random_hides_draws_and_seeds() -> None:
    """Sampling in the middle of a training must not change the training."""
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    with preserved_random(torch.device("cpu")):
        random.seed(9), np.random.seed(9), torch.manual_seed(9)
        random.random(), np.random.rand(), torch.rand(5)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected
