"""What rivals are asked: the conditions of rows that they know, and the seeds of samples."""

from collections.abc import Sequence
from typing import Any, Protocol

from ladle.data.labels import own_label
from ladle.data.rows import Row

Each = Sequence[str | None]  # for each sample
Given = Each | None


class Conditions(Protocol):
    """What a rival's config says of its conditions: the names of the classes, and whether it reads sources."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> bool: ...


def known_conditions(rows: Sequence[Row], known: Conditions) -> dict[str, Any]:
    """`label` and `source` of each row, as arguments of `generate`; None for what the row or the rival has not."""
    labels = [own_label(row.get("label"), known.labels) if known.labels else None for row in rows]
    return {"label": labels, "source": [row.get("source") if known.source else None for row in rows]}


def sample_seeds(num_samples: int | None, seeds: Sequence[int] | None, *lists: Sequence[Any] | None) -> list[int]:
    """One seed for each sample: those that are given, else 0, 1, ... for as many samples as are asked for, or as a list
    has, or for one."""
    count = num_samples or next((len(own) for own in (seeds, *lists) if own is not None), 1)
    return list(range(count)) if seeds is None else list(seeds)
