"""One training in several processes (torchrun): which process does what, and how they agree.

Every process holds the whole model and all data. Each takes its own batches of a step. Gradients are averaged
(DistributedDataParallel), so that all weights stay equal. Only the first process writes files and messages.
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
    """The first process runs the block before the other processes, which then read what it wrote."""
    return set_up().main_process_first() if several() else nullcontext()


def set_up() -> Any:
    """Accelerate's state of this process. Each of several processes gets its own GPU if there are GPUs."""
    from accelerate import PartialState

    # (By default accelerate takes several processes without a GPU for single ones.)
    return PartialState(cpu=not torch.cuda.is_available())


class Processes:
    """The number of processes, the rank of this one, and their communication."""

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
        """Whether `flag` is true in any process."""
        return flag if self.count == 1 else bool(self.worst(torch.tensor(float(flag), device=self.device)))

    def of_main(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def together(self, values: dict[str, list[float]]) -> dict[str, list[float]]:
        """Lists of numbers by name, joined over all processes."""
        from accelerate.utils import gather_object

        found: dict[str, list[float]] = {}
        for part in gather_object([values]):
            for name, numbers in part.items():
                found.setdefault(name, []).extend(numbers)
        return found
