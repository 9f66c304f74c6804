"""SIGKILL at random moments: the files are the old or the new ones whole, and the same command goes on."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import runs
import tiny
from ladle import cli
from ladle.storage.folders import recover_folder
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.record import model_digest
from ladle.training.run import train

PROCESSES = multiprocessing.get_context("forkserver")  # imports torch once, then forks in no time
PROCESSES.set_forkserver_preload(
    ["accelerate", "accelerate.utils", "sklearn.linear_model", "ladle.training.run", "ladle.cli", "warmed"]
)
TIMES = pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])


def kill_after(seconds: float, call: Callable[..., None], *given: Any) -> tuple[int | None, float]:
    """Run `call` in a process that is killed after so long, counted from its first line. Returns its exit code (a
    negative one if it was killed) and the time that it had."""
    ready = PROCESSES.Event()
    process = PROCESSES.Process(target=started, args=(ready, call, given))
    process.start()
    assert ready.wait(120)
    begun = time.monotonic()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode, time.monotonic() - begun


def started(ready: Any, call: Callable[..., None], given: tuple[Any, ...]) -> None:
    import warmed  # noqa: F401 (the server may have been started by other tests, without it)

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    ready.set()
    call(*given)


# ------------------------------------------------------------------------------------------------------------- train


def train_tiny(folder: str) -> None:
    every_step = {"save_every_seconds": 0, "steps": 10, "sample_every": 0.5}
    train(runs.recipe(training=every_step), folder, log=runs.quiet, data=runs.ROWS)


@TIMES
def test_a_killed_training_goes_on(tmp_path: Path, kills: int) -> None:
    """Every state and the model can be read, and the last run ends with the weights of an unbroken one."""
    draw = random.Random(0)
    code, longest = kill_after(300, train_tiny, str(tmp_path / "whole"))
    assert code == 0
    broken, count, ended = tmp_path / "broken-0", 0, 0
    while count < kills:
        code, _ = kill_after(draw.uniform(0, longest), train_tiny, str(broken))
        assert code in (0, -signal.SIGKILL)
        count += code != 0
        check_run(broken)
        (broken / "mine.txt").parent.mkdir(exist_ok=True)
        (broken / "mine.txt").write_text("mine")
        if code == 0:
            assert_as_unbroken(broken, tmp_path / "whole")
            ended += 1
            broken = tmp_path / f"broken-{ended}"
    assert kill_after(300, train_tiny, str(broken))[0] == 0
    assert_as_unbroken(broken, tmp_path / "whole")


def check_run(folder: Path) -> None:
    for path in folder.glob("state/*"):
        recover_folder(path)
    for path in folder.rglob("*.json"):
        if ".ladle-new" not in path.parts:
            json.loads(path.read_text())
    for path in folder.glob("state/*/*.safetensors"):
        load_file(path)
    recover_folder(folder / "final")
    if (folder / "final").exists() and any(path.name[0] != "." for path in (folder / "final").iterdir()):
        load_parts(folder)  # (it compares every file with its hash)


def assert_as_unbroken(broken: Path, whole: Path) -> None:
    names = {str(path.relative_to(whole)) for path in whole.rglob("*.safetensors")}
    assert names == {str(path.relative_to(broken)) for path in broken.rglob("*.safetensors")}
    assert all((broken / name).read_bytes() == (whole / name).read_bytes() for name in names)
    hidden = [path for path in broken.rglob("*") if path.name[0] == "."]
    assert not hidden
    assert (broken / "mine.txt").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------------ sample

EARLIER = b'{"text": "earlier", "seed": 1}\n'  # an output of Ladle's, which another call may replace


def sample(model: str, output: str) -> None:
    sys.exit(cli.main(["sample", "--model", model, "-n", "600", "--seed", "1", "--batch-size", "8", "-o", output]))


@TIMES
def test_a_killed_sample_goes_on(tmp_path: Path, kills: int) -> None:
    """The output is the earlier one or the new one whole. In the end it has the bytes of an unbroken run."""
    parts = tiny.tiny_parts()
    parts.sampling = parts.sampling.model_copy(update={"decoder": "parallel"})
    save_parts(parts, tmp_path / "model")
    draw = random.Random(0)
    code, longest = kill_after(300, sample, str(tmp_path / "model"), str(tmp_path / "whole.jsonl"))
    assert code == 0
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    whole, count, most = (tmp_path / "whole.jsonl").read_bytes(), 0, 0
    while count < kills:
        if not partial.exists():
            output.write_bytes(EARLIER)
        code, _ = kill_after(draw.uniform(0, longest), sample, str(tmp_path / "model"), str(output))
        assert code in (0, -signal.SIGKILL)
        count += code != 0
        assert output.read_bytes() == whole or (code != 0 and output.read_bytes() == EARLIER)
        if partial.exists():
            rows = partial.read_bytes().split(b"\n", 1)[1]
            assert whole.startswith(rows)
            most = max(most, rows.count(b"\n"))
    assert kill_after(300, sample, str(tmp_path / "model"), str(output))[0] == 0
    assert output.read_bytes() == whole and most > 0
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".tmp-"))
    assert left == ["model", "out.jsonl", "whole.jsonl"]


# --------------------------------------------------------------------------------------------------- save_pretrained


def save_by_turns(folder: str) -> None:
    models = [tiny.tiny_parts(seed=seed) for seed in (0, 1)]
    models[1].diffusion = None
    while True:
        for parts in models:
            save_parts(parts, folder)


@TIMES
def test_a_killed_save_leaves_one_of_two_models(tmp_path: Path, kills: int) -> None:
    """Two models are saved by turns in one folder. After a kill it holds one of them whole."""
    draw, folder, seen = random.Random(0), tmp_path / "model", set()
    digests = []
    for seed in (0, 1):
        parts = tiny.tiny_parts(seed=seed)
        parts.diffusion = None if seed else parts.diffusion
        save_parts(parts, tmp_path / str(seed))
        digests.append(model_digest(tmp_path / str(seed)))
    for _ in range(kills):
        assert kill_after(draw.uniform(0.1, 1.0), save_by_turns, str(folder))[0] == -signal.SIGKILL
        recover_folder(folder)
        if (folder / "model.json").exists():
            parts = load_parts(folder)
            seen.add(digests.index(model_digest(folder)))
            assert (folder / "denoiser").exists() == (parts.diffusion is not None)
        folder.mkdir(exist_ok=True)
        (folder / "mine.txt").write_text("mine")
    save_parts(tiny.tiny_parts(), folder)
    assert model_digest(folder) == digests[0] and seen
    assert sorted(path.name for path in folder.iterdir() if path.name[0] == ".") == []
