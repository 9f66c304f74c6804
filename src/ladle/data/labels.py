"""The one spelling of a label, for rows, for what users ask for and for judges."""

import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

# What pandas takes for a missing value in a table.
MISSING = frozenset([
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
])  # fmt: skip


def spell_label(value: Any) -> str | None:
    """The label as Ladle writes it; None if it is missing.

    White space is collapsed. True, "True" and "TRUE" are `true`; 1, 1.0 and "1.0" are `1`; None, NaN and the words
    that pandas takes for a missing value ("", "NA", "nan", ...) are None.
    """
    if value is None or value != value:  # (NaN)
        return None
    if type(value).__name__ in ("bool", "bool_"):  # (numpy's too)
        return str(bool(value)).lower()
    if isinstance(value, Integral):
        return str(int(value))
    text = " ".join((str(float(value)) if isinstance(value, Real) else str(value)).split())
    if text in MISSING:
        return None
    if text.lower() in ("true", "false"):
        return text.lower()
    return re.sub(r"^(?:-(?=0+\.0+$))?([+-]?\d+)\.0+$", r"\1", text, flags=re.ASCII)


def own_label(label: Any, known: Sequence[str]) -> str | None:
    """The one of `known` labels that `label` means; its own spelling if it is none of them. None for no label.

    (Models of earlier versions know labels in other spellings.)
    """
    if label is None or label in known:
        return label
    spelled = spell_label(label)
    found = next((name for name in known if spell_label(name) == spelled), spelled)
    return str(label) if found is None and isinstance(label, str) else found
