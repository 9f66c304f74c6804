"""One training in several processes (torchrun): who does what, and what they agree on.

Every process holds the whole model and the whole data. Of the batches of a step each takes its own; gradients are
averaged (DistributedDataParallel), so that all weights stay equal. The first process alone writes files and speaks.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def several() -> bool:
    """Whether torchrun or accelerate started this process as one of several. (A cluster may set WORLD_SIZE alone.)"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def is_main() -> bool:
    """Whether this process is the first, or the only one."""
    return not several() or int(os.environ["RANK"]) == 0


def main_first() -> AbstractContextManager[None]:
    """The first process runs the block before the others do: it writes what they then read."""
    return set_up().main_process_first() if several() else nullcontext()


def set_up() -> Any:
    """Accelerate's state of this process. Each of several processes gets its own GPU, where there are any."""
    from accelerate import PartialState

    # (Left to itself it takes several processes without a GPU for single ones.)
    return PartialState(cpu=not torch.cuda.is_available())


class Processes:
    """How many processes there are, which this one is, and what they tell each other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.count = int(os.environ["WORLD_SIZE"]) if several() else 1
        self.rank = int(os.environ["RANK"]) if several() else 0

    @property
    def main(self) -> bool:
        """Whether this is the first one."""
        return self.rank == 0

    def worst(self, flag: torch.Tensor) -> torch.Tensor:
        """The largest of the processes' scalars, without waiting for a GPU."""
        if self.count > 1:
            flag = flag.clone()
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return flag

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        if self.count == 1:
            return flag
        return bool(self.worst(torch.tensor(float(flag), device=self.device)))

    def of_main(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def together(self, values: dict[str, list[float]]) -> dict[str, list[float]]:
        """Lists of numbers by name, those of all processes in one."""
        if self.count == 1:
            return values
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, values)
        found: dict[str, list[float]] = {}
        for part in parts:
            for name, numbers in part.items():
                found.setdefault(name, []).extend(numbers)
        return found
