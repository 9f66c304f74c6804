"""Batches of rows of similar length, so that few positions are padding. This module sees lengths, not texts."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ladle.checks import check_whole

BATCHES_IN_POOL = 50  # sorted together: more waste less padding, fewer mix lengths better in a batch's company
BATCHES_IN_EPOCH = 10  # at least, where that leaves batches of
LEAST_TOKENS = 1024


def token_batches(
    lengths: Sequence[int], max_tokens: int, *, seed: int, epoch: int, max_rows: int | None = None
) -> list[list[int]]:
    """Put every row into one batch with rows * longest <= max_tokens. The order depends on (seed, epoch) alone.

    Rows are shuffled, cut into pools of about fifty batches, sorted by length within each pool, and cut into batches.
    Then the batches are shuffled.

    Args:
        lengths: number of tokens of each row; 0 counts as 1.
        max_tokens: largest number of positions in a batch, padding included. A longer row gets a batch of its own.
        max_rows: largest number of rows in a batch; None for no limit.

    Returns batches of row indices. Raises UserError if `max_tokens` or `max_rows` is below 1.
    """
    for name, value in (("max_tokens", max_tokens), ("max_rows", max_rows)):
        if value is not None:
            check_whole(name, value)
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    if sizes.size == 0:
        return []
    rng = np.random.default_rng([seed % 2**63, epoch])
    rows_of_batch = max(1, int(max_tokens / sizes.mean()))
    pool_size = BATCHES_IN_POOL * min(rows_of_batch, max_rows or rows_of_batch)
    order = rng.permutation(sizes.size)
    batches: list[list[int]] = []
    for start in range(0, sizes.size, pool_size):
        pool = order[start : start + pool_size]
        pool = pool[np.argsort(sizes[pool], kind="stable")]
        batches += _cut(pool.tolist(), sizes[pool].tolist(), max_tokens, max_rows or sizes.size)
    return [batches[index] for index in rng.permutation(len(batches))]


class BatchSettings(Protocol):
    """The settings of a training that control batches, named as in `token_batches`."""

    @property
    def max_tokens(self) -> int: ...
    @property
    def max_rows(self) -> int | None: ...
    @property
    def seed(self) -> int: ...


def epoch_batches(lengths: Sequence[int], config: BatchSettings, epoch: int) -> list[list[int]]:
    """`token_batches` of an epoch with the settings of a stage, in a size that fits the data."""
    max_tokens = fitting_max_tokens(lengths, config.max_tokens)
    return token_batches(lengths, max_tokens, seed=config.seed, epoch=epoch, max_rows=config.max_rows)


def fitting_max_tokens(lengths: Sequence[int], max_tokens: int) -> int:
    """`max_tokens`, or less if a small data set would give only a few batches in an epoch: many noisy gradients are
    worth more than a few precise ones."""
    return min(max_tokens, max(LEAST_TOKENS, sum(lengths) // BATCHES_IN_EPOCH))


def _cut(pool: list[int], sizes: list[int], max_tokens: int, max_rows: int) -> list[list[int]]:
    """Cut rows that are sorted by rising length, so that a batch's longest row is its last."""
    batches: list[list[int]] = []
    current: list[int] = []
    for index, size in zip(pool, sizes, strict=True):
        if current and (len(current) == max_rows or (len(current) + 1) * size > max_tokens):
            batches.append(current)
            current = []
        current.append(index)
    batches.append(current)
    return batches
