"""The base of every config class: frozen, and an unknown key is an error that names the nearest valid one."""

import difflib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ladle.errors import UserError


class Config(BaseModel):
    """A frozen, validated group of settings, declared beside the component that it configures."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Validate `values`. `where` (a recipe's path, say) opens the message of any error.

        Raises:
            UserError: an unknown key (with the nearest valid one) or a value out of range.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(f"{where}: " + "; ".join(_explain(cls, e) for e in error.errors())) from None


def nearest(word: str, allowed: list[str]) -> str:
    """A clause that names the nearest of `allowed`, or all of them when none is near."""
    match = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"allowed: {', '.join(sorted(allowed))}"


def _explain(cls: type[BaseModel], error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        fields = _fields_at(cls, location[:-1])
        return f"unknown key '{key}': {nearest(location[-1], fields)}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if not location:  # of several keys together
        return message
    return f"{key}: {message} (given: {error['input']!r})"


def _fields_at(cls: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = cls
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            continue  # the tag of a union, which pydantic puts into the location
        current = next(
            (a for a in [field.annotation, *getattr(field.annotation, "__args__", ())] if hasattr(a, "model_fields")),
            current,
        )
    return list(getattr(current, "model_fields", {}))
