"""The loop trains, ends where it should, and a training in pieces is the training in one."""

import contextlib
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stage import TinyStage, run
from torch import Tensor, nn

from ladle.errors import LadleError, UserError
from ladle.training.loop import TrainingConfig, TrainingResult, train_stage
from ladle.training.metrics_file import Record
from ladle.training.optimiser import LR_SCHEDULES, lr_factor
from ladle.training.progress import Progress, collapse_warnings, duration, sample_statistics

TIMINGS = {"seconds", "tokens_per_second"}


def train(stage: TinyStage, run_dir: Path, lines: list[str] | None = None, **settings: Any) -> TrainingResult:
    settings = {"precision": "fp32", "lr": 0.01} | settings
    log = (lambda line: None) if lines is None else lines.append
    return train_stage(stage, TrainingConfig(**settings), run_dir, log=log)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what depends on the clock."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMINGS} for line in lines]


def assert_same(first: TrainingResult, second: TrainingResult) -> None:
    assert first.step == second.step
    assert first.metrics == second.metrics
    for name, tensor in first.state.items():
        assert torch.equal(second.state[name], tensor), name


# ------------------------------------------------------------------------------------------------ training


def test_it_learns_and_writes_what_it_did(tmp_path: Path) -> None:
    """The loss falls, the module ends with the averages that were validated, files are there."""
    stage = TinyStage(texts=["one text", "another text"])
    result = train(stage, tmp_path, steps=300)
    assert result.step == 300
    assert result.metrics["mse"] < 0.1 * float(stage.targets.square().mean())
    assert not stage.module.training
    assert result.metrics["mse"] == pytest.approx(stage.validate()["mse"])

    table = rows(tmp_path)
    trained = [row for row in table if "loss" in row]
    assert [row["step"] for row in trained] == list(range(50, 301, 50))
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert {"stage", "epoch", "progress", "loss", "abs", "grad_norm", "lr"} <= set(trained[0])
    assert all(name in (tmp_path / "metrics.jsonl").read_text() for name in TIMINGS)
    assert sum("validation" in row for row in table) == 10
    assert [row["samples"]["distinct"] for row in table if "samples" in row] == [1.0] * 10
    last = tmp_path / "samples" / "diffusion-300.jsonl"
    assert [json.loads(line) for line in last.read_text().splitlines()] == [
        {"text": "one text"},
        {"text": "another text"},
    ]


def test_validation_and_samples_do_not_change_the_training(tmp_path: Path) -> None:
    """How often one looks is no setting of the training: both may be changed on the way."""
    often = train(TinyStage(texts=["a"]), tmp_path / "often", steps=40, validate_every=0.05, sample_every=0.05)
    never = train(TinyStage(), tmp_path / "never", steps=40, validate_every=0, sample_every=0)
    assert_same(often, never)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    """Two batches to a step give the mean of their gradients."""

    class Halves(TinyStage):
        """Exact gradients: no dropout, no noise. Batches of 8 rows, or their halves."""

        def __init__(self, size: int) -> None:
            super().__init__(num_rows=64)
            self.size = size
            self.module = nn.Linear(8, 2)
            nn.init.constant_(self.module.weight, 0.1)
            nn.init.zeros_(self.module.bias)

        def batches(self, epoch: int) -> list[list[int]]:
            return [list(range(i, i + self.size)) for i in range(0, 64, self.size)]

        def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
            return (self.module(batch["x"]) - batch["y"]).square().mean(), {}

    whole = train(Halves(8), tmp_path / "whole", steps=20)
    halves = train(Halves(4), tmp_path / "halves", steps=20, gradient_accumulation=2)
    torch.testing.assert_close(halves.state, whole.state)


def test_precision_is_each_stages_own(tmp_path: Path) -> None:
    """bf16 and fp32 one after the other in one process; weights stay float32 in both."""
    seen: list[torch.dtype] = []

    class Spy(TinyStage):
        def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
            seen.append(self.module(batch["x"]).dtype)
            return super().loss(batch)

    for precision in ("bf16", "fp32"):
        result = train(Spy(), tmp_path / precision, steps=1, precision=precision)
        assert result.state["0.weight"].dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]


