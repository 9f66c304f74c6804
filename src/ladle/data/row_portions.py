"""Rows of a set that need not fit in memory: another portion of them in each epoch."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

R = TypeVar("R")
T = TypeVar("T")


class Portions(Generic[T]):
    """Consecutive runs of `size` items, the last of which may be shorter; after it the first comes again.

    read: opens the items, from the first one; called again for every pass over them. size: how many are held in memory.
    """

    def __init__(self, read: Callable[[], Iterator[T]], size: int) -> None:
        self._read, self._size = read, size
        self._items: Iterator[T] = iter(())
        self._held: list[T] = []
        self._number = -1  # of the held portion
        self._count: int | None = None  # of portions, known after the first pass

    def __call__(self, epoch: int) -> list[T]:
        """The portion of an epoch, 0 the first: the same list for as long as it is the held one. What comes before it
        is read over where it is not the next."""
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
    """What a stage trains on where all of it is in memory."""
    return lambda epoch: value


class PerPortion(Generic[R, T]):
    """What a stage makes of the rows of an epoch, made anew when those are others.

    rows_of: the rows of an epoch, one list for as long as they are the same. make: of them what the stage trains on.
    """

    def __init__(self, rows_of: Callable[[int], Sequence[R]], make: Callable[[Sequence[R]], T]) -> None:
        self._rows_of, self._make = rows_of, make
        self._rows: Sequence[R] | None = None
        self._made: T

    def __call__(self, epoch: int) -> T:
        """For that epoch, 0 the first."""
        rows = self._rows_of(epoch)
        if rows is not self._rows:
            self._rows, self._made = rows, self._make(rows)
        return self._made
