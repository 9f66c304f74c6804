"""The options of `ladle sample` that control how texts are drawn: one for each field of `SamplingOptions`."""

import dataclasses
import re
from collections.abc import Collection
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic.fields import FieldInfo

from ladle.cli.app import Whole
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions


def _attribute(name: str, field: FieldInfo) -> tuple[str, Any, None]:
    kind: Any = Whole if field.annotation in (int, int | None) else field.annotation
    words = " ".join((field.description or "").split())  # a docstring's lines end where its file's do
    return name, Annotated[kind | None, Parameter(help=words)], None


def _class(name: str, without: Collection[str] = ()) -> Any:
    # (Without the name of this module the class would seem to be the standard library's, and cyclopts takes such a
    # class for a single value.)
    fields = [_attribute(own, field) for own, field in SamplingOptions.flat_fields().items() if own not in without]
    return dataclasses.make_dataclass(name, fields, namespace={"__module__": __name__})


# Their attributes are options of the verb that takes them.
Options: Any = _class("Options")
# Of verbs that change texts, which choose among wordings by what they keep of the text.
EditingOptions: Any = _class("EditingOptions", ("candidates", "choose", "label_confidence", "min_words", "max_words"))


def pairs(option: str, given: list[str] | None, example: str) -> dict[str, list[str]]:
    """NAME=VALUE items of an option: the values of each name, in their order. Raises UserError: another form."""
    found: dict[str, list[str]] = {}
    for item in given or ():
        name, _, value = item.partition("=")
        if not name.strip() or not value.strip():
            raise UserError(f"{option} {item}: give NAME=VALUE, such as {example}")
        found.setdefault(name.strip(), []).append(value.strip())
    return found


def guidance_scales(given: list[str] | None) -> dict[str, float] | None:
    """The weights of `--guidance NAME=WEIGHT`, by name; None if none is given. Raises UserError: another form, a weight
    that is no number, a name that is given twice."""
    found = pairs("--guidance", given, "food=2 (--guidance-scale takes the weight of all conditions together)")
    for name, values in found.items():
        if len(values) > 1:
            raise UserError(f"--guidance {name} is given {len(values)} times; give one weight")
        try:
            float(values[0])
        except ValueError:
            raise UserError(f"--guidance {name}={values[0]}: '{values[0]}' is not a number") from None
    return {name: float(values[0]) for name, values in found.items()} or None


def given(options: Any, guidance: list[str] | None = None) -> dict[str, Any]:
    """The options that were given, under the names of `LatentDiffusion.generate`. guidance: NAME=WEIGHT items. Raises
    UserError: out of range."""
    values = {} if options is None else {k: v for k, v in vars(options).items() if v is not None}
    if scales := guidance_scales(guidance):
        values["guidance_scales"] = scales
    try:
        SamplingOptions().override(**values)  # before a model is loaded
    except UserError as error:
        said = str(error).removeprefix("sampling: ")
        raise UserError(re.sub(r"(?<![^ ])\w+(?=: )", lambda name: f"--{name[0].replace('_', '-')}", said)) from None
    return values