def test_a_stage_is_told_how_far_it_is(tmp_path: Path) -> None:
    """The middle of each step, also after an interruption."""
    seen: list[float] = []

    class Spy(Interrupted):
        def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
            seen.append(self.progress)
            return super().loss(batch)

    with pytest.raises(KeyboardInterrupt):
        train(Spy([2]), tmp_path, steps=4)
    train(Spy([]), tmp_path, steps=4)
    assert sorted(set(seen)) == [0.125, 0.375, 0.625, 0.875]


def test_frozen_parts_are_not_trained_and_stay_in_eval_mode(tmp_path: Path) -> None:
    """A frozen encoder with dropout would give noisy latents; batch statistics would drift."""
    stage = TinyStage()
    stage.module[1].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in stage.module[1].state_dict().items()}
    train(stage, tmp_path, steps=20)
    for name, tensor in stage.module[1].state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_minutes_are_kept_and_counted_over_all_runs(tmp_path: Path) -> None:
    """A second run has only what the first left of the budget."""
    with pytest.raises(KeyboardInterrupt):
        train(Interrupted([1], pause=0.2), tmp_path, minutes=0.01)
    spent = json.loads((tmp_path / "state" / "diffusion" / "state.json").read_text())["position"]["seconds"]
    assert spent >= 0.2
    began = time.monotonic()
    result = train(TinyStage(pause=0.01), tmp_path, minutes=0.01)
    assert 0.6 <= result.seconds <= spent + time.monotonic() - began
    assert rows(tmp_path)[-1]["step"] == result.step


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    """No rows after a filter, say."""
    with pytest.raises(UserError, match="0 batches"):
        train(TinyStage(num_rows=0), tmp_path, steps=1)


# ------------------------------------------------------------------------------------------------ resuming


class Interrupted(TinyStage):
    """Sends itself a signal in the middle of chosen steps."""

    def __init__(self, at: Sequence[int], number: int = signal.SIGINT, pause: float = 0.0) -> None:
        super().__init__(texts=["a b c d", "e f g h"], pause=pause)
        self.at, self.number = set(at), number

    def load(self, batch_spec: list[int]) -> dict[str, Tensor]:
        if self.num_loads + 1 in self.at:
            os.kill(os.getpid(), self.number)
        return super().load(batch_spec)


