"""The model card: what a model is, what it learnt from, how well it does, how to use it. README.md of its folder.

`ModelParts.info` holds what the weights do not know. All keys are optional; those that are not listed here are shown
as they are, so that nothing recorded is lost:

    summary      a sentence or two
    licence      SPDX name of the weights' licence, `cc-by-sa-4.0`
    language     ISO code, or a list of them
    tags         list, added to Ladle's own
    data         the training data: a text, or a list of texts or of {name, url, rows, licence, attribution, ...}
    attribution  whom the licence asks to name: a text or a list
    recipe       path or name of the recipe
    rows, minutes, steps, hardware    of the training
    figures      list of {metric, value, interval, n, seed, sampler, steps, data, command}, each as far as it applies;
                 or {metric: value}
    limits       list of texts, added to those that every such model has
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ladle.storage.parts import ModelParts

TAGS = ("ladle", "latent-diffusion", "text-generation")
COMMON_LIMITS = (
    "It writes what looks like its training data: facts, names and numbers are made up.",
    "It carries the biases of its training data.",
)
_SHOWN = {"summary", "licence", "language", "tags", "data", "attribution", "recipe", "figures", "limits"}
_COLUMNS = ("metric", "value", "interval", "n", "seed", "sampler", "steps", "data", "command")


def model_card(parts: ModelParts, *, base: str | None = None) -> str:
    """Markdown with YAML front matter.

    Args:
        parts: the model.
        base: the shipped model whose autoencoder this one shares on disk.
    """
    info = parts.info
    sections = [
        _front_matter(parts, base),
        f"# {_line(parts.name)}",
        _what_it_is(parts, base),
        "## Parts\n\n" + _table(("part", "what", "parameters"), _part_rows(parts)),
        _training(info),
        _figures(info.get("figures")),
        _usage(parts),
        "## Limits\n\n" + _bullets([*_limits(parts), *COMMON_LIMITS, *_many(info.get("limits"))]),
        _licence(info),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(parts: ModelParts, base: str | None) -> str:
    info = parts.info
    values: dict[str, Any] = {"library_name": "ladle", "pipeline_tag": "text-generation"}
    if info.get("licence"):
        values["license"] = str(info["licence"]).lower()
    if info.get("language"):
        values["language"] = _many(info["language"])
    values["tags"] = list(dict.fromkeys([*TAGS, *_many(info.get("tags"))]))
    if base is not None:
        values["base_model"] = base
    # A JSON text or list is YAML too, and needs no thought about quotes.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _what_it_is(parts: ModelParts, base: str | None) -> str:
    config = parts.autoencoder.config
    kind = (
        f"one latent for every {config.bottleneck.tokens_per_latent} tokens"
        if config.bottleneck.kind == "aligned"
        else f"{config.bottleneck.num_latents} latents a text"
    )
    lines = [str(parts.info["summary"])] if parts.info.get("summary") else []
    lines.append(
        f"A text autoencoder of [Ladle](https://pypi.org/project/ladle/): up to {config.max_tokens} tokens, {kind}, "
        f"{config.bottleneck.latent_dim} channels each."
    )
    if config.backbone.pretrained:
        lines[-1] += f" Its encoder-decoder was `{config.backbone.pretrained}`, of which it holds a copy."
    if parts.diffusion is not None:
        condition = parts.diffusion.condition.config
        given = [f"a label ({', '.join(map(_line, condition.labels))})"] if condition.labels else []
        given += ["a source text"] if condition.source else []
        lines.append(
            f"A diffusion model over those latents ({parts.diffusion.config.prediction}-prediction, "
            f"{parts.diffusion.config.schedule.kind} schedule); conditions: {' and '.join(given) or 'none'}."
        )
    if base is not None:
        lines.append(f"Its autoencoder is that of `{base}`, with which it is installed: it does not load without it.")
    return "\n\n".join(lines)


def _part_rows(parts: ModelParts) -> list[tuple[str, str, str]]:
    autoencoder, diffusion = parts.autoencoder, parts.diffusion
    config = autoencoder.config
    backbone = autoencoder.backbone.model
    vocabulary = len(autoencoder.backbone.tokenizer)
    rows = [
        ("backbone", f"{type(backbone).__name__}, {vocabulary:,} tokens", _count(backbone)),
        ("bottleneck", f"{config.bottleneck.kind}, and the normaliser", _count(autoencoder.bottleneck)),
    ]
    if autoencoder.parallel_decoder is not None:
        layers = config.parallel_layers
        rows.append(("parallel decoder", f"layers: {layers}", _count(autoencoder.parallel_decoder)))
    if diffusion is not None:
        denoiser = diffusion.config.denoiser
        what = f"width {denoiser.width}, layers: {denoiser.num_layers}, {denoiser.kind}"
        rows.append(("denoiser", what, _count(diffusion.denoiser)))
        if any(True for _ in diffusion.condition.parameters()):
            condition = diffusion.condition.config
            kinds = {"label": condition.labels, "source": condition.source}
            what = ", ".join(name for name, there in kinds.items() if there)
            rows.append(("condition encoder", what, _count(diffusion.condition)))
        if diffusion.length is not None:
            rows.append(("length model", f"1 to {diffusion.max_latents} latents", _count(diffusion.length)))
    return rows


def _training(info: Mapping[str, Any]) -> str:
    blocks = []
    data = [_data_line(item) for item in _many(info.get("data"))]
    if data:
        blocks.append("## Training data\n\n" + _bullets(data))
    recipe = [f"recipe: `{_line(info['recipe'])}`"] if info.get("recipe") else []
    recipe += [f"{key}: {_value(value)}" for key, value in info.items() if key not in _SHOWN]
    if recipe:
        blocks.append("## Training\n\n" + _bullets(recipe))
    return "\n\n".join(blocks)


def _data_line(item: Any) -> str:
    if not isinstance(item, Mapping):
        return str(item)
    head = f"**{_line(item.get('name', 'unnamed'))}**"
    rest = [f"{key}: {_value(value)}" for key, value in item.items() if key != "name"]
    return "; ".join([head, *rest])


def _figures(figures: Any) -> str:
    if not figures:
        return ""
    if isinstance(figures, Mapping):
        figures = [{"metric": k} | (dict(v) if isinstance(v, Mapping) else {"value": v}) for k, v in figures.items()]
    others = [key for row in figures for key in row if key not in _COLUMNS]
    used = [key for key in dict.fromkeys([*_COLUMNS, *others]) if any(key in row for row in figures)]
    return "## Figures\n\n" + _table(used, [[_value(row.get(key, "")) for key in used] for row in figures])


def _usage(parts: ModelParts) -> str:
    name, diffusion = _line(parts.name), parts.diffusion
    shell = [f"ladle inspect --model {name}", f"ladle reconstruct --model {name} texts.txt -o -"]
    python = ["from ladle import LatentDiffusion", "", f"model = LatentDiffusion.from_pretrained({_quoted(name)})"]
    if diffusion is not None:
        shell.insert(0, f"ladle sample --model {name} -n 8 --seed 0 -o samples.jsonl")
        python.append("model.generate(num_samples=8, seed=0)")
        if diffusion.condition.config.labels:
            label = _quoted(diffusion.condition.config.labels[0])
            shell.insert(1, f"ladle sample --model {name} -n 8 --label {label} -o samples.jsonl")
            python.append(f"model.generate(num_samples=8, label={label})")
        if diffusion.condition.config.source:
            shell.insert(1, f"ladle sample --model {name} --source sources.txt -o samples.jsonl")
            python.append('model.generate(source=["a source text"])')
    python += ['z = model.encode(["a text"])', "model.decode(z)"]
    where = f"`{name}` is the model's name if it comes with Ladle, else the path of this folder or its id on the hub."
    blocks = ["```sh\n" + "\n".join(shell) + "\n```", "```python\n" + "\n".join(python) + "\n```"]
    return "\n\n".join(["## Use", where, *blocks, _defaults(parts)])


def _defaults(parts: ModelParts) -> str:
    sampling = parts.sampling
    bound, free = sampling.conditional, sampling.unconditional
    if parts.diffusion is None:
        return ""
    return (
        f"Sampled by default with `{sampling.sampler}`, {sampling.num_inference_steps} steps (even in {sampling.grid}),"
        f" guidance scale {sampling.guidance_scale:g}, noise scale {bound.noise_scale:g} and stop at diffusion time"
        f" {bound.stop_time:g} ({free.noise_scale:g} and {free.stop_time:g} without a condition),"
        f" {sampling.decoder} decoder."
    )


def _limits(parts: ModelParts) -> Iterable[str]:
    yield f"Texts longer than {parts.autoencoder.config.max_tokens} tokens are cut."
    if parts.diffusion is not None and parts.diffusion.max_latents < parts.autoencoder.max_latents:
        yield f"It writes texts of up to {parts.diffusion.max_latents} latents."


def _licence(info: Mapping[str, Any]) -> str:
    lines = [f"Weights: {info['licence']}."] if info.get("licence") else []
    names = _many(info.get("attribution"))
    if names:
        lines.append("Attribution:\n\n" + _bullets(names))
    return "## Licence\n\n" + "\n\n".join(lines) if lines else ""


# ---------------------------------------------------------------------------------------------------- Markdown


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
    """A value as a reader wants it: numbers without noise, containers as JSON."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value):
        return " to ".join(_value(v) for v in value) if len(value) == 2 else ", ".join(_value(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(value: Any) -> str:
    return " ".join(str(value).split())


def _quoted(value: str) -> str:
    """A text in double quotes, as both Python and (short of `$`) a shell read it."""
    return json.dumps(_line(value), ensure_ascii=False)


def _count(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"
