"""Which column of a file is which: by the names that are given, else by usual names whose contents fit."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from ladle.config import nearest
from ladle.data.files import Record, Table
from ladle.data.labels import spell_label
from ladle.errors import UserError

COLUMN_NAMES = frozenset({"text", "target", "source", "label"})  # read when no column is named
# What rows of samples hold under these names is something else, so no attribute can have them.
RESERVED = COLUMN_NAMES - {"target"} | {"references", "seed", "seeds", "num_samples", "model", "guidance", "control"}
CLEARLY = 3  # times as many words as every other column of texts: the text
MAX_CLASSES = 200  # that a model can have
_OFFERED = 20  # classes at most; a column with more is hardly one of labels
_SHOWN = 8
NUMBER = re.compile(r"[+-]?([\d.,]*\d[.,]?(e[+-]?\d+)?|nan|inf(inity)?)", re.IGNORECASE)
_WORD = re.compile(r"\S*[^\W\d_]\S*")
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")  # Thai to Chinese

What = Literal["text", "label", "source", "references"]


@dataclass(frozen=True)
class Columns:
    """The names of the columns.

    Args:
        text: Column of the texts. Default: text, else target, else the only column that is clearly text.
        label: Column of the class labels; "" uses no labels. Default: label, if the data have that column.
        source: Column of the source texts; "" uses no sources. Default: source, if the data have that column.
        references: Column of further good texts for a source, a list; "" uses none. Default: references, if the data
            have that column.
    """

    text: str | None = None
    label: str | None = None
    source: str | None = None
    references: str | None = None

    option: ClassVar[str] = "--{}"  # of the command line, for messages

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """The names that a model's `info` holds."""
        known = info.get("columns")
        return cls(**{k: v for k, v in known.items() if k in vars(cls())}) if isinstance(known, Mapping) else cls()

    def ask(self, what: What, value: str = "COLUMN") -> str:
        """How to name a column ("": to leave it out), for messages."""
        return f"{self.option.format(what)} {shlex.quote(value) if value else chr(34) * 2}"

    def given(self) -> dict[str, str]:
        """The names that are not empty."""
        return {what: name for what, name in vars(self).items() if name}


NO_NAMES = Columns()


class Profile:
    """What a column holds, by the first records. values: those that are not missing. words: of a text, on average.
    classes: number of values, as labels. prose: whether at least half of the values are texts that are not numbers."""

    def __init__(self, name: str, values: list[Any]):
        self.name, self.values = name, values
        texts = [value for value in values if isinstance(value, str)]
        self.words = sum(map(count_words, texts)) / max(1, len(texts))
        self.classes = len({spell_label(str(value)) for value in values})
        self.prose = 2 * sum(not NUMBER.fullmatch(text.strip()) for text in texts) >= max(1, len(values))

    def few(self, least: int, share: int) -> bool:
        """Whether there are at least `least` values, and only a few short ones come again and again: fewer than one
        in `share`."""
        return least <= len(self.values) and 0 < self.classes * share < len(self.values) and self.words <= CLEARLY

    @property
    def could_be_labels(self) -> bool:
        """Whether the values could be class labels."""
        plain = all(isinstance(value, str | int | float) for value in self.values)
        return bool(self.name) and plain and self.few(3, 3) and 1 < self.classes <= _OFFERED

    @property
    def free_text(self) -> bool:
        """Whether most values are texts of several words that come once: hardly anything that tells rows apart."""
        return self.words > CLEARLY and 2 * self.classes > len(self.values)

    def examples(self, count: int = 3) -> str:
        """The first different values."""
        return ", ".join(map(shown, list(dict.fromkeys(map(str, self.values[:100])))[:count])) or "nothing"


def profiles(names: Iterable[str], records: Sequence[Record]) -> dict[str, Profile]:
    """What the columns of these records hold, those with `names` first."""
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for record in records:
        for name, value in record.items():
            columns.setdefault(name, []).extend([] if is_missing(value) else [value])
    return {name: Profile(name, values) for name, values in columns.items()}


