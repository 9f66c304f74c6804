"""Data sets that do not fit in memory: each epoch holds another portion of the rows."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

R = TypeVar("R")
T = TypeVar("T")


class Portions(Generic[T]):
    """Consecutive portions of `size` items. The last portion may be shorter; after it the first one comes again.

    read: opens the items at the first one; it is called for every pass. size: how many items are held in memory.
    """

    def __init__(self, read: Callable[[], Iterator[T]], size: int) -> None:
        self._read, self._size = read, size
        self._items: Iterator[T] = iter(())
        self._held: list[T] = []
        self._number = -1  # of the held portion
        self._count: int | None = None  # of portions, known after the first pass

    def __call__(self, epoch: int) -> list[T]:
        """The portion of an epoch, counted from 0: the same list as long as it is held. If it is not the next portion,
        the items before it are skipped."""
        number = epoch if self._count is None else epoch % self._count
        if number == self._number:
            return self._held
        if number < self._number or self._number < 0:
            self._items, self._number = self._read(), -1
        while self._number < number:
            self._held = []  # never two of them
            self._held = list(islice(self._items, self._size))
            if not self._held and self._number >= 0:  # the end, and the last portion was a whole one
                self._count = self._number + 1
                self._number = -1
                return self(epoch)
            self._number += 1
            if len(self._held) < self._size:
                self._count = self._number + 1
                return self(epoch)
        return self._held


def in_every_epoch(value: T) -> Callable[[int], T]:
    """The same value in every epoch, for data that fit in memory."""
    return lambda epoch: value


class PerPortion(Generic[R, T]):
    """The training data of a stage, made again when the rows of the epoch change.

    rows_of: the rows of an epoch, the same list while they do not change. make: turns rows into training data.
    """

    def __init__(self, rows_of: Callable[[int], Sequence[R]], make: Callable[[Sequence[R]], T]) -> None:
        self._rows_of, self._make = rows_of, make
        self._rows: Sequence[R] | None = None
        self._made: T

    def __call__(self, epoch: int) -> T:
        """The training data of an epoch, counted from 0."""
        rows = self._rows_of(epoch)
        if rows is not self._rows:
            self._rows, self._made = rows, self._make(rows)
        return self._made
