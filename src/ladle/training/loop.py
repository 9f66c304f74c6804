"""The training loop of all stages, on accelerate. Its budget is in steps or minutes, and it can resume at any moment.

A stage has batches, a loss, a validation and samples. The loop does everything that stages have in common: device and
precision, processes, accumulation, clipping, learning rate, EMA, run state, progress, metrics and signals.
"""

import gc
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ladle.config import Config
from ladle.data.rows import counted
from ladle.errors import LadleError, UserError
from ladle.memory import return_freed_memory
from ladle.training.best_weights import BestWeights
from ladle.training.ema import EMA
from ladle.training.interrupts import Interrupts
from ladle.training.metrics_file import Record
from ladle.training.optimiser import FREE_SETTINGS, TrainingConfig, build_optimizer, lr_factor, use_bf16
from ladle.training.processes import Processes, main_first
from ladle.training.progress import Log, Progress, collapse_warnings, duration, mean, sample_statistics, say
from ladle.training.sharding import dissolve, gathered, is_sharded, shard, whole
from ladle.training.stages.interface import Objective, Stage, set_modes
from ladle.training.state import (
    Position,
    StateFolder,
    describe_module,
    digest,
    preserved_random,
    seed_all,
    trained_tensors,
)

MAX_BAD_STEPS = 20  # the training fails after so many steps in a row with a loss or gradient that is not finite
LOG_EVERY = 50  # steps for each row of metrics.jsonl
COLLECT_AFTER = 10  # seconds of training; what a shorter one held is little, and Python's collector is slow


@dataclass(frozen=True)
class TrainingResult:
    """A finished stage. Its module holds the same averaged weights and is in eval mode."""

    state: dict[str, Tensor]
    """Averaged parameters and buffers by name, on the module's device."""
    metrics: dict[str, float]
    """The last validation (with `keep_best` the best one), and the last training loss as `loss`."""
    step: int
    seconds: float


def train_stage(
    stage: Stage, config: TrainingConfig, run_dir: Path, *, identity: Mapping[str, Any] | None = None, log: Log = say
) -> TrainingResult:
    """Train a stage until its budget is spent. Continues from the state in `run_dir` if there is one.

    Writes `state/<stage>/`, rows of `metrics.jsonl` and `samples/<stage>-<step>.jsonl` under `run_dir`. A finished
    stage is loaded and returned at once. On SIGINT or SIGTERM the step is finished, the state is saved, and
    KeyboardInterrupt is raised. In float32 on a CPU, an interrupted and resumed training gives exactly the weights of
    an uninterrupted one. The caller's random generators do not change. Each of P processes (torchrun) takes its own
    batches. A step then has P times `gradient_accumulation` batches, as in one process that accumulates so many.

    Args:
        identity: other values that define the run: configs (the model's), or JSON values (a digest of the data).
            Settings, the batches of the first epoch and the shapes of the module are always compared. A setting that
            is missing in an older state counts as having its default.
        log: receives messages for the user (default: standard error).

    Raises:
        UserError: the state belongs to other settings, data or model; no data.
        LadleError: the state is damaged or cannot be written; the loss is not finite many times in a row.
        ValueError: the module has nothing to train.
    """
    if not any(parameter.requires_grad for parameter in stage.module.parameters()):
        raise ValueError(f"{stage.name}: no parameter requires a gradient")
    folder = state_folder(stage.name, config, run_dir, identity or {})
    # (dots: beside what `identity` says of data and model)
    folder.identity["data.batches"] = digest(stage.batches(0))
    folder.identity |= {f"model.{key}": value for key, value in describe_module(stage.module).items()}
    with main_first():  # (it mends what a killed run left)
        finished = folder.finished(stage.module)
    if finished is not None:
        position, metrics = finished
        stage.module.eval()
        log(already_trained(stage.name, position))
        return TrainingResult(trained_tensors(stage.module), metrics, position.step, position.seconds)
    result = _Training(stage, config, run_dir, folder, log).train()
    if result.seconds >= COLLECT_AFTER:
        gc.collect()  # the optimiser and what it belongs to are in cycles, some of them torch's own
    return_freed_memory()  # gradients, the optimiser's state, activations: what comes next has other shapes
    return result


def already_trained(stage: str, position: Position) -> str:
    """What the log says of a finished stage."""
    return f"{stage}: already trained ({counted(position.step, 'step')}, {duration(position.seconds)})"


