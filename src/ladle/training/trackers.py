"""Metrics of a training for TensorBoard, Weights & Biases and others that accelerate knows, beside metrics.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle.config import nearest
from ladle.errors import UserError

PACKAGES = {"comet_ml": "comet-ml"}  # where pip knows it by another name


def check_trackers(names: Sequence[str]) -> None:
    """See that each can be used, before the work begins.

    Raises:
        UserError: an unknown name, or one whose package is not installed.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    known = {str(kind.value) for kind in LoggerType}  # others are registered by the user's code
    usable = {str(kind.value) for kind in get_available_trackers()} | (LOGGER_TYPE_TO_CLASS.keys() - known)
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f"unknown tracker '{name}': {nearest(name, list(LOGGER_TYPE_TO_CLASS))}")
        if name not in usable:
            raise UserError(f"the tracker '{name}' is not installed: pip install {PACKAGES.get(name, name)}")


class Trackers:
    """The trackers of one stage.

    Args:
        names: as accelerate names them.
        stage: rows are those of this stage; a project is `ladle-STAGE`.
        run_dir: those that write files write them under `run_dir`/trackers.

    Raises:
        UserError: as `check_trackers`.
    """

    def __init__(self, names: Sequence[str], stage: str, run_dir: Path) -> None:
        check_trackers(names)
        self._trackers: list[Any] = []
        if not names:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # two seconds that most trainings do not need

        for name in dict.fromkeys(names):
            kind = LOGGER_TYPE_TO_CLASS[name]
            folder = [str(run_dir / "trackers")] if kind.requires_logging_directory else []
            self._trackers.append(kind(f"ladle-{stage}", *folder))
            self._trackers[-1].start()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """A row of metrics.jsonl; what is nested in it is named `group/name`."""
        numbers = dict(_numbers(values))
        for tracker in self._trackers:
            tracker.log(numbers, step=step)

    def close(self) -> None:
        """End them all; what was logged is written."""
        for tracker in self._trackers:
            tracker.finish()
        self._trackers.clear()


def _numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, value))
    return found
