"""Write docs/settings.md, every setting of a recipe with its default and its docstring: python docs/make_settings.py"""

from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from ladle.config import leaves
from ladle.training.plan import PLAN_SHARES, SHARES, STAGE_DEFAULTS
from ladle.training.recipe import Recipe

HEAD = """# Settings

All settings of a recipe. `ladle train RECIPE.toml` reads them from a file. `--set KEY=VALUE` changes one. The defaults
are those of a recipe that gives no value. This page is made from the docstrings beside the settings, by
`python docs/make_settings.py`.
"""


STAGES_HEAD = """
## What suits each stage

These values hold where neither `training.optimiser` nor `training.STAGE.optimiser` gives another one. "trained
autoencoder" is one that begins from a trained model or a pre-trained backbone. A given
optimizer chooses the row instead: `muon` the first one, `adamw` the second one. "plan decoder" and "plan prior" are the
stages autoencoder and diffusion of plan latents.
"""
SHARES_HEAD = """
These are the defaults of `training.STAGE.share`. From a trained model, the autoencoder stage runs only if the model
gets a new vocabulary. Of plan latents it always runs.

| stage | `share` from nothing | `share` from a trained model | `share` for plan latents |
|---|---|---|---|"""


def settings_page() -> str:
    """The page, as Markdown."""
    parts, groups = [HEAD], dict[str, list[tuple[str, Any]]]()
    for name, field in leaves(Recipe):
        groups.setdefault(name.rpartition(".")[0], []).append((name, field))
    for group, fields in groups.items():
        parts += [f"\n## {group or 'The recipe itself'}\n", "| setting | default | what it does |", "|---|---|---|"]
        for name, field in fields:
            lines = (field.description or "").replace("\n* ", "<br>• ")  # the items of a list, in one cell of a table
            says = " ".join(lines.split()).replace("|", "\\|")
            parts.append(f"| `{name.rpartition('.')[2]}` | {_shown(name, field.default)} | {says} |")
    names = list(dict.fromkeys(name for defaults in STAGE_DEFAULTS.values() for name in defaults))
    parts += [
        STAGES_HEAD,
        "| stage | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---" * (1 + len(names)) + "|",
    ]
    parts += [
        f"| {stage} | " + " | ".join(f"`{own[name]}`" for name in names) + " |" for stage, own in STAGE_DEFAULTS.items()
    ]
    parts += [SHARES_HEAD] + [
        f"| {stage} | `{nothing}` | `{trained}` | `{PLAN_SHARES[stage]}` |"
        for stage, (nothing, trained) in SHARES.items()
    ]
    return "\n".join(parts) + "\n"


def _shown(name: str, default: Any) -> str:
    found: Any = Recipe()
    for part in name.split("."):
        found = getattr(found, part, PydanticUndefined)
    value = default if found is PydanticUndefined else found
    return "-" if value in (None, PydanticUndefined, {}, (), "") else f"`{value}`"


if __name__ == "__main__":
    Path(__file__).with_name("settings.md").write_text(settings_page(), encoding="utf-8")
