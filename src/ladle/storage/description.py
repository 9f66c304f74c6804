"""The output of `ladle inspect`: a model's parts and sizes, its training data, its latents' statistics."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ladle.storage.model_folder import CHANGES, load_parts
from ladle.storage.names import resolve_model
from ladle.storage.parts import ModelParts, count_parameters, list_parts
from ladle.storage.record import SENTENCE_ENCODER, ModelRecord, model_digest, read_record, written_files

_LABEL_WIDTH = 20
_LABELS_SHOWN = 12


def describe(name_or_path: str) -> str:
    """Load a model and describe it in several lines of plain text. Raises UserError as `load_parts`."""
    folder = resolve_model(name_or_path)
    parts, record = load_parts(folder), read_record(folder)
    what = "autoencoder and diffusion model" if parts.diffusion is not None else "autoencoder, no diffusion model"
    built = f", built on {record.base.name}" if record.base is not None else ""
    weights = record.dtype + (" (the sentence encoder's in 8 bits)" if record.encoder_in_8_bits else "")
    head = (
        f"{parts.name}: {what}{built}\n{folder}\n"
        f"digest {model_digest(folder)}, weights in {weights}, format {record.format}, ladle {record.ladle}"
    )
    rows = list(_part_rows(parts, record, folder))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        f"{name:<{_LABEL_WIDTH}}{what:<{widths[1]}}  {count:>{widths[2]}}  {size:>{widths[3]}}".rstrip()
        for name, what, count, size in rows
    ]
    fields = (
        "\n".join(f"{label:<{_LABEL_WIDTH}}{value}" for label, value in group)
        for group in (_text_fields(parts), _statistics(parts), _origin(parts.info))
    )
    return "\n\n".join(block for block in (head, "\n".join(table), *fields) if block)


def _part_rows(parts: ModelParts, record: ModelRecord, folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """(part, description, parameters, size on disk) of every part, with a header and a total."""
    yield "part", "what", "parameters", "on disk"
    for part in list_parts(parts):
        size = _size(folder / part.folder) if part.folder else 0
        stored = "in the base" if record.base is not None and not size else _megabytes(size)
        if record.encoder is not None and part.folder == SENTENCE_ENCODER[0]:
            stored = f"in {record.encoder.name}"
        count = f"{part.num_parameters:,}" if part.module is not None else ""
        yield part.name, part.what, count, stored if part.folder else ""
    if (folder / CHANGES).is_file():
        yield "changes", "of the base's autoencoder", "", _megabytes(_size(folder / CHANGES))
    size = sum(_size(folder / name) for name in written_files(folder))  # (without what others put there)
    yield "whole", "", f"{count_parameters(parts):,}", _megabytes(size)


def _text_fields(parts: ModelParts) -> Iterator[tuple[str, str]]:
    autoencoder, diffusion, sampling = parts.autoencoder, parts.diffusion, parts.sampling
    yield "longest text", f"{autoencoder.config.max_tokens} tokens, {autoencoder.max_latents} latents"
    yield "decoders", "autoregressive" + (", parallel" if autoencoder.parallel_decoder is not None else "")
    if diffusion is None:
        return
    names, source = diffusion.condition.config.labels, diffusion.condition.config.source
    conditions = [f"label ({_some(names)})"] if names else []
    conditions += [f"{name} ({_some(values)})" for name, values in diffusion.condition.config.attributes.items()]
    conditions += [f"source text (up to {source.max_tokens} tokens)"] if source else []
    yield "conditions", ", ".join(conditions) or "none"
    yield "noise schedule", f"{diffusion.config.schedule.kind}, shift {diffusion.config.schedule.shift:g}"
    yield (
        "sampled with",
        f"{sampling.sampler}, {sampling.num_inference_steps} steps, guidance scale {sampling.guidance_scale:g}, "
        f"{sampling.decoder} decoder (defaults)",
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LABELS_SHOWN])
    return shown + (f", ... {len(names)} in all" if len(names) > _LABELS_SHOWN else "")


def _statistics(parts: ModelParts) -> Iterator[tuple[str, str]]:
    """The normaliser's figures: each latent channel's mean and deviation over the training texts."""
    figures = parts.autoencoder.normaliser.state_dict()
    yield "latent channels", f"{len(figures['mean'])}, over the training texts:"
    yield "  mean", _spread(figures["mean"])
    yield "  deviation", _spread(figures["std"])


def _origin(info: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The origin of the model, under the names of `ladle.storage.card`."""
    for key, value in info.items():
        label = "training data" if key == "data" else key.replace("_", " ")
        if key == "figures":
            yield label, "in the card, README.md"
        elif value not in (None, "", [], {}):
            yield label, _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return "; ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else " ".join(str(value).split())


def _spread(values: Tensor) -> str:
    return f"{values.min():.3f} to {values.max():.3f}, median {values.median():.3f}"


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 if it does not exist."""
    files: Iterable[Path] = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"
