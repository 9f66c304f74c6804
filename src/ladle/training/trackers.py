"""Metrics of a training for TensorBoard, Weights & Biases and others that accelerate knows, beside metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ladle.config import nearest
from ladle.errors import UserError

PACKAGES = {"comet_ml": "comet-ml"}  # where pip knows it by another name


def check_trackers(names: Sequence[str]) -> None:
    """Check before the work begins that each tracker can be used.

    Raises:
        UserError: an unknown name, or a tracker whose package is not installed.
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


def start_trackers(names: Sequence[str], stage: str, run_dir: Path) -> list[Any]:
    """Accelerate's trackers with these names, for project `ladle-STAGE`. Their files are under `run_dir`/trackers.

    Raises:
        UserError: as `check_trackers`.
    """
    check_trackers(names)
    trackers: list[Any] = []
    for name in dict.fromkeys(names):
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # two seconds that most trainings do not need

        kind = LOGGER_TYPE_TO_CLASS[name]
        folder = [str(run_dir / "trackers")] if kind.requires_logging_directory else []
        trackers.append(kind(f"ladle-{stage}", *folder))
        trackers[-1].start()
    return trackers
