"""Run state: everything that a killed training needs to continue as if it had not been interrupted.

While a stage trains, `state/<stage>/` holds `model.safetensors` (trained parameters and buffers), `ema.safetensors`,
`optimizer.safetensors`, with `keep_best` also `best.safetensors`, and `state.json` (position, settings of the run).
When the stage is done, it holds only `ema.safetensors` and `state.json`. Random generators are not saved, because each
batch has its own seed. Frozen parameters are not saved, because they are loaded as at the start. Nothing is pickled.
The files are replaced together (`storage.folders.atomic_folder`).
"""

import hashlib
import json
import random
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ladle.errors import LadleError, UserError
from ladle.storage.folders import atomic_folder, recover_folder
from ladle.training.ema import EMA
from ladle.training.optimiser import OptimiserConfig
from ladle.training.sharding import like, whole

FORMAT = 1
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "best.safetensors")
Tensors = dict[str, Tensor]


@dataclass
class Position:
    """The position of a training, in optimiser steps and in the data."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch already used
    seconds: float = 0.0  # spent in the loop, over all its runs
    window: dict[str, list[Any]] = field(default_factory=dict)  # numbers since the last row of metrics.jsonl
    window_start: float = 0.0  # `seconds` at that row
    loss: float | None = None  # in that row
    num_rows: int = 0  # rows of this stage in metrics.jsonl
    validated: list[float] = field(default_factory=lambda: [0.0, 0.0])  # when last: share of the budget, seconds
    sampled: list[float] = field(default_factory=lambda: [0.0, 0.0])
    best: dict[str, float] | None = None  # the validation with the lowest value of `keep_best`
    num_stale: int = 0  # validations since


class StateFolder:
    """The state of one stage of one run, in `path`: `run/state/<stage>`.

    identity: the values that define the run (settings, data, model): JSON values, possibly nested. A state with another
    identity is refused. defaults: of settings that earlier versions did not have (see `check_identity`).
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        self.path, self.identity, self.defaults = path, dict(identity), defaults or {}
        self.writes = True  # False in processes that only bring their parts of tensors

    def save(
        self, position: Position, module: nn.Module, optimizer: Optimizer, ema: EMA, best: Tensors | None = None
    ) -> None:
        """Save the present state in place of the earlier one. `best`: the averages and buffers of `position.best`.

        Raises:
            LadleError: full disk or no permission; the earlier state is intact.
        """
        moments = _optimizer_tensors(module, optimizer)
        tensors = {"model": trained_tensors(module), "ema": ema.tensors(), "optimizer": moments}
        if best is not None:
            tensors["best"] = best
        self._write({"position": asdict(position), "ema_updates": ema.num_updates}, tensors)

    def restore(self, module: nn.Module, optimizer: Optimizer, ema: EMA) -> Position | None:
        """Fill the module, the optimiser and the averages; None when there is no state.

        Raises:
            UserError: the state was made with other settings, data or model.
            LadleError: the state is damaged.
        """
        values = self.read()
        if values is None:
            return None
        with self._saying_damaged():
            fill_module(module, self._tensors("model"))
            ema.load(self._tensors("ema"), values["ema_updates"])
            _load_optimizer(module, optimizer, self._tensors("optimizer"))
            return Position(**values["position"])

    def best(self) -> Tensors | None:
        """The tensors that `save` got as `best`; None if there are none.

        Raises:
            LadleError: the state is damaged.
        """
        with self._saying_damaged():
            return self._tensors("best") if (self.path / "best.safetensors").exists() else None

    def finish(self, position: Position, module: nn.Module, ema: EMA, metrics: Mapping[str, float]) -> None:
        """Mark the stage done. Only the averages, the buffers and the metrics are kept.

        Raises:
            LadleError: full disk or no permission; the earlier state is intact.
        """
        tensors = {"ema": trained_tensors(module) | ema.tensors()}
        self._write({"done": True, "position": asdict(position), "metrics": dict(metrics)}, tensors)

    def finished(self, module: nn.Module) -> tuple[Position, dict[str, float]] | None:
        """If the stage is done, put its averaged weights into the module. Returns its last position and its metrics.

        Raises:
            UserError, LadleError: as `restore`.
        """
        values = self.read()
        if values is None or not values.get("done"):
            return None
        with self._saying_damaged():
            fill_module(module, self._tensors("ema"))
            return Position(**values["position"]), dict(values["metrics"])

    def _write(self, values: dict[str, Any], tensors: dict[str, Tensors]) -> None:
        if not self.writes:  # (all processes must take part to make a whole tensor)
            for tensor in (tensor for group in tensors.values() for tensor in group.values()):
                whole(tensor.detach())
            return
        try:
            with atomic_folder(self.path, old=FILES) as folder:
                for file, group in tensors.items():
                    # Copies: safetensors refuses two names for one memory, and a view would drag its base along.
                    apart = {n: whole(t.detach()).to("cpu", copy=True).contiguous() for n, t in group.items()}
                    save_file(apart, folder / f"{file}.safetensors")
                values = {"format": FORMAT, "identity": self.identity, **values}
                (folder / "state.json").write_text(json.dumps(values), encoding="utf-8")
        except UserError:
            raise
        except LadleError as error:
            raise LadleError(f"{error}; the earlier state is intact: free disk space, run the same command") from error

    def read(self, later: tuple[str, ...] = ()) -> dict[str, Any] | None:
        """state.json, or None; refuses a state of other settings or data. `later`: beginnings of keys that are not
        known yet.

        Raises:
            UserError, LadleError: as `restore`.
        """
        recover_folder(self.path)
        if not any((self.path / name).exists() for name in ("state.json", *FILES)):
            return None
        with self._saying_damaged():
            values = json.loads((self.path / "state.json").read_text(encoding="utf-8"))
            found, stored = values["format"], values["identity"]
        if found != FORMAT:
            raise UserError(f"{self.path} has state format {found}; this ladle reads {FORMAT}; give another --output")
        check_identity(self.path, stored, self.identity, self.defaults, later)
        return values

    def _tensors(self, name: str) -> Tensors:
        return load_file(self.path / f"{name}.safetensors")

    @contextmanager
    def _saying_damaged(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            remedy = "delete that folder to train this stage again, or give another --output"
            raise LadleError(f"the training state in {self.path} is damaged ({reason}); {remedy}") from error


def check_identity(
    path: Path, stored: Mapping[str, Any], given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None,
    later: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Compare the stored identity of a state with the given one. A setting that `stored` lacks, because an earlier
    version did not have it, counts as having its value in `defaults`. `later`: beginnings of keys that do not count.

    Raises:
        UserError: the two differ. The message has the first key with both values, and the other keys.
    """
    old, new = flatten(stored), flatten(json.loads(json.dumps(given)))
    old = {key: value for key, value in flatten(defaults or {}).items() if key in new} | old
    differing = [key for key in old | new if old.get(key) != new.get(key) and not key.startswith(later)]
    if differing:
        was, now = _short(old.get(differing[0])), _short(new.get(differing[0]))
        key, *more = [_as_in_recipe(key, path.name) for key in differing[:6]]
        others = f" (also different: {', '.join(more)})" if more else ""
        remedy = "give the earlier values to continue that run, or another --output to start a new run"
        if (final := path / "final").is_dir():
            remedy += f"; to train its model further, give --set start={shlex.quote(str(final))} and another --output"
        raise UserError(f"{path} was started with {key} = {was}, but now {now} is given{others}; {remedy}")


def describe_module(module: nn.Module) -> dict[str, Any]:
    """A fingerprint of an architecture: the number of trained parameters, and a digest of names and shapes."""
    shapes = [[name, list(tensor.shape)] for name, tensor in trained_tensors(module).items()]
    count = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return {"num_trained_parameters": count, "shapes": digest(shapes)}


def digest(value: Any) -> str:
    """A short fingerprint of a JSON-like value. Arrays and tensors in it count as lists."""
    text = json.dumps(value, default=lambda item: item.tolist() if hasattr(item, "tolist") else repr(item))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Nested mappings as one mapping, with keys `group`, separator, `name`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{separator}{name}": item for name, item in flatten(value, separator).items()}
        else:
            flat[key] = value
    return flat


def trained_tensors(module: nn.Module) -> Tensors:
    """The parameters that require a gradient and the buffers that are saved, by name, detached, not copied."""
    parameters = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    saved = module.state_dict(keep_vars=True).keys()  # leaves out the buffers that are not to be saved
    return parameters | {name: buffer.detach() for name, buffer in module.named_buffers() if name in saved}


@torch.no_grad()
def fill_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors, named as in `trained_tensors`, into the module.

    Raises:
        KeyError: one is missing.
    """
    for name, target in trained_tensors(module).items():
        target.copy_(like(tensors[name], target))


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def preserved_random(device: torch.device) -> Iterator[None]:
    """Restore Python's, NumPy's and torch's generators after the block."""
    python, numpy, on_cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    accelerator = None if device.type == "cpu" else torch.get_device_module(device)
    on_device = None if accelerator is None else accelerator.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(on_cpu)
        if accelerator is not None:
            accelerator.set_rng_state(on_device)


# ------------------------------------------------------------------------------------------------------ helpers


def _optimizer_tensors(module: nn.Module, optimizer: Optimizer) -> Tensors:
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {f"{names[p]}/{key}": value for p, entries in optimizer.state.items() for key, value in entries.items()}


def _load_optimizer(module: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for full_name, tensor in tensors.items():
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        # (A number of steps is a scalar, whole in every process.)
        value = like(tensor, parameter) if tensor.shape == parameter.shape else tensor
        optimizer.state[parameter][key] = value.to(parameter.device)


def _as_in_recipe(key: str, stage: str) -> str:
    """The name in a recipe of a setting that a stage's state calls `key`."""
    name = key.removeprefix("training.")
    return f"training.{stage}.optimiser.{name}" if name in OptimiserConfig.model_fields else key


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
