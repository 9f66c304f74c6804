"""Tensors and language models in files: only safetensors and JSON. Every error is one line."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle.errors import UserError, first_line
from ladle.storage.names import RECORD
from ladle.storage.writing import atomic_json

WEIGHTS = "model.safetensors"
WEIGHTS_8 = "model_int8.safetensors"  # (another name, so that transformers does not take the whole numbers for weights)
SCALE = ".scale"  # "NAME.scale" holds the scales of the matrix "NAME"
TOKENIZER_ORIGIN = {"is_local", "local_files_only", "name_or_path"}  # how it came here, which is no part of it


def save_language_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    names: tuple[str, str],
    dtype: torch.dtype,
    bits: Literal[8] | None = None,
) -> None:
    """Write transformers' own layout, so that transformers loads the two folders too. Tied weights are written once.
    bits: 8 writes the matrices as in `in_eight_bits`, which only Ladle reads."""
    if not tokenizer.is_fast:
        raise UserError(f"the {names[0]}'s tokenizer cannot be saved as tokenizer.json; convert it with transformers")
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], str(dtype).removeprefix("torch.")
    config.save_pretrained(folder / names[0])
    if model.can_generate():
        model.generation_config.save_pretrained(folder / names[0])
    if bits is None:
        save_tensors(live_tensors(model), folder / names[0] / WEIGHTS, dtype)
    else:
        write_file(in_eight_bits(live_tensors(model), dtype), folder / names[0] / WEIGHTS_8)
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
    in_eight = (folder / names[0] / WEIGHTS_8).is_file()
    path = folder / names[0] / (WEIGHTS_8 if in_eight else WEIGHTS)
    fill(model.state_dict(keep_vars=True), read_tensors(path), path)
    return model, tokenizer


def save_tensors(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write tensors, converted by `stored`, to a safetensors file."""
    write_file({name: stored(name, tensor, dtype) for name, tensor in tensors.items()}, path)


def write_file(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as they are to a safetensors file."""
    save_file(dict(tensors), path, metadata={"format": "pt"})


def stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as it is written. The normaliser's values scale every latent, so they are not rounded."""
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    stored = tensor.to(torch.float32 if name.startswith("normaliser.") else dtype)
    if not torch.equal(stored.isfinite(), tensor.isfinite()):
        raise UserError(f"the weights '{name}' are too large for {dtype}; save as bfloat16 or float32")
    return stored


def in_eight_bits(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Each matrix [R, C] as whole numbers from -127 to 127 (int8) and a scale for each row ([R], float32), beside it as
    "NAME.scale". Other tensors are converted by `stored`. The largest number of a row becomes 127 or -127.

    What was read from 8 bits is written in the same 8 bits again, because (127 s) / 127 is s in float32 for every scale
    s that is itself a quotient by 127 (true of all 2^23 significands, by trial).

    Raises UserError: a weight is not finite, or too large for `dtype`.
    """
    found = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or not tensor.is_floating_point():
            found[name] = stored(name, tensor, dtype)
            continue
        matrix = tensor.detach().cpu().float()
        if not matrix.isfinite().all():
            raise UserError(f"the weights '{name}' are not all finite, so they cannot be saved in 8 bits")
        scale = matrix.abs().amax(1) / 127
        scale[scale == 0] = 1.0
        found[name] = (matrix / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        found[name + SCALE] = scale
    return found


def from_eight_bits(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors read from `path`, with the matrices of `in_eight_bits` in float32. Raises UserError: a matrix without
    scales, scales of another dtype or shape."""
    found = dict(tensors)
    for name, numbers in tensors.items():
        if numbers.dtype != torch.int8:
            continue
        scale = found.pop(name + SCALE, None)
        if scale is None:
            raise UserError(
                f"{path}: the scales of tensor '{name}' are missing; copy or download the model folder again"
            )
        if numbers.ndim != 2 or scale.dtype != torch.float32 or scale.shape != numbers.shape[:1]:
            raise UserError(
                f"{path}: tensor '{name}' has shape {list(numbers.shape)} in 8 bits, "
                f"which does not go with scales of shape {list(scale.shape)} in {scale.dtype}"
            )
        found[name] = numbers * scale[:, None]
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, those in 8 bits in float32. Raises UserError: missing, cut short, unreadable,
    numbers in 8 bits without their scales."""
    try:
        return from_eight_bits(load_file(path), path)
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
        if tensor.is_floating_point() != targets[name].is_floating_point():
            raise UserError(
                f"{path}: tensor '{name}' is in {tensor.dtype}, "
                f"but the model in {RECORD} needs {targets[name].dtype}; copy or download the model folder again"
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