def test_training_in_pieces_is_the_unbroken_training(tmp_path: Path) -> None:
    """Interrupted in mid-step, in mid-epoch, twice: equal weights, metrics and rows, bit by bit."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    whole = train(TinyStage(texts=["a b c d", "e f g h"]), tmp_path / "whole", steps=120)
    settings: dict[str, Any] = {"steps": 120, "save_every_seconds": 1000}
    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt):
            train(Interrupted([37], number), tmp_path / "pieces", **settings)
        state = json.loads((tmp_path / "pieces" / "state" / "diffusion" / "state.json").read_text())
        assert state["position"]["step"] % 37 == 0  # the step in which the signal came is ended and saved
    assert_same(train(TinyStage(texts=["a b c d", "e f g h"]), tmp_path / "pieces", **settings), whole)
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_interrupt_while_validating_saves_the_step_with_the_trained_weights(tmp_path: Path) -> None:
    """Averages are in the module at that moment; they must not be what is saved to go on from."""

    class Slow(TinyStage):
        def validate(self) -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().validate()

    with pytest.raises(KeyboardInterrupt):
        train(Slow(), tmp_path / "pieces", steps=20, validate_every=0.5)
    whole = train(TinyStage(), tmp_path / "whole", steps=20, validate_every=0.5)
    assert_same(train(TinyStage(), tmp_path / "pieces", steps=20, validate_every=0.5), whole)


def saved_step(run_dir: Path) -> int:
    """The step of the newest whole state on disk, also if it was being put in place; 0 when there is none."""
    for name in ("diffusion/.ladle-put/files", "diffusion"):
        with contextlib.suppress(FileNotFoundError):
            return json.loads((run_dir / "state" / name / "state.json").read_text())["position"]["step"]
    return 0


@pytest.mark.parametrize(
    ("kills", "steps"), [(2, 150), pytest.param(20, 300, marks=pytest.mark.slow)], ids=["twice", "twenty-times"]
)
def test_killed_at_random_moments_it_ends_as_the_unbroken_training(tmp_path: Path, kills: int, steps: int) -> None:
    """kill -9 while steps are made and states are written; then the same call to the end."""
    processes = multiprocessing.get_context("forkserver")  # imports torch once, then forks in no time
    processes.set_forkserver_preload(["torch", "accelerate", "accelerate.utils", "ladle.training.loop"])
    settings: dict[str, Any] = {"steps": steps, "save_every_seconds": 0.0}
    broken, saved = tmp_path / "broken", [0]
    for _ in range(kills):
        slow = settings | {"pause": 0.004, "max_loads": max(10, 120 // kills)}
        process = processes.Process(target=run, args=(str(broken),), kwargs=slow)
        process.start()
        deadline = time.monotonic() + 120
        while saved_step(broken) <= saved[-1] and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        saved.append(saved_step(broken))
    assert all(one < next_one for one, next_one in itertools.pairwise(saved)) and saved[-1] < steps
    process = processes.Process(target=run, args=(str(broken),), kwargs=settings)
    process.start()
    process.join(120)
    assert process.exitcode == 0

    run(str(tmp_path / "whole"), steps=steps)
    parts = [tmp_path / which / "state" / "diffusion" / "ema.safetensors" for which in ("broken", "whole")]
    assert parts[0].read_bytes() == parts[1].read_bytes(), f"killed after steps {saved}"
    assert rows(broken) == rows(tmp_path / "whole"), f"killed after steps {saved}"
    names = [sorted(path.name for path in (tmp_path / which / "samples").iterdir()) for which in ("broken", "whole")]
    assert names[0] == names[1]


class Wandering(TinyStage):
    """Held-out rows of another map: the better it learns, the worse it does on them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.others = self.inputs @ torch.randn(8, 2, generator=torch.Generator().manual_seed(5)) + 0.3 * self.targets

    def validate(self) -> dict[str, float]:
        return {"mse": (self.module(self.inputs) - self.others).square().mean().item()}


KEEP_BEST: dict[str, Any] = {"steps": 60, "keep_best": "mse", "validate_every": 0.05, "lr_schedule": "constant"}


def test_the_best_validation_is_kept_in_place_of_the_last(tmp_path: Path) -> None:
    stage = Wandering()
    result = train(stage, tmp_path / "a", **KEEP_BEST)
    values = [row["validation"]["mse"] for row in rows(tmp_path / "a") if "validation" in row]
    assert result.metrics["mse"] == min(values) < values[-1]
    assert stage.validate()["mse"] == pytest.approx(min(values))  # the module holds those weights, buffers too
    again = train(Wandering(), tmp_path / "a", **KEEP_BEST)
    assert_same(result, again)
    assert train(Wandering(), tmp_path / "b", **(KEEP_BEST | {"keep_best": None})).metrics["mse"] == values[-1]


def test_the_best_survives_an_interruption(tmp_path: Path) -> None:
    whole = train(Wandering(), tmp_path / "whole", **KEEP_BEST)
    for stop in (20, 45, None):
        stage = Wandering() if stop is None else WanderingInterrupted(stop)
        with contextlib.suppress(KeyboardInterrupt):
            result = train(stage, tmp_path / "pieces", **KEEP_BEST)
    assert_same(whole, result)


