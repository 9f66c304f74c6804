"""Keeps the weights of the best validation (`keep_best`), and ends a training without progress (`patience`)."""

from collections.abc import Mapping

from torch import Tensor, nn

from ladle.errors import UserError
from ladle.training.ema import EMA
from ladle.training.optimiser import TrainingConfig
from ladle.training.state import Position, fill_module, trained_tensors


class BestWeights:
    """The averaged weights and buffers at the lowest value of the metric `keep_best` (None: nothing is kept).

    position: holds the figures, so that they are saved with the run. tensors: the best weights of an interrupted run.
    """

    def __init__(self, config: TrainingConfig, position: Position, tensors: dict[str, Tensor] | None) -> None:
        self.config, self.position, self.tensors = config, position, tensors

    @property
    def out_of_patience(self) -> bool:
        """Whether the last `patience` validations brought nothing better."""
        return self.config.patience is not None and self.position.num_stale >= self.config.patience

    def compare(self, stage: str, metrics: Mapping[str, float], module: nn.Module, ema: EMA) -> None:
        """Keep the weights if a validation is the best so far.

        Raises:
            UserError: the validation has no metric `keep_best`.
        """
        name = self.config.keep_best
        if name is None:
            return
        if name not in metrics:
            raise UserError(f"keep_best is '{name}'; the metrics of {stage} are {', '.join(metrics) or 'none'}")
        if self.position.best is None or metrics[name] < self.position.best[name]:
            self.position.best, self.position.num_stale = dict(metrics), 0
            self.tensors = {key: value.clone() for key, value in (trained_tensors(module) | ema.tensors()).items()}
        else:
            self.position.num_stale += 1

    def restore(self, module: nn.Module, ema: EMA) -> dict[str, float] | None:
        """Put the best weights into the module and the averages. Returns their validation, or None if none is kept."""
        if self.tensors is None:
            return None
        fill_module(module, self.tensors)
        ema.load(self.tensors, ema.num_updates)
        return self.position.best
