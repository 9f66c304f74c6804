"""The folder of a rival that has weights of its own: a record (JSON), weights (safetensors), possibly a tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ladle.errors import UserError, first_line
from ladle.storage.folders import atomic_folder, read_record
from ladle.storage.kinds import Kind
from ladle.storage.tensors import live_tensors, write_file
from ladle.storage.writing import atomic_json

WEIGHTS = "model.safetensors"
FORMAT = 1
Module = TypeVar("Module", bound=nn.Module)


def save_module(module: Any, folder: str | Path, kind: Kind, record: str, tokenizer: Any = None) -> None:
    """Write a module with a `config` and `info`, whole or not at all. record: the name of the JSON file.
    Raises as `atomic_folder`."""
    with atomic_folder(folder, kind=kind) as new:
        if tokenizer is not None:
            tokenizer.save_pretrained(new / "tokenizer")
        write_file({name: x.detach().cpu().contiguous() for name, x in live_tensors(module).items()}, new / WEIGHTS)
        values = {"format": FORMAT, "config": module.config.model_dump(mode="json"), "info": module.info}
        atomic_json(new / record, values)


def load_module(
    folder: str | Path, record: str, build: Callable[[dict[str, Any], Path], Module], what: str, remedy: str
) -> Module:
    """Read what `save_module` wrote, on the CPU, in eval mode.

    Args:
        build: the values of the config, and the folder -> the module. The caller's random numbers stay what they are.
        what: the module's name, and what to do where it cannot be loaded (`remedy`), for messages.

    Raises:
        UserError: a missing or damaged file, or one of a later version.
    """
    folder = Path(folder)
    try:
        known = read_record(folder, record, FORMAT)
        with torch.random.fork_rng(devices=()):
            module = build(known["config"], folder)
        module.load_state_dict(load_file(folder / WEIGHTS))
        module.info = known.get("info", {})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, UserError, SafetensorError) as error:
        raise UserError(f"cannot load the {what} in {folder}: {first_line(error)}; {remedy}") from None
    return module.eval()