def state_folder(stage: str, config: TrainingConfig, run_dir: Path, identity: Mapping[str, Any]) -> StateFolder:
    """The folder of a stage's state, which knows the settings and `identity`, but not yet the module and batches."""
    configs = {key: value for key, value in identity.items() if isinstance(value, Config)} | {"training": config}
    given = {key: value.model_dump(mode="json") for key, value in configs.items()}
    given["training"] = config.model_dump(mode="json", exclude=FREE_SETTINGS)
    defaults = {key: type(value).model_construct().model_dump(mode="json") for key, value in configs.items()}
    return StateFolder(run_dir / "state" / stage, {**identity, **given}, defaults)


class _Training:
    """One call of `train_stage` on an unfinished stage."""

    def __init__(self, stage: Stage, config: TrainingConfig, run_dir: Path, folder: StateFolder, log: Log) -> None:
        from accelerate import Accelerator  # two seconds that a finished stage does not need
        from accelerate.utils import DistributedDataParallelKwargs

        self.stage, self.config, self.folder = stage, config, folder
        # Accelerate would fix the precision for the whole process, but stages may differ in it.
        self.accelerator = Accelerator(
            mixed_precision="no",
            gradient_accumulation_steps=config.gradient_accumulation,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # what is dropped at random
        )
        self.device = self.accelerator.device
        self.processes = Processes(self.device)
        if self.processes.count != self.accelerator.num_processes:
            seen = self.accelerator.num_processes
            raise LadleError(f"started as {self.processes.count} processes, but accelerate sees {seen}; use torchrun")
        self.log = log if self.processes.main else lambda line: None
        self.bf16 = use_bf16(config.precision, self.device)
        self.sharded = is_sharded()
        self.agreed = False  # whether all processes agreed to stop at this step: they can only save together
        objective = Objective(stage, self.autocast, self.sharded)
        self.objective = shard(objective, self.device) if self.sharded else self.accelerator.prepare_model(objective)
        self.folder.writes = self.processes.main
        self.trained = [parameter for parameter in stage.module.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(stage.module, config)
        self.ema = EMA(stage.module, config.ema_decay)
        self.run_dir = run_dir
        self.bad_steps = torch.zeros((), device=self.device)  # not finite, in a row

    def train(self) -> TrainingResult:
        stream = None if self.processes.main else io.StringIO()
        with preserved_random(self.device), Interrupts() as self.signals:
            self._start()
            with closing(self.record), Progress(self.stage.name, self.share, self.log, stream=stream) as progress:
                try:
                    self._look()  # an earlier run may have stopped between a step and the work due after it
                    while self.share < 1 and not self.best.out_of_patience:
                        self._tick()
                        with self.signals.held():
                            self._train_step()
                            self._tick()
                            self.agreed = self.signals.received = self.processes.any(self.signals.received)
                            self._report(progress)
                        self._look()
                    with self.signals.held():
                        if self.position.window:
                            self._write_row()
                    self._save()
                    # (out of patience: validated at this very step)
                    metrics = {} if self.best.out_of_patience else self._validate()
                    metrics = self.best.restore(self.stage.module, self.ema) or metrics
                    self._sample()
                except KeyboardInterrupt:
                    if not self.signals.inside and (self.agreed or self.processes.count == 1):
                        self._save()
                    raise
            if self.position.loss is not None:
                metrics = {"loss": self.position.loss} | metrics
            return self._finish(metrics)

    # ---------------------------------------------------------------------------------------- the course of it

    def _start(self) -> None:
        with main_first():
            restored = self.folder.restore(self.stage.module, self.optimizer, self.ema)
        self.position = restored or Position()
        self._leave_window_to_main()
        self.began = time.monotonic() - self.position.seconds
        self.saved_at, self.save_cost = time.monotonic(), 0.0
        self.saved_step = self.position.step
        self.best = BestWeights(self.config, self.position, self.folder.best())
        self.specs = self.stage.batches(self.position.epoch)
        if not len(self.specs):
            raise UserError(f"{self.stage.name}: there is nothing to train on (0 batches); give more rows")
        position, main = self.position, self.processes.main
        self.record = Record(
            self.run_dir, self.stage.name, position.num_rows, position.step, self.config.trackers, writes=main
        )
        set_modes(self.stage.module)
        size = sum(parameter.numel() for parameter in self.trained) / 1e6
        budget = counted(self.config.steps, "step") if self.config.steps else duration(60 * (self.config.minutes or 0))
        where = f"{self.device.type}, {'bf16' if self.bf16 else 'fp32'}, {self.config.optimizer} at {self.config.lr:g}"
        come = f", continued from step {self.position.step} ({self.share:.0%})" if restored else ""
        self.log(f"{self.stage.name}: training {size:.2f}M parameters on {where}, {budget}{come}")

    def _train_step(self) -> None:
        from accelerate.utils import send_to_device

        position, window = self.position, self.position.window
        # The middle of the step, so that neither the first nor the last is wasted on a learning rate of 0.
        self.stage.progress = (position.step + 0.5) / self.config.steps if self.config.steps else self.share
        factor = lr_factor(self.config, position.step, self.stage.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        loss_sum: Tensor | float = 0.0
        for number in range(self.config.gradient_accumulation):
            own = number * self.processes.count + self.processes.rank  # of the step's batches in all processes
            seed_all(_batch_seed(self.config.seed, position.step, own))
            batch = send_to_device(self._next_batch(), self.device, non_blocking=True)
            with self.accelerator.accumulate(self.objective):
                loss, metrics = self.objective(batch)
                self.accelerator.backward(loss)
            loss_sum = loss_sum + loss.detach()
            for name, value in {"loss": loss, **metrics}.items():
                # Kept as tensors: reading a number would make a GPU wait at every step.
                window.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)
        norm = whole(nn.utils.clip_grad_norm_(self.trained, self.config.grad_clip or math.inf))
        window.setdefault("grad_norm", []).append(norm)
        bad = self.processes.worst(1.0 - torch.isfinite(norm + loss_sum).float().to(self.device))
        self.bad_steps = (self.bad_steps + 1) * bad
        window.setdefault("skipped", []).append(bad)
        # The fused step (GradScaler's way) does nothing where this is 1, without a look from here.
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()
        position.step += 1

    def _report(self, progress: Progress) -> None:
        step = self.position.step
        read_now = self.device.type == "cpu" or step % MAX_BAD_STEPS == 0  # reading a number makes a GPU wait
        if read_now and float(self.bad_steps) >= MAX_BAD_STEPS:
            what = f"{self.stage.name}: loss or gradient was not finite in {MAX_BAD_STEPS} steps in a row (step {step})"
            lower = f"a lower training.optimiser.lr than {self.config.lr:g}"
            raise LadleError(f"{what}; give {lower} or training.precision=fp32, and another --output")
        if step % LOG_EVERY == 0:
            self._write_row()
        progress.update(self.share, step, self._recent_loss)

    def _look(self) -> None:
        """Validate, sample and save if it is time. (The end of the training does all of them anyway.)"""
        if self.share == 1:
            return
        if _due(self.config.validate_every, self.position.validated, self._now):
            self._validate()
        if _due(self.config.sample_every, self.position.sampled, self._now):
            self._sample()
        # A large state on a slow disk is saved less often, so that saving takes at most a tenth of the time.
        due = time.monotonic() - self.saved_at >= max(self.config.save_every_seconds, 10 * self.save_cost)
        if self.processes.of_main(due):
            self._save()
            return_freed_memory()  # batches of many shapes leave holes between the blocks in use

    def _finish(self, metrics: dict[str, float]) -> TrainingResult:
        position, module = self.position, self.stage.module
        self.ema.copy_to_module()
        dissolve(module)
        module.eval()
        self.folder.finish(position, module, self.ema, metrics)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        steps = counted(position.step, "step")
        self.log(f"{self.stage.name}: done, {steps} in {duration(position.seconds)}, {figures}")
        return TrainingResult(trained_tensors(module), metrics, position.step, position.seconds)

    # ---------------------------------------------------------------------------------------- its parts

    @property
    def share(self) -> float:
        """The share of the budget that is used up, at most 1."""
        if self.config.steps:
            return min(1.0, self.position.step / self.config.steps)
        return min(1.0, self.position.seconds / (60 * (self.config.minutes or math.inf)))

    @property
    def _now(self) -> list[float]:
        """Share of the budget and seconds at the last tick."""
        return [self.share, self.position.seconds]

    def _tick(self) -> None:
        """Bring the position's clock up to now."""
        self.position.seconds = self.processes.of_main(time.monotonic() - self.began)

    def _recent_loss(self) -> float | None:
        values = self.position.window.get("loss")
        return mean(_floats(values)) if values else self.position.loss

    def autocast(self) -> torch.autocast:
        """The precision of everything that calls the module."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _next_batch(self) -> Any:
        """This process's next batch. The processes take batches in turn."""
        position, batch = self.position, None
        for rank in range(self.processes.count):
            if position.batch == len(self.specs):
                position.epoch, position.batch = position.epoch + 1, 0
                self.specs = self.stage.batches(position.epoch)
            if rank == self.processes.rank:
                batch = self.stage.load(self.specs[position.batch])  # now: the next epoch may be of other rows
            position.batch += 1
        return batch

    def _write_row(self) -> None:
        position = self.position
        window = self._window_of_all()
        num_tokens = sum(window.pop("num_tokens", []))
        num_skipped = round(sum(window.pop("skipped")) / self.processes.count)
        values: dict[str, Any] = {"step": position.step, "epoch": position.epoch, "progress": self.share}
        values |= {name: mean(numbers) for name, numbers in window.items()}
        values |= {"lr": self.optimizer.param_groups[-1]["lr"], "seconds": round(position.seconds, 3)}
        if num_tokens:
            values["tokens_per_second"] = round(num_tokens / max(position.seconds - position.window_start, 1e-6), 1)
        if num_skipped:
            values["num_skipped"] = num_skipped
            self.log(f"warning: {self.stage.name}, step {position.step}: {num_skipped} steps skipped: not finite")
        self.record.row(values)
        position.window, position.window_start, position.loss = {}, position.seconds, values["loss"]

    def _validate(self) -> dict[str, float]:
        metrics = {}
        with self._averaged() as here:
            if here:
                metrics = {name: float(value) for name, value in self.stage.validate().items()}
        metrics = self.processes.of_main(metrics)
        with self.signals.held():  # all of it or nothing: what is interrupted is done again
            if metrics:
                self._event({"validation": metrics})
            self.best.compare(self.stage.name, metrics, self.stage.module, self.ema)
            self.position.validated = self._now
        return metrics

    def _sample(self) -> None:
        texts: list[str] = []
        with self._averaged() as here:
            if here:
                texts = self.stage.sample()
        with self.signals.held():
            if texts:
                self.record.samples(self.position.step, texts)
                self._event({"samples": sample_statistics(texts)})
            self.position.sampled = self._now
        for warning in collapse_warnings(texts):
            self.log(f"warning: {self.stage.name}, step {self.position.step}: {warning}")

    def _event(self, values: dict[str, Any]) -> None:
        position = self.position
        seconds = round(time.monotonic() - self.began, 3)
        self.record.row({"step": position.step, "epoch": position.epoch, **values, "seconds": seconds})

    @contextmanager
    def _averaged(self) -> Iterator[bool]:
        """Averaged weights, eval mode, no gradients, and the same random numbers every time.

        Yields whether this process should use them.
        """
        module = self.stage.module
        with self.ema.applied(), gathered(self.objective), torch.no_grad(), self.autocast():
            seed_all(self.config.seed)
            module.eval()
            try:
                yield self.processes.main
            finally:
                set_modes(module)

    def _save(self) -> None:
        if self.position.step == self.saved_step:
            return
        began = time.monotonic()
        self.position.seconds = began - self.began
        self.position.num_rows = self.record.num_rows
        self.position.window = self._window_of_all()
        self.folder.save(self.position, self.stage.module, self.optimizer, self.ema, self.best.tensors)
        self.saved_at, self.saved_step = time.monotonic(), self.position.step
        self.save_cost = self.saved_at - began
        self._leave_window_to_main()

    def _window_of_all(self) -> dict[str, list[float]]:
        return self.processes.together({name: _floats(values) for name, values in self.position.window.items()})

    def _leave_window_to_main(self) -> None:
        if not self.processes.main:
            self.position.window = {name: [] for name in self.position.window}


def _batch_seed(seed: int, step: int, number: int) -> int:
    """The seed of the random numbers of a batch, the `number`th of an optimiser step."""
    return int(np.random.SeedSequence([seed, step, number]).generate_state(1)[0])


def _due(every: float, before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a multiple of `every` lies between two moments, each (share of the budget, seconds)."""
    if not every:
        return False
    kind = 0 if every <= 1 else 1
    return math.floor(after[kind] / every + 1e-9) > math.floor(before[kind] / every + 1e-9)


def _floats(values: Sequence[Tensor | float]) -> list[float]:
    return [float(value) for value in values]