def is_missing(value: Any) -> bool:
    """None, NaN and blank strings."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and value != value)


def count_words(text: str) -> int:
    """Number of words with a letter (dates are not texts); in scripts without spaces every character counts."""
    return len(_WORD.findall(_NO_SPACES.sub(" x ", text)))


def shown(value: Any, width: int = 40) -> str:
    """A value as messages show it: one short line in quotes."""
    line = "".join(mark if mark.isprintable() else "?" for mark in " ".join(str(value).split()))
    return f"'{line if len(line) <= width else line[: width - 3] + '...'}'"


def resolve(
    table: Table,
    columns: Columns,
    sample: list[Record],
    need: Sequence[str],
    hints: Columns,
    *,
    trust: bool,
    attributes: Sequence[str] = (),
) -> tuple[Columns, list[str], dict[str, Profile]]:
    """The names of the columns ("": left out; those not needed may be absent from the file), remarks for the user, and
    what the columns hold. Needed columns are always set, except the label's.

    columns: names that are given; they are taken, whatever the columns hold. sample: the first records. hints: names
    that are tried before the usual ones; "" leaves a usual one out. trust: usual names count whatever their columns
    hold. attributes: further columns that are taken. Raises UserError: no such column, a column named twice, no column
    that is clearly text, an attribute of free text.
    """
    looks = profiles(table.columns or (), sample)
    named = columns.given()
    for name in [*named.values(), *attributes]:
        if name not in looks:
            clause = nearest(name, [*looks])
            listed = f" (columns: {', '.join(looks)})" if clause.startswith("did") else ""
            raise UserError(f"{table.name} has no column '{name}': {clause}{listed}")
    named |= _attributes(table, attributes, looks, {name: what for what, name in named.items()})
    for name in columns.given().values():
        same = " and as ".join(what for what, other in named.items() if other == name)
        if " and as " in same:
            leave = columns.ask("label", "")
            raise UserError(f"the column '{name}' is named as {same}; name another one, or leave one out: {leave}")
    usual = {name.lower(): name for name in reversed(looks)}
    remarks: list[str] = []

    def choose(what: What, *others: str) -> str | None:
        given, hint = getattr(columns, what), getattr(hints, what)
        if given or (given == "" and what != "text"):
            return given
        if hint == "" or (hint in looks and hint not in named.values()):
            return hint
        tried = dict.fromkeys(usual[name] for name in (what, *others) if name in usual)
        for name in tried:
            if name in named.values():
                continue
            sure = trust or table.plain or (what in need and what != "text")
            if sure or not (why := _unfit(what, looks[name], looks)):
                return name
            remedy = "" if what == "references" else f"; to take it: {columns.ask(what, name)}"
            remarks.append(f"{table.name}: the column '{name}' is not taken for the {what}: {why}{remedy}")
        # (In JSON, a label or source may first come after the records looked at.)
        return None if what == "text" else "" if tried else what

    text, label, source, references = choose("text", "target"), choose("label"), choose("source"), choose("references")
    if table.headless and label not in looks and columns.label is None:
        few = [name for name, look in looks.items() if look.could_be_labels and name not in named.values()]
        label = few[0] if len(few) == 1 else None
    rest = {name: look for name, look in looks.items() if name not in attributes}
    if "source" in need and source not in looks:
        source = "text" if table.plain else _clearest(table, columns, rest, [label], "source")
        text = None if text == source else text
    if "text" in need and text is None:
        text = _clearest(table, columns, rest, [label, source], "text")
    others = (None if name == text else name for name in (label, source, references))
    return type(columns)(text, *others), remarks, looks


def _attributes(
    table: Table, names: Sequence[str], looks: Mapping[str, Profile], used: Mapping[str, str]
) -> dict[str, str]:
    """The attributes, numbered. used: what other columns are, by their names.

    Raises UserError: a column that is named twice or is something else, a name that rows of samples need, a column of
    free text.
    """
    for number, name in enumerate(names):
        look = looks[name]
        if name in names[:number]:
            raise UserError(f"the column '{name}' is named as attribute twice; name it once")
        if name in used:
            raise UserError(f"the column '{name}' is named as {used[name]} and as attribute; leave one of them out")
        if name in RESERVED:
            raise UserError(f"an attribute cannot have the name '{name}', which is another thing in rows; rename it")
        if look.free_text:
            held = f"it holds free text ({look.examples(1)})"
            raise UserError(f"{table.name}: '{name}' cannot be an attribute: {held}; name a column of few values")
    return {f"attribute {number}": name for number, name in enumerate(names, start=1)}


def _unfit(what: What, look: Profile, looks: dict[str, Profile]) -> str:
    """Why the column cannot be what its name says; "" if it can."""
    held = f"it holds {look.examples()}"
    if what == "references":
        lists = (value if isinstance(value, list | tuple) else [value] for value in look.values)
        fits = all(isinstance(text, str) for texts in lists for text in texts)
    else:
        fits = what == "label" or not look.values or look.prose
        if what == "text" and not any(isinstance(value, str) for value in look.values):
            fits |= not any(other.prose for other in looks.values())  # else the first row says what it is
    if not fits:
        return f"{held}, which are not texts"
    if what == "source" and look.few(100, 10):
        return f"{held} ({look.classes} different values), which are names and not texts to write from"
    return ""


def _clearest(
    table: Table, columns: Columns, looks: dict[str, Profile], besides: Sequence[str | None], what: What
) -> str:
    """The only column of texts, or the one with by far the most words, not counting `besides`."""
    found = [look for name, look in looks.items() if name and name not in besides and look.prose]
    found = sorted((look for look in found if not look.few(20, 5)), key=lambda look: -look.words)
    if not found and what == "text":  # a file of sources only reads as texts
        found = [looks[name] for name in besides[1:] if name in looks]
    if found and (len(found) == 1 or found[0].words >= CLEARLY * found[1].words):
        return found[0].name
    usual = "'text' or 'target'" if what == "text" else f"'{what}'"
    how = table.form or ("the first line must name the columns" if table.columns else "")
    held = ", ".join(f"{look.name} ({look.examples(2)})" for look in [*looks.values()][:_SHOWN])
    raise UserError(
        f"{table.name} has no column {usual}, and none of its columns is clearly the {what}{how and f' ({how})'}: "
        f"{held}; name it with {columns.ask(what)} (in Python {what}='COLUMN')"
    )
