"""Does a text say what its meaning representation says? Slots of the E2E data, by a table of aliases.

A text is searched for every phrase of the table (`e2e_slots.toml`). A phrase found is a *mention* of one or more slot
values. A slot is **said** when some mention fits its value, **missing** otherwise; a mention that fits nothing in the
input is a **wrong addition**, be it another value of a slot that the input has or a slot that it has not.

What it cannot see: which of two names is the place and which the one nearby, and claims that no phrase of the table
covers. A template that names every slot must score 100 %, a broken one must be caught: the tests hold it to that.
"""

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ladle.errors import UserError
from ladle.evaluation.intervals import bootstrap_interval, sum_by_group

SLOTS = ("name", "eatType", "food", "priceRange", "customer rating", "area", "familyFriendly", "near")

_SLOT = re.compile(r"\s*([^\[\],]+?)\s*\[([^\[\]]*)\]\s*(?:,|$)")
_NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "twenty": "20", "thirty": "30",
}  # fmt: skip
_JOINED = [
    (re.compile(r"(\d) ?(?:/|of) ?(?=\d)"), r"\1 out of "),  # 5/5, 5of5
    (re.compile(r"(\d)[.,]0+\b"), r"\1"),  # 20.00
    (re.compile(r"(?<=\d)(?=stars?\b)"), " "),
    (re.compile(r"[£$€#]|\b[le](?=\d\d\b)"), " "),  # some write L20 for £20
    (re.compile(r"(?:(?<=\d)|\b(?:english )?)(?:pounds?|euros?|dollars?|gbp|quid|sterling)\b"), " "),
    (
        re.compile(r"\b(is|are|was|were|do|does|did|wo|would|could|should|ca|has|have)n['\u2019`]?t\b|\bcan ?not\b"),
        " not ",
    ),
    (re.compile(r"['\u2019`]s\b"), "s"),
    (re.compile(r"['\u2019`]"), ""),
    (re.compile(r"&"), " and "),
    (re.compile(r"[^\w\s.,;:!?()]|_"), " "),
    (re.compile(r"([.,;:!?()])"), r" \1 "),
]


@dataclass(frozen=True)
class Mention:
    """A phrase found in a text. `values`: the (slot, value) pairs that it may stand for."""

    phrase: str
    slots: frozenset[str]
    values: frozenset[tuple[str, str]]
    generic: bool


@dataclass(frozen=True)
class SlotScore:
    """Slots of one input, by name: said right, missing; and wrong additions (slot, phrase), one a slot at most."""

    said: tuple[str, ...]
    missing: tuple[str, ...]
    wrong: tuple[tuple[str, str], ...]

    @property
    def num_slots(self) -> int:
        """Slots of the input."""
        return len(self.said) + len(self.missing)


def parse_mr(source: str) -> dict[str, str]:
    """`"name[Aromi], food[Italian]"` -> `{"name": "Aromi", "food": "Italian"}`.

    Raises:
        UserError: the source is not such a list.
    """
    slots: dict[str, str] = {}
    position = 0
    while position < len(source):
        match = _SLOT.match(source, position)
        if match is None:
            break
        slots[match[1]] = match[2].strip()
        position = match.end()
    if not slots or source[position:].strip():
        raise UserError(
            f"not a meaning representation: {source!r}; expected slots such as 'name[Aromi], food[Italian]'"
        )
    return slots


def normalise(text: str) -> str:
    """The text as the patterns see it: one space between tokens, see the head of `e2e_slots.toml`."""
    text = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    for pattern, replacement in _JOINED:
        text = pattern.sub(replacement, text)
    return " ".join(_NUMBERS.get(word, word) for word in text.split())


