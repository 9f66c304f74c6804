"""The model card, README.md of a model folder: what the model is, its training data, its results and its use.

`ModelParts.info` holds facts that the weights do not hold. All keys are optional. Keys that are not listed here are
shown unchanged, so that nothing recorded is lost:

    summary      a sentence or two
    licence      SPDX name of the weights' licence, `cc-by-sa-4.0`
    language     ISO code, or a list of them
    tags         list, added to Ladle's own
    data         the training data: a text, or a list of texts or of {name, url, rows, licence, attribution, ...}
    attribution  names that the licence requires: a text or a list
    recipe       path or name of the recipe
    rows, minutes, steps, hardware    of the training
    figures      list of {metric, value, interval, n, seed, sampler, steps, data, command}, each as far as it applies;
                 or {metric: value}
    limits       list of texts, added to those that every such model has
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from ladle.storage.encoders import shared_encoder
from ladle.storage.parts import ModelParts, list_parts

TAGS = ("ladle", "latent-diffusion", "text-generation")
COMMON_LIMITS = (
    "It writes what looks like its training data: facts, names and numbers are made up.",
    "It carries the biases of its training data.",
)
_SHOWN = {"summary", "licence", "language", "tags", "data", "attribution", "recipe", "figures", "limits"}
_COLUMNS = ("metric", "value", "interval", "n", "seed", "sampler", "steps", "data", "command")


def model_card(parts: ModelParts, *, base: str | None = None) -> str:
    """Markdown with YAML front matter. base: the shipped model whose autoencoder this one shares on disk."""
    info = parts.info
    front_matter = ModelCardData(
        library_name="ladle",
        pipeline_tag="text-generation",
        license=str(info["licence"]).lower() if info.get("licence") else None,
        language=_many(info.get("language")) or None,
        tags=list(dict.fromkeys([*TAGS, *_many(info.get("tags"))])),
        base_model=base,
    )
    counted = [(part.name, part.what, f"{part.num_parameters:,}") for part in list_parts(parts) if part.num_parameters]
    training = [f"recipe: `{_line(info['recipe'])}`"] if info.get("recipe") else []
    training += [f"{key}: {_value(value)}" for key, value in info.items() if key not in _SHOWN]
    limits = [f"Texts longer than {parts.autoencoder.config.max_tokens} tokens are cut."]
    if parts.diffusion is not None and parts.diffusion.max_latents < parts.autoencoder.max_latents:
        limits.append(f"It writes texts of up to {parts.diffusion.max_latents} latents.")
    if (alphabet := parts.autoencoder.backbone.alphabet) is not None:
        limits.append(f"It has learnt {len(alphabet):,} different signs (`alphabet` in model.json). Others are lost.")
    if (phrases := parts.autoencoder.backbone.phrases) is not None:
        held = f"It holds {len(phrases.table):,} phrases of its training data (`phrases.json`), of up to four tokens,"
        limits.append(f"{held} each of which at least {phrases.least} texts have. They make writing faster.")
    limits += [*COMMON_LIMITS, *_many(info.get("limits"))]
    names = _many(info.get("attribution"))
    blocks = [
        f"---\n{front_matter}\n---",
        f"# {_line(parts.name)}",
        *_what_it_is(parts, base),
        *_section("Parts", _table(("part", "what", "parameters"), counted)),
        *_section("Training data", _bullets(map(_data_line, _many(info.get("data"))))),
        *_section("Training", _bullets(training)),
        *_section("Figures", _figures(info.get("figures"))),
        *_section("Use", *_usage(parts)),
        *_section("Limits", _bullets(limits)),
        *_section(
            "Licence",
            f"Weights: {info['licence']}." if info.get("licence") else "",
            f"Attribution:\n\n{_bullets(names)}" if names else "",
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _section(title: str, *blocks: str) -> list[str]:
    """The blocks that are not empty, under the title; nothing if all are empty."""
    told = [block for block in blocks if block]
    return [f"## {title}", *told] if told else []


def _what_it_is(parts: ModelParts, base: str | None) -> Iterator[str]:
    config = parts.autoencoder.config
    number = parts.autoencoder.bottleneck.tokens_per_latent
    kind = f"one latent for every {number} tokens" if number else f"{parts.autoencoder.max_latents} latents a text"
    copied = config.backbone.pretrained
    if parts.info.get("summary"):
        yield str(parts.info["summary"])
    yield (
        f"A text autoencoder of [Ladle](https://pypi.org/project/ladle/): up to {config.max_tokens} tokens, {kind}, "
        f"{config.bottleneck.latent_dim} channels each."
        + (f" Its encoder-decoder was `{copied}`, of which it holds a copy." if copied else "")
    )
    if parts.diffusion is not None:
        condition = parts.diffusion.condition.config
        given = [f"a label ({', '.join(map(_line, condition.labels))})"] if condition.labels else []
        given += [f"{_line(name)} ({', '.join(map(_line, values))})" for name, values in condition.attributes.items()]
        given += ["a source text"] if condition.source else []
        yield (
            f"A diffusion model over those latents ({parts.diffusion.config.prediction}-prediction, "
            f"{parts.diffusion.config.schedule.kind} schedule); conditions: {' and '.join(given) or 'none'}."
        )
    if base is not None:
        yield f"Its autoencoder is that of `{base}`, with which it is installed: it does not load without it."
    if shared := shared_encoder(parts.name, parts.autoencoder):
        yield f"Its sentence encoder is that of `{shared.name}`, which comes with Ladle: it does not load without it."


def _data_line(item: Any) -> str:
    if not isinstance(item, Mapping):
        return str(item)
    rest = [f"{key}: {_value(value)}" for key, value in item.items() if key != "name"]
    return "; ".join([f"**{_line(item.get('name', 'unnamed'))}**", *rest])


def _figures(figures: Any) -> str:
    if not figures:
        return ""
    if isinstance(figures, Mapping):
        figures = [{"metric": k} | (dict(v) if isinstance(v, Mapping) else {"value": v}) for k, v in figures.items()]
    others = [key for row in figures for key in row if key not in _COLUMNS]
    used = [key for key in dict.fromkeys([*_COLUMNS, *others]) if any(key in row for row in figures)]
    return _table(used, [[_value(row.get(key, "")) for key in used] for row in figures])


def _usage(parts: ModelParts) -> Iterator[str]:
    name, diffusion = "PATH_TO_THIS_FOLDER", parts.diffusion
    ways = []  # options of `ladle sample`, arguments of `generate`
    if diffusion is not None:
        ways.append(("-n 8 --seed 0", "num_samples=8, seed=0"))
        if diffusion.condition.config.source:
            ways.append(("--source sources.txt", 'source=["a source text"]'))
        if diffusion.condition.config.labels:
            label = _quoted(diffusion.condition.config.labels[0])
            ways.append((f"-n 8 --label {label}", f"num_samples=8, label={label}"))
        for name, values in list(diffusion.condition.config.attributes.items())[:1]:
            asked = f"{{{_quoted(name)}: {_quoted(values[0])}}}"
            ways.append((f"-n 8 --attribute {_quoted(f'{name}={values[0]}')}", f"num_samples=8, attributes={asked}"))
    shell = [f"ladle sample --model {name} {options} -o samples.jsonl" for options, _ in ways]
    shell += [f"ladle inspect --model {name}", f"ladle reconstruct --model {name} texts.txt -o -"]
    python = ["from ladle import LatentDiffusion", "", f"model = LatentDiffusion.from_pretrained({_quoted(name)})"]
    python += [f"model.generate({arguments})" for _, arguments in ways]
    python += ['z = model.encode(["a text"])', "model.decode(z)"]
    yield f"For `{name}` write the path of this folder, or the id of the model on the hub."
    yield "\n".join(["```sh", *shell, "```"])
    yield "\n".join(["```python", *python, "```"])
    if diffusion is not None:
        sampling = parts.sampling
        bound, free = sampling.conditional, sampling.unconditional
        yield (
            f"Sampled by default with `{sampling.sampler}`, {sampling.num_inference_steps} steps (even in"
            f" {sampling.grid}), guidance scale {sampling.guidance_scale:g}, noise scale {bound.noise_scale:g} and stop"
            f" at diffusion time {bound.stop_time:g} ({free.noise_scale:g} and {free.stop_time:g} without a condition),"
            f" {sampling.decoder} decoder."
        )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _bullets(items: Iterable[Any]) -> str:
    return "\n".join(f"* {_line(item)}" for item in items)


def _many(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _value(value: Any) -> str:
    """A value for readers: rounded numbers, containers as JSON."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value):
        return " to ".join(_value(v) for v in value) if len(value) == 2 else ", ".join(_value(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(value: Any) -> str:
    return " ".join(str(value).split())


def _quoted(value: str) -> str:
    """A text in double quotes, for Python and (except for `$`) for a shell."""
    return json.dumps(_line(value), ensure_ascii=False)