class WanderingInterrupted(Wandering):
    """Ctrl-C in the middle of its n-th step."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def load(self, batch_spec: list[int]) -> dict[str, Tensor]:
        if self.num_loads == self.stop:
            os.kill(os.getpid(), signal.SIGINT)
        return super().load(batch_spec)


def test_patience_ends_a_training_that_no_longer_improves(tmp_path: Path) -> None:
    result = train(Wandering(), tmp_path, patience=3, **KEEP_BEST)
    values = [row["validation"]["mse"] for row in rows(tmp_path) if "validation" in row]
    best = values.index(min(values))
    assert result.step < 60
    assert len(values) - 1 == best + 3
    assert result.metrics["mse"] == values[best]


def test_a_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="keep_best is 'bleu'; the metrics of diffusion are mse"):
        train(TinyStage(), tmp_path, steps=20, keep_best="bleu")


def test_a_finished_stage_returns_at_once(tmp_path: Path) -> None:
    """The same command on a finished run: nothing is trained, the averages are in the module."""
    first = train(TinyStage(), tmp_path, steps=20)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    class NeverLoads(TinyStage):
        def load(self, batch_spec: list[int]) -> dict[str, Tensor]:
            raise AssertionError("trained again")

    stage, lines = NeverLoads(), []
    second = train(stage, tmp_path, lines, steps=20)
    assert_same(second, first)
    assert torch.equal(stage.module.state_dict()["0.weight"], first.state["0.weight"])
    assert not stage.module.training
    assert len(lines) == 1
    assert lines[0].startswith("diffusion: already trained (20 steps, ")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


def test_other_settings_data_or_model_are_refused_and_free_ones_are_not(tmp_path: Path) -> None:
    """What changes the weights may not change on the way; how often one looks may."""
    with pytest.raises(KeyboardInterrupt):
        train(Interrupted([5]), tmp_path, steps=20)
    with pytest.raises(
        UserError, match=r"training\.diffusion\.optimiser\.lr = 0\.01, but now 0\.02 is given.*another --output"
    ):
        train(TinyStage(), tmp_path, steps=20, lr=0.02)
    with pytest.raises(UserError, match=r"training\.steps = 20, but now 30"):
        train(TinyStage(), tmp_path, steps=30)
    with pytest.raises(UserError, match=r"data\.batches"):
        train(TinyStage(num_rows=50), tmp_path, steps=20)
    with pytest.raises(UserError, match=r"model\.num_trained_parameters"):
        train(TinyStage(width=17), tmp_path, steps=20)
    config = TrainingConfig(steps=20, lr=0.01, precision="fp32")
    with pytest.raises(UserError, match=r'autoencoder = nothing, but now "base-en"'):
        train_stage(TinyStage(), config, tmp_path, identity={"autoencoder": "base-en"}, log=lambda line: None)
    result = train(TinyStage(), tmp_path, steps=20, save_every_seconds=1, validate_every=0)
    assert result.step == 20


def test_stages_share_a_run_folder(tmp_path: Path) -> None:
    """Each keeps its rows when another begins or goes on."""
    train(TinyStage(), tmp_path, steps=50, gradient_accumulation=2)
    second = TinyStage()
    second.name = "decoder"
    train(second, tmp_path, steps=50)
    assert [row["stage"] for row in rows(tmp_path) if "loss" in row] == ["diffusion", "decoder"]


def test_the_callers_random_numbers_go_on_as_if_nothing_was_trained(tmp_path: Path) -> None:
    """A library call that seeds the global generators would make the caller's own numbers repeat."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(TinyStage(), tmp_path, steps=3)
    assert torch.equal(torch.rand(3), expected)


# ------------------------------------------------------------------------------------------------ what goes wrong


class Broken(TinyStage):
    """Its loss is not finite at chosen batches."""

    def __init__(self, bad: range, value: float = math.nan) -> None:
        super().__init__()
        self.bad, self.value, self.calls = bad, value, 0

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        loss, metrics = super().loss(batch)
        self.calls += 1
        return (loss * self.value if self.calls in self.bad else loss), metrics


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped(tmp_path: Path, value: float) -> None:
    """Weights and moments stay as they were; the row's loss is the mean of the others, and it is said."""
    lines: list[str] = []
    result = train(Broken(range(10, 15), value), tmp_path, lines, steps=50)
    assert all(bool(tensor.isfinite().all()) for tensor in result.state.values())
    row = rows(tmp_path)[-2]
    assert row["num_skipped"] == 5
    assert math.isfinite(row["loss"])
    assert any("5 steps skipped" in line for line in lines)


