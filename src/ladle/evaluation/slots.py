"""Does a text say what its meaning representation says? Slots of the E2E data, by a table of aliases.

A text is searched for every phrase of the table (`e2e_slots.toml`). A phrase found is a *mention* of one or more slot
values. A slot is **said** if a mention fits its value, and **missing** otherwise. A mention that fits nothing in the
input is a **wrong addition**: a wrong value of a slot in the input, or a slot that is not in the input.

Two things cannot be seen: which of two names is the place and which is nearby, and claims that no phrase of the table
covers. The tests make sure that a template with every slot scores 100 % and that a broken template is caught.
"""

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from ladle.errors import UserError
from ladle.evaluation.intervals import DEFAULT, Resampling, ratio_of_sums, sum_by_group

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
    """Slots of one input by name, said or missing, and wrong additions (slot, phrase), at most one per slot."""

    said: tuple[str, ...]
    missing: tuple[str, ...]
    wrong: tuple[tuple[str, str], ...]


def parse_mr(source: str) -> dict[str, str]:
    """`"name[Aromi], food[Italian]"` -> `{"name": "Aromi", "food": "Italian"}`. Raises UserError for other text."""
    found = _SLOT.findall(source)
    if not found or _SLOT.sub("", source).strip():
        raise UserError(f"not a meaning representation: {source!r}; give slots such as 'name[Aromi], food[Italian]'")
    return {slot: value.strip() for slot, value in found}


def normalise(text: str) -> str:
    """The text as the patterns see it: one space between tokens, see the head of `e2e_slots.toml`."""
    text = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    for pattern, replacement in _JOINED:
        text = pattern.sub(replacement, text)
    return " ".join(_NUMBERS.get(word, word) for word in text.split())


class SlotTable:
    """The phrases of a table, compiled. `phrases` and `names` are as in `e2e_slots.toml`."""

    def __init__(self, phrases: Sequence[Mapping[str, Any]], names: Mapping[str, Sequence[str]]):
        entries = list(phrases)
        for name, forms in names.items():
            pattern = f"(?:the )?{re.escape(normalise(name).removeprefix('the '))}"
            entries.append({"values": {"name": [name], "near": [name]}, "patterns": [pattern, *forms]})
        self._names = frozenset(names)
        self._phrases: list[tuple[re.Pattern[str], Mention]] = []
        for entry in entries:
            values = frozenset((slot, value) for slot, allowed in entry["values"].items() for value in allowed)
            mention = Mention("", frozenset(entry["values"]), values, entry.get("generic", False))
            self._phrases += [(re.compile(rf"(?<!\S)(?:{pattern})(?!\S)"), mention) for pattern in entry["patterns"]]

    def mentions(self, text: str, mr: Mapping[str, str] | None = None) -> list[Mention]:
        """All phrases found in `text`, in order. Of two that overlap the longer counts. Names in `mr` are found too."""
        phrases = self._phrases
        unknown = [mr[slot] for slot in ("name", "near") if mr and slot in mr and mr[slot] not in self._names]
        if unknown:
            phrases = phrases + SlotTable([], dict.fromkeys(unknown, ()))._phrases
        normal = normalise(text)
        found = [
            (match.start(), match.end(), replace(mention, phrase=match.group()))
            for pattern, mention in phrases
            for match in pattern.finditer(normal)
        ]
        found.sort(key=lambda item: (item[0] - item[1], item[0]))
        kept: dict[tuple[int, int], Mention] = {}
        for start, end, mention in found:
            if same := kept.get((start, end)):  # the same words in two entries stand for the values of both
                slots, values = same.slots | mention.slots, same.values | mention.values
                kept[start, end] = Mention(same.phrase, slots, values, same.generic or mention.generic)
            elif all(end <= other_start or other_end <= start for other_start, other_end in kept):
                kept[start, end] = mention
        return [kept[place] for place in sorted(kept)]

    def score(self, text: str, mr: Mapping[str, str]) -> SlotScore:
        """Which slots of `mr` the text says, which it leaves out, and what it adds. An empty text says nothing."""
        mentions = self.mentions(text, mr)
        said_values = frozenset(value for mention in mentions for value in mention.values)
        said = tuple(slot for slot, value in mr.items() if (slot, value) in said_values)
        wrong: dict[str, str] = {}
        for mention in mentions:
            if mention.generic or any(mr.get(slot) == value for slot, value in mention.values):
                continue
            # A phrase of several slots (a name can be the place or a place nearby) counts as an addition to a slot that
            # the text has not said, else to a slot that the input does not have.
            slot = min(mention.slots, key=lambda slot: (slot in said, slot not in mr, slot))
            wrong.setdefault(slot, mention.phrase)
        return SlotScore(said, tuple(slot for slot in mr if slot not in said), tuple(wrong.items()))


@cache
def default_table() -> SlotTable:
    """The table for E2E, read once."""
    content = tomllib.loads(resources.files("ladle.evaluation").joinpath("e2e_slots.toml").read_text(encoding="utf-8"))
    return SlotTable(content["phrase"], content["names"])


def score(text: str, mr: Mapping[str, str]) -> SlotScore:
    """`SlotTable.score` by the table for E2E."""
    return default_table().score(text, mr)


def summarise(
    scores: Sequence[SlotScore], groups: Sequence[Any] | None = None, resampling: Resampling = DEFAULT
) -> dict[str, Any]:
    """Shares over all texts with 95 % bootstrap intervals: `said` and `wrong` per slot of the inputs, `faultless` per
    text (nothing missing, nothing added). `wrong_by_slot` counts. `groups`: the input of each text; draws of one input
    are resampled together. No texts: said and faultless are 0, wrong is 1."""
    rows = [(len(s.said), len(s.said) + len(s.missing), len(s.wrong), not (s.missing or s.wrong), 1) for s in scores]
    counts = np.array(rows, dtype=float).reshape(-1, 5)
    summed = sum_by_group(counts, groups)

    def share(top: int, bottom: int, nothing: float = 0.0) -> dict[str, Any]:
        ratio = ratio_of_sums(summed[:, [top, bottom]], nothing)
        interval = resampling.bootstrap(ratio, len(summed))
        return {"value": ratio(np.arange(len(summed))), "interval": interval and list(interval)}

    return {
        "texts": len(scores),
        "slots": int(counts[:, 1].sum()),
        "said": share(0, 1),
        "wrong": share(2, 1, nothing=1.0),
        "faultless": share(3, 4),
        "missing_by_slot": dict(Counter(slot for s in scores for slot in s.missing)),
        "wrong_by_slot": dict(Counter(slot for s in scores for slot, _ in s.wrong)),
    }