class SlotTable:
    """The phrases of a table, compiled. `SlotTable.load()` reads the one that ships with Ladle."""

    def __init__(self, phrases: Sequence[Mapping[str, Any]], names: Mapping[str, Sequence[str]]):
        self._phrases: list[tuple[re.Pattern[str], frozenset[str], frozenset[tuple[str, str]], bool]] = []
        for entry in phrases:
            values = frozenset((slot, value) for slot, allowed in entry["values"].items() for value in allowed)
            for pattern in entry["patterns"]:
                self._add(pattern, frozenset(entry["values"]), values, bool(entry.get("generic", False)))
        for name, forms in names.items():
            self._add_name(name, forms)
        self._names = frozenset(names)

    @classmethod
    def load(cls, path: str | Path | None = None) -> "SlotTable":
        """Read a table. `path`: a TOML file of the same form; None is the one for E2E."""
        if path is None:
            text = resources.files("ladle.evaluation").joinpath("e2e_slots.toml").read_text(encoding="utf-8")
        else:
            text = Path(path).read_text(encoding="utf-8")
        content = tomllib.loads(text)
        return cls(content["phrase"], content["names"])

    def mentions(self, text: str, mr: Mapping[str, str] | None = None) -> list[Mention]:
        """All phrases found in `text`, in its order; of two that overlap the longer. Names of `mr` are known too."""
        phrases = self._phrases
        unknown = [mr[slot] for slot in ("name", "near") if mr and slot in mr and mr[slot] not in self._names]
        if unknown:
            phrases = phrases + SlotTable([], dict.fromkeys(unknown, ()))._phrases
        normal = normalise(text)
        found = [
            (match.start(), match.end(), Mention(match.group(), slots, values, generic))
            for pattern, slots, values, generic in phrases
            for match in pattern.finditer(normal)
        ]
        found.sort(key=lambda item: (item[0] - item[1], item[0]))
        kept: list[tuple[int, int, Mention]] = []
        taken: dict[tuple[int, int], int] = {}
        for start, end, mention in found:
            if (start, end) in taken:  # the same words in two entries stand for the values of both
                index = taken[start, end]
                kept[index] = (start, end, _merge(kept[index][2], mention))
            elif all(end <= other_start or other_end <= start for other_start, other_end, _ in kept):
                taken[start, end] = len(kept)
                kept.append((start, end, mention))
        return [mention for _, _, mention in sorted(kept, key=lambda item: item[0])]

    def score(self, text: str, mr: Mapping[str, str]) -> SlotScore:
        """Which slots of `mr` the text says, which it leaves out, and what it adds. An empty text says nothing."""
        mentions = self.mentions(text, mr)
        said_values = frozenset(value for mention in mentions for value in mention.values)
        said = tuple(slot for slot, value in mr.items() if (slot, value) in said_values)
        wrong: dict[str, str] = {}
        for mention in mentions:
            if mention.generic or any(mr.get(slot) == value for slot, value in mention.values):
                continue
            # A phrase of several slots (a name can be the place or what is near) is laid to one that the text has
            # not said, else to one that the input has not.
            slot = min(mention.slots, key=lambda slot: (slot in said, slot not in mr, slot))
            wrong.setdefault(slot, mention.phrase)
        return SlotScore(said, tuple(slot for slot in mr if slot not in said), tuple(wrong.items()))

    def _add(self, pattern: str, slots: frozenset[str], values: frozenset[tuple[str, str]], generic: bool) -> None:
        self._phrases.append((re.compile(rf"(?<!\S)(?:{pattern})(?!\S)"), slots, values, generic))

    def _add_name(self, name: str, forms: Sequence[str]) -> None:
        words = normalise(name).removeprefix("the ")
        values = frozenset({("name", name), ("near", name)})
        for pattern in (f"(?:the )?{re.escape(words)}", *forms):
            self._add(pattern, frozenset({"name", "near"}), values, False)


def _merge(one: Mention, other: Mention) -> Mention:
    return Mention(one.phrase, one.slots | other.slots, one.values | other.values, one.generic or other.generic)


@cache
def default_table() -> SlotTable:
    """The table for E2E, read once."""
    return SlotTable.load()


def score(text: str, mr: Mapping[str, str]) -> SlotScore:
    """`SlotTable.score` by the table for E2E."""
    return default_table().score(text, mr)


def summarise(
    scores: Sequence[SlotScore], groups: Sequence[Any] | None = None, *, num_bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Shares over all texts: `said` and `wrong` per slot of the inputs, `faultless` per text (nothing missing, nothing
    added), with 95 % bootstrap intervals; `wrong_by_slot` counts. `groups`: the input of each text, so that its draws
    are resampled together. No texts: said and faultless 0, wrong 1."""
    counts = np.array(
        [(len(s.said), s.num_slots, len(s.wrong), not (s.missing or s.wrong), 1) for s in scores], dtype=float
    ).reshape(-1, 5)
    summed = sum_by_group(counts, groups)

    def share(top: int, bottom: int) -> Any:
        def of(rows: np.ndarray) -> float:
            total = summed[rows].sum(axis=0)
            return float(total[top] / total[bottom]) if total[bottom] else float(top == 2)

        interval = bootstrap_interval(of, len(summed), num_resamples=num_bootstrap, seed=seed)
        return {"value": of(np.arange(len(summed))), "interval": list(interval) if interval else None}

    return {
        "texts": len(scores),
        "slots": int(counts[:, 1].sum()),
        "said": share(0, 1),
        "wrong": share(2, 1),
        "faultless": share(3, 4),
        "missing_by_slot": dict(Counter(slot for s in scores for slot in s.missing)),
        "wrong_by_slot": dict(Counter(slot for s in scores for slot, _ in s.wrong)),
    }


def template(mr: Mapping[str, str]) -> str:
    """An E2E input said by rule, in ten lines: the reference that must score 100 % said and no wrong addition."""
    price = mr.get("priceRange", "")
    price = {"cheap": "cheap", "moderate": "moderately priced", "high": "high priced"}.get(price, price)
    kind = " ".join(filter(None, [price if "£" not in price else "", mr.get("food", ""), mr.get("eatType", "place")]))
    article = "an" if kind[0] in "AEIO" else "a"
    text = f"{mr.get('name', 'There')} is {article} {kind}"
    text += f" near {mr['near']}" if "near" in mr else ""
    text += {"city centre": " in the city centre", "riverside": " in the riverside area"}.get(mr.get("area", ""), "")
    text += f". The price range is {price}" if "£" in price else ""
    text += f". It has a customer rating of {mr['customer rating']}" if "customer rating" in mr else ""
    family = {"yes": ". It is family-friendly", "no": ". It is not family-friendly"}
    text += family.get(mr.get("familyFriendly", ""), "")
    return text + "."
