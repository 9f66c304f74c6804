"""Tensors and language models in files: only safetensors and JSON. Every error is one line."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle.errors import UserError, first_line
from ladle.storage.names import RECORD
from ladle.storage.writing import atomic_json

WEIGHTS = "model.safetensors"
TOKENIZER_ORIGIN = {"is_local", "local_files_only", "name_or_path"}  # how it came here, which is no part of it


def save_language_model(model: Any, tokenizer: Any, folder: Path, names: tuple[str, str], dtype: torch.dtype) -> None:
    """Write transformers' own layout, so that transformers loads the two folders too. Tied weights are written once."""
    if not tokenizer.is_fast:
        raise UserError(f"the {names[0]}'s tokenizer cannot be saved as tokenizer.json; convert it with transformers")
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], str(dtype).removeprefix("torch.")
    config.save_pretrained(folder / names[0])
    if model.can_generate():
        model.generation_config.save_pretrained(folder / names[0])
    save_tensors(live_tensors(model), folder / names[0] / WEIGHTS, dtype)
    # The lengths of the last call's cutting and padding are no part of the model and would change its digest.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder / names[1])
    for path in (folder / names[1]).iterdir():
        if path.suffix != ".json":  # sentencepiece's own file, a chat template: tokenizer.json says it all
            path.unlink()
    path = folder / names[1] / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    atomic_json(path, {key: value for key, value in settings.items() if key not in TOKENIZER_ORIGIN})


def load_language_model(folder: Path, names: tuple[str, str], kind: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Model and tokenizer. Ladle reads the weights itself: no code in the folder is run, and no network is used.
    kind: config -> the transformers class that builds the model."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    import ladle.autoencoder.language_model  # noqa: F401 (registers Ladle's own)

    safe: dict[str, Any] = {"trust_remote_code": False}
    local: dict[str, Any] = {"local_files_only": True}
    where = folder / names[0]
    try:
        config = AutoConfig.from_pretrained(where, **safe, **local)
        model = kind(config).from_config(config, attn_implementation="eager", dtype=torch.float32, **safe)
        if model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(where, **local)
        where = folder / names[1]
        tokenizer = AutoTokenizer.from_pretrained(where, **safe, **local)
    except Exception as error:  # transformers and tokenizers raise errors of every kind for a malformed file
        raise UserError(f"{where} cannot be read: {first_line(error)}; copy the model folder again") from None
    path = folder / names[0] / WEIGHTS
    fill(model.state_dict(keep_vars=True), read_tensors(path), path)
    return model, tokenizer


def save_tensors(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write tensors, converted by `stored`, to a safetensors file."""
    save_file({name: stored(name, tensor, dtype) for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as it is written. The normaliser's values scale every latent, so they are not rounded."""
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    stored = tensor.to(torch.float32 if name.startswith("normaliser.") else dtype)
    if not torch.equal(stored.isfinite(), tensor.isfinite()):
        raise UserError(f"the weights '{name}' are too large for {dtype}; save as bfloat16 or float32")
    return stored


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError: missing, cut short, unreadable."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is cut short or damaged ({first_line(error)}); copy the model folder again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


@torch.no_grad()
def fill(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy `tensors`, read from `path`, into a module's `targets`. For tied tensors any one of the names is enough."""
    for name, tensor in tensors.items():
        if name not in targets:
            raise UserError(f"{path}: holds a tensor '{name}' that the model in {RECORD} does not have")
        if tensor.shape != targets[name].shape:
            raise UserError(
                f"{path}: tensor '{name}' has shape {list(tensor.shape)}, "
                f"but the model in {RECORD} needs {list(targets[name].shape)}"
            )
        targets[name].copy_(tensor)
    filled = {id(targets[name]) for name in tensors}
    for name, target in targets.items():
        if id(target) not in filled:
            raise UserError(f"{path}: tensor '{name}' is missing; copy or download the model folder again")


def live_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's saved tensors. Tied tensors come once, under their first name."""
    unique = {id(tensor): (name, tensor) for name, tensor in reversed(module.state_dict(keep_vars=True).items())}
    return dict(reversed(unique.values()))
