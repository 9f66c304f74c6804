"""What `ladle inspect` prints: a model's parts and sizes, what it learnt from, its latents' statistics."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ladle.storage.model_folder import CHANGES, load_parts
from ladle.storage.names import resolve_model
from ladle.storage.parts import ModelParts
from ladle.storage.record import ModelRecord, model_digest, read_record

_LABEL_WIDTH = 20


def describe(name_or_path: str) -> str:
    """Load a model and say in plain text what it is, several lines long.

    Raises:
        UserError: as `load_parts`: no such model, or a damaged folder.
    """
    folder = resolve_model(name_or_path)
    parts, record = load_parts(folder), read_record(folder)
    blocks = [
        _head(parts, record, folder),
        _table(_part_rows(parts, record, folder)),
        _fields(_text_fields(parts)),
        _fields(_statistics(parts)),
        _fields(_origin(parts.info)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _head(parts: ModelParts, record: ModelRecord, folder: Path) -> str:
    what = "autoencoder and diffusion model" if parts.diffusion is not None else "autoencoder, no diffusion model"
    built = f", built on {record.base.name}" if record.base is not None else ""
    return (
        f"{parts.name}: {what}{built}\n{folder}\n"
        f"digest {model_digest(folder)}, weights in {record.dtype}, format {record.format}, ladle {record.ladle}"
    )


def count_parameters(parts: ModelParts) -> int:
    """Of the autoencoder and, where there is one, the diffusion model; tied ones once."""
    return _count([parts.autoencoder, *([parts.diffusion] if parts.diffusion is not None else [])])


def _part_rows(parts: ModelParts, record: ModelRecord, folder: Path) -> list[tuple[str, str, str, str]]:
    """(part, what, parameters, size on disk) of every part, with a head and a sum."""
    autoencoder, diffusion = parts.autoencoder, parts.diffusion
    config, backbone = autoencoder.config, autoencoder.backbone
    bottleneck = config.bottleneck
    shape = f"{bottleneck.tokens_per_latent} tokens" if bottleneck.kind == "aligned" else "learned queries"
    entries: list[tuple[str, str, list[nn.Module], str]] = [
        ("backbone", type(backbone.model).__name__, [backbone.model], "backbone"),
        ("tokenizer", f"{len(backbone.tokenizer):,} tokens", [], "tokenizer"),
        ("bottleneck", f"{bottleneck.kind}, {shape} to a latent", [autoencoder.bottleneck], "bottleneck"),
    ]
    if autoencoder.parallel_decoder is not None:
        layers = config.parallel_layers
        entries.append(("parallel decoder", f"layers: {layers}", [autoencoder.parallel_decoder], "parallel_decoder"))
    if diffusion is not None:
        network = diffusion.config.denoiser
        what = f"layers: {network.num_layers}, width {network.width}, {diffusion.config.prediction}-prediction"
        entries.append(("denoiser", what, [diffusion.denoiser], "denoiser"))
        if diffusion.length is None:
            entries.append(("condition encoder", "", [diffusion.condition], "condition"))
        else:
            both: list[nn.Module] = [diffusion.condition, diffusion.length]
            entries.append(("condition encoder", "and length model", both, "condition"))
    rows = [("part", "what", "parameters", "on disk")]
    for name, what, modules, part in entries:
        size = _size(folder / part)
        stored = "in the base" if record.base is not None and not size else _megabytes(size)
        rows.append((name, what, f"{_count(modules):,}" if modules else "", stored))
    if (folder / CHANGES).is_file():
        rows.append(("changes", "of the base's autoencoder", "", _megabytes(_size(folder / CHANGES))))
    rows.append(("whole", "", f"{count_parameters(parts):,}", _megabytes(_size(folder))))
    return rows


def _text_fields(parts: ModelParts) -> Iterable[tuple[str, str]]:
    autoencoder, diffusion, sampling = parts.autoencoder, parts.diffusion, parts.sampling
    yield "longest text", f"{autoencoder.config.max_tokens} tokens, {autoencoder.max_latents} latents"
    decoders = ["autoregressive", *(["parallel"] if autoencoder.parallel_decoder is not None else [])]
    yield "decoders", ", ".join(decoders)
    if diffusion is None:
        return
    condition = diffusion.condition.config
    labels = f"label ({_first(condition.labels, 12)})" if condition.labels else ""
    source = f"source text (up to {condition.source.max_tokens} tokens)" if condition.source else ""
    yield "conditions", ", ".join(filter(None, (labels, source))) or "none"
    yield "noise schedule", f"{diffusion.config.schedule.kind}, shift {diffusion.config.schedule.shift:g}"
    yield (
        "sampled with",
        f"{sampling.sampler}, {sampling.num_inference_steps} steps, guidance scale {sampling.guidance_scale:g}, "
        f"{sampling.decoder} decoder (defaults)",
    )


def _statistics(parts: ModelParts) -> Iterable[tuple[str, str]]:
    """The normaliser's figures: each latent channel's mean and deviation over the training texts."""
    figures = parts.autoencoder.normaliser.state_dict()
    yield "latent channels", f"{len(figures['mean'])}, over the training texts:"
    yield "  mean", _spread(figures["mean"])
    yield "  deviation", _spread(figures["std"])


def _origin(info: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Where the model comes from, as `ladle.storage.card` names it; of nested settings only their place is said."""
    for key, value in info.items():
        label = {"data": "training data"}.get(key, key.replace("_", " "))
        if isinstance(value, Mapping) and key == "recipe":
            yield label, f"{value.get('name', '')} (in model.json, under info)"
        elif key == "figures":
            yield label, "in the card, README.md"
        elif value not in (None, "", [], {}):
            yield label, _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return "; ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else " ".join(str(value).split())


def _fields(fields: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{label:<{_LABEL_WIDTH}}{value}" for label, value in fields)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns under each other; the last two are numbers and stand to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[0] = max(widths[0], _LABEL_WIDTH - 2)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i >= len(row) - 2 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _first(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:count]) + (f", ... {len(names)} in all" if len(names) > count else "")


def _spread(values: Tensor) -> str:
    return f"{values.min():.3f} to {values.max():.3f}, median {values.median():.3f}"


def _count(modules: Iterable[nn.Module]) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is none."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"