def test_a_skipped_step_leaves_the_weights_alone(tmp_path: Path) -> None:
    """Adam's momentum would otherwise go on moving them."""
    stage = Broken(range(2, 100))
    before: list[Tensor] = []

    def remember(batch_spec: list[int]) -> dict[str, Tensor]:
        before.append(stage.module[0].weight.detach().clone())
        return TinyStage.load(stage, batch_spec)

    stage.load = remember  # type: ignore[method-assign]
    train(stage, tmp_path, steps=6, warmup=0)
    assert not torch.equal(before[0], before[1])
    assert all(torch.equal(before[1], weight) for weight in before[2:])


def test_twenty_such_steps_in_a_row_end_the_training(tmp_path: Path) -> None:
    """With advice, instead of hours of nothing."""
    with pytest.raises(LadleError, match=r"not finite in 20 steps in a row \(step 34\).*training\.optimiser\.lr.*fp32"):
        train(Broken(range(15, 1000)), tmp_path, steps=100)


def test_collapsed_samples_are_said_aloud(tmp_path: Path) -> None:
    """Where the user looks, with stage and step."""
    lines: list[str] = []
    train(TinyStage(texts=["the the the the"] * 8), tmp_path, lines, steps=10, sample_every=0)
    warnings = [line for line in lines if line.startswith("warning: diffusion, step 10: ")]
    assert len(warnings) == 3  # not distinct, one text, repeats itself


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], []),
        (["a fine sentence of words", "and a second one here", "a third one is here"], []),
        (["你好世界今天天气很好", "我们去公园散步吧朋友"], []),
        (["", " ", "a real text here"], ["67% of 3 samples are empty"]),
        (["same old text here"] * 2 + ["b c d e", "f g h i", "j k l m"], []),
        (
            ["same old text here"] * 3 + [f"text number {i} of many" for i in range(7)],
            ["30% of 10 samples are the same"],
        ),
        (["good good good good bad", "x x x x x x"], ["one word makes up 90%"]),
        (["哈哈哈哈哈哈哈哈哈", "啊啊啊啊啊啊啊啊"], ["one word makes up 100%"]),
    ],
)
def test_collapse_is_told_from_life(texts: list[str], expected: list[str]) -> None:
    """Warnings that come too often are not read."""
    warnings = collapse_warnings(texts)
    assert len(warnings) == len(expected), warnings
    assert all(part in warning for part, warning in zip(expected, warnings, strict=True))


def test_sample_statistics_of_none_are_none() -> None:
    """A stage without samples has no shares, rather than shares of zero."""
    assert sample_statistics([]) == {}


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_learning_rate_schedules_start_at_one_and_never_rise(name: str) -> None:
    """Each is a share of `lr`, by progress, so that it works for steps and for minutes."""
    values = [LR_SCHEDULES[name](i / 100, 0.3) for i in range(101)]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(1 if name == "constant" else 0)


