"""The options of `ladle sample` that control how texts are drawn: one for each field of `SamplingOptions`."""

import dataclasses
import re
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


# Its attributes are options of the verb that takes it. (Without the name of this module the class would seem to be the
# standard library's, and cyclopts takes such a class for a single value.)
Options: Any = dataclasses.make_dataclass(
    "Options",
    [_attribute(name, field) for name, field in SamplingOptions.flat_fields().items()],
    namespace={"__module__": __name__},
)


def given(options: Any) -> dict[str, Any]:
    """The options that were given, under the names of `LatentDiffusion.generate`. Raises UserError: out of range."""
    values = {} if options is None else {k: v for k, v in vars(options).items() if v is not None}
    try:
        SamplingOptions().override(**values)  # before a model is loaded
    except UserError as error:
        said = str(error).removeprefix("sampling: ")
        raise UserError(re.sub(r"(?<![^ ])\w+(?=: )", lambda name: f"--{name[0].replace('_', '-')}", said)) from None
    return values
