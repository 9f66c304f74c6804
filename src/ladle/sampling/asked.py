"""Does what is asked of a model fit it? Checks before anything is drawn."""

from collections.abc import Collection, Mapping
from typing import Any

from ladle.conditioning.config import SOURCE, ConditionConfig
from ladle.config import nearest
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request


def check_asked(
    request: Request,
    asked: Mapping[str, Any],
    known: ConditionConfig,
    options: SamplingOptions,
    overrides: Mapping[str, Any],
    *,
    checked: bool = False,
) -> None:
    """Raises UserError: a source for a model that takes none, guidance or a choice by conditions that are not asked
    for.

    Args:
        asked: label, source and attributes by name, as they were given; None: not given.
        known: the model's conditions.
        options, overrides: all sampling options, and those that were given.
        checked: whether controls from outside the model can choose among candidates.
    """
    given = {name for name, value in asked.items() if value is not None}
    check_single_guidance(options, known, given if overrides.get("guidance_scales") else None)
    # (Some texts of many may have none.)
    if overrides.get("choose") == "label" and not (given - {SOURCE} or checked):
        raise UserError("choose='label' needs a label, an attribute or a control; give one, or choose='sound'")
    if known.source is None and any(source is not None for source in request.sources):
        raise UserError("this model was not trained with source texts; give no source")


def check_single_guidance(options: SamplingOptions, known: ConditionConfig, asked: Collection[str] | None) -> None:
    """Raises UserError: `guidance_scales` names a condition that the model does not know, or one that is not among the
    conditions that are asked for (None: it may be)."""
    for name in options.guidance_scales:
        if name not in known.names:
            what = nearest(name, list(known.names)) if known.names else "this model has no conditions"
            raise UserError(f"guidance of '{name}': {what}")
        if asked is not None and name not in asked:
            raise UserError(f"guidance of '{name}' needs a {name} that it applies to; give one, or leave it out")