def test_the_trapezoid_comes_down_over_its_cooldown() -> None:
    config = TrainingConfig(steps=10, warmup=0, lr_schedule="trapezoid", cooldown=0.5)
    assert [lr_factor(config, 0, p) for p in (0, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]


def test_warmup_is_a_share_or_a_number_of_steps() -> None:
    """Both end at the full learning rate."""
    share = TrainingConfig(minutes=1, warmup=0.1, lr_schedule="constant")
    assert [lr_factor(share, 0, p) for p in (0, 0.05, 0.1, 0.5)] == [0, 0.5, 1, 1]
    steps = TrainingConfig(steps=100, warmup=4, lr_schedule="constant")
    assert [lr_factor(steps, n, n / 100) for n in (0, 1, 3, 50)] == [0.25, 0.5, 1, 1]
    assert lr_factor(TrainingConfig(steps=1, warmup=0), 0, 0.0) == 1


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({}, "give either steps or minutes"),
        ({"steps": 1, "minutes": 1}, "give either steps or minutes"),
        ({"steps": 0}, "steps: must be greater than or equal to 1"),
        ({"minutes": 0}, "minutes: must be greater than 0"),
        ({"steps": 1, "lr": -1}, "lr: "),
        ({"steps": 1, "lr_schedule": "step"}, "lr_schedule: "),
        ({"steps": 1, "betas": [0.9, 1.0]}, "betas: "),
        ({"steps": 1, "warm_up": 1}, "did you mean 'warmup'?"),
    ],
)
def test_wrong_settings_are_refused_by_name(values: dict[str, Any], part: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(UserError) as caught:
        TrainingConfig.parse(values, "recipe.toml")
    assert part in str(caught.value)


# ------------------------------------------------------------------------------------------------ what is shown


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    """On a real pseudo-terminal."""
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as stream, Progress("diffusion", 0.25, stream=stream) as progress:
        time.sleep(0.15)
        progress.update(0.5, 100, lambda: 0.1234)
    shown = b""
    with contextlib.suppress(OSError):  # a pseudo-terminal ends with an error
        while part := os.read(reader, 10_000):
            shown += part
    os.close(reader)
    shown = shown.decode()
    assert "diffusion  50 %|" in shown
    assert "left" in shown


def test_elsewhere_a_line_a_minute_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log file is not filled with bars; the loss is read only when it is shown."""
    lines: list[str] = []
    with (tmp_path / "log").open("w") as stream, Progress("diffusion", 0.0, lines.append, stream=stream) as progress:
        progress.update(0.1, 10, lambda: pytest.fail("read too early"))
        monkeypatch.setattr("ladle.training.progress.LINE_SECONDS", 0.0)  # the minute is over
        progress.update(0.5, 50, lambda: 0.12345)
        monkeypatch.undo()
        progress.update(0.6, 60, lambda: pytest.fail("read too early"))
    assert len(lines) == 1
    assert re.fullmatch(r"diffusion: 50 %, step 50, loss 0\.1235, \d+ s left", lines[0])
    assert (tmp_path / "log").read_text() == ""


def test_every_step_can_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the one whose losses have just gone into a row of metrics.jsonl."""
    monkeypatch.setattr("ladle.training.progress.LINE_SECONDS", 0.0)
    lines: list[str] = []
    train(TinyStage(), tmp_path, lines, steps=101, validate_every=0, sample_every=0)
    assert len(lines) == 103  # one to begin, one to end
    assert lines[0] == "diffusion: training 0.00M parameters on cpu, fp32, adamw at 0.01, 101 steps"
    loss = rows(tmp_path)[0]["loss"]
    assert lines[50].startswith(f"diffusion: 50 %, step 50, loss {loss:.4g}, ")


def test_durations_read_as_people_say_them() -> None:
    """Never `0.0 h`."""
    assert [duration(seconds) for seconds in (5, 600, 3900)] == ["5 s", "10 min", "1 h 05 min"]


KILLED = """
import os, sys
from ladle.storage.writing import write_atomically
write_atomically(sys.argv[1], lambda temporary: (temporary.write_text("half"), os.kill(os.getpid(), 9)))
"""


def test_rows_after_the_restored_state_are_dropped(tmp_path: Path) -> None:
    """With a line and a file cut off by the kill, and never another stage's rows."""
    record = Record(tmp_path, "diffusion")
    record.row({"step": 50, "loss": math.nan})
    Record(tmp_path, "decoder").row({"step": 50, "loss": 1.0})
    record.row({"step": 100, "loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "diffu')
    record.samples(50, ["early"])
    record.samples(100, ["late"])
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "samples" / "diffusion-150.jsonl"], check=False)
    assert done.returncode == -signal.SIGKILL and len(list((tmp_path / "samples").iterdir())) == 3
    assert Record(tmp_path, "diffusion", num_rows=1, step=50).num_rows == 1
    assert [(row["stage"], row["step"]) for row in rows(tmp_path)] == [("diffusion", 50), ("decoder", 50)]
    assert rows(tmp_path)[0]["loss"] is None  # JSON has no NaN
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["diffusion-50.jsonl"]
