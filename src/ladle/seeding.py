"""One random generator per sample, so that a sample depends on its own seed and on nothing else.

Numbers are drawn on the CPU: the same seed gives the same noise on every device, to which callers move it.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ladle.checks import MAX_SEED, check_list, check_whole
from ladle.errors import UserError


class SampleNoise:
    """The random streams of B samples. Sample i's numbers depend only on `seeds[i]` and on its own earlier draws, not
    on the other samples, their order, the split into batches, or padding.

    Args:
        seeds: one per sample; equal seeds give equal streams.

    Raises:
        UserError: no seeds, or a seed outside 0 .. 2^32 - 1 (torch's CPU generator reads only 32 bits of a seed, so
            two larger seeds could silently give the same stream).
    """

    def __init__(self, seeds: Sequence[int]):
        seeds = check_seeds(seeds)
        if not seeds:
            raise UserError("no seeds given; give one seed per sample")
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    @classmethod
    def join(cls, parts: Sequence["SampleNoise"]) -> "SampleNoise":
        """The streams of all `parts` together. Each continues from its present position."""
        joined = cls.__new__(cls)
        joined._generators = [generator for part in parts for generator in part._generators]
        return joined

    def copy(self) -> "SampleNoise":
        """The same streams at their present positions. What the copy draws does not move these."""
        other = type(self).__new__(type(self))
        other._generators = [torch.Generator("cpu").set_state(own.get_state()) for own in self._generators]
        return other

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, shapes: Sequence[Sequence[int]]) -> Tensor:
        """Standard normal float32, [B, *largest]: each sample's next numbers, with zeros behind its own part.

        shapes: one per sample. Where lengths differ within a batch, give each sample its own: numbers drawn for padding
        would make a sample depend on its neighbours.

        Raises:
            ValueError: as many shapes as samples are needed, all with the same number of axes.
        """
        if len(shapes) != len(self) or len({len(own) for own in shapes}) != 1:
            raise ValueError(f"shapes are {shapes}; give {len(self)} shapes with equal numbers of axes")
        if len({*map(tuple, shapes)}) == 1:  # (the usual case, in half the time)
            batch = torch.empty(len(self), *shapes[0], dtype=torch.float32)
            for row, generator in zip(batch, self._generators, strict=True):
                torch.randn(shapes[0], generator=generator, out=row)
            return batch
        largest = [max(axis) for axis in zip(*shapes, strict=True)]
        batch = torch.zeros(len(self), *largest, dtype=torch.float32)
        for row, own, generator in zip(batch, shapes, self._generators, strict=True):
            row[tuple(slice(size) for size in own)] = torch.randn(own, generator=generator, dtype=torch.float32)
        return batch

    def uniform(self, shape: Sequence[int] = ()) -> Tensor:
        """Float32 numbers in [0, 1), [B, *shape]: one per sample if no shape is given."""
        draws = [torch.rand(shape, generator=generator, dtype=torch.float32) for generator in self._generators]
        return torch.stack(draws)


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """The same as a list of ints. UserError: not a list, or one that is not a whole number from 0 to 2^32 - 1."""
    return [check_whole("seed", seed, 0, MAX_SEED) for seed in check_list("seeds", seeds, "a list of whole numbers")]
