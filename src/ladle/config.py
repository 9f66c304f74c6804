"""The base of every config class: frozen, and an unknown key is an error that names the nearest valid one."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError

from ladle.errors import UserError


class Config(BaseModel):
    """A frozen, validated group of settings, declared beside the component that it configures.

    The docstring under a field says what the setting does. `--help` and docs/settings.md show this docstring.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(_message(type(self), error, type(self).__name__)) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # (pydantic does not call it for inner groups)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Validate `values`. Error messages begin with `where`, such as the path of a recipe.

        Raises UserError: an unknown key (with the nearest valid one) or a value out of range.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(_message(cls, error, where)) from None


def by_kind(default: str) -> Discriminator:
    """A discriminator for unions of config classes: settings choose a class by their `kind`, else by `default`."""

    def kind_of(given: Any) -> Any:
        return given.get("kind", default) if isinstance(given, Mapping) else getattr(given, "kind", default)

    return Discriminator(kind_of)


def nearest(word: str, allowed: list[str]) -> str:
    """A clause that names the nearest of `allowed`, or all of them when none is near."""
    match = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"allowed: {', '.join(sorted(allowed))}"


def leaves(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting under a config class, as (dotted name, pydantic's field). A union gives the settings of all its
    classes; a name that several of them share comes once."""
    found: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        groups = [leaf for _, group in _groups(field.annotation) for leaf in leaves(group, f"{prefix}{name}.")]
        for key, leaf in groups or [(prefix + name, field)]:
            found.setdefault(key, leaf)
    yield from found.items()


def _groups(annotation: Any, tag: str | None = None) -> list[tuple[str | None, type[BaseModel]]]:
    """The config classes in an annotation, each with its tag in a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(tag, annotation)]
    own = next((extra.tag for extra in getattr(annotation, "__metadata__", ()) if isinstance(extra, Tag)), None)
    return [found for part in get_args(annotation) for found in _groups(part, own)]


def _message(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    return f"{where}: " + "; ".join(_explain(cls, found) for found in error.errors())


def _explain(cls: type[BaseModel], error: Any) -> str:
    path, groups, kinds = _place(cls, [str(part) for part in error["loc"]])
    key = ".".join(path)
    match error["type"]:
        case "extra_forbidden":
            others = [(f"'{tag}'", group) for tag, group in kinds if path[-1] in group.model_fields]
            if others and all("kind" in group.model_fields for _, group in others):
                own = next(tag for tag, group in kinds if group in groups)
                belongs = f"'{key}' belongs to kind {' or '.join(tag for tag, _ in others)}"
                return f"{belongs}; {'.'.join(path[:-1])} has kind '{own}'"
            elsewhere = [f"'{name}'" for name, _ in leaves(cls) if name.endswith(f".{path[-1]}")]
            if 1 <= len(elsewhere) <= 3 and f"'{key}'" not in elsewhere:  # (else the other settings do not allow it)
                return f"unknown key '{key}': did you mean {' or '.join(elsewhere)}?"
            return f"unknown key '{key}': {nearest(path[-1], [n for group in groups for n in group.model_fields])}"
        case "union_tag_invalid":
            allowed = [kind.strip(" '") for kind in error["ctx"]["expected_tags"].split(",")]
            return f"unknown kind '{error['ctx']['tag']}' of {key}: {nearest(error['ctx']['tag'], allowed)}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if not path:  # of several keys together
        return message
    return f"{key}: {message} (given: {error['input']!r})"


def _place(
    cls: type[BaseModel], location: list[str]
) -> tuple[list[str], list[type[BaseModel]], list[tuple[str | None, type[BaseModel]]]]:
    """The location of an error without the union tags that pydantic adds, the classes that hold the last key, and the
    union, if any, that they were chosen from."""
    path: list[str] = []
    groups: list[tuple[str | None, type[BaseModel]]] = [(None, cls)]
    holders, kinds, union = [cls], groups[:0], groups[:0]
    for part in location:
        if any(tag == part for tag, _ in groups):
            union, groups = groups, [(None, group) for tag, group in groups if tag == part]
            continue
        path, holders, kinds, union = [*path, part], [group for _, group in groups], union, []
        fields = [group.model_fields[part] for group in holders if part in group.model_fields]
        if fields:  # else a name in a dict of groups
            groups = [found for field in fields for found in _groups(field.annotation)]
    return path, holders, kinds
