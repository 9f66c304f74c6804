"""The readable files of a run folder: rows of metrics, and samples. Trackers get the rows too."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle.storage.writing import append_text, atomic_text, clear_temporaries, write_rows
from ladle.training.state import flatten
from ladle.training.trackers import start_trackers


class Record:
    """`metrics.jsonl` and `samples/<stage>-<step>.jsonl` of one stage in a run folder.

    Args:
        stage: rows of other stages are left alone.
        num_rows: rows of this stage in the restored state. Later rows and an incomplete last line are dropped. 0 for a
            new training.
        step: the restored step. Samples after it are deleted, and so are files that a killed run was writing.
        writes: False in a process that writes nothing.
        trackers: by name. They get every row too, with nested values as `group/name`.

    Raises:
        UserError: an unknown tracker, or one that is not installed.
        LadleError: a file cannot be written (from every method).
    """

    def __init__(
        self, run_dir: Path, stage: str, num_rows: int = 0, step: int = 0, trackers: Sequence[str] = (),
        *, writes: bool = True,
    ) -> None:  # fmt: skip
        self._trackers = start_trackers(trackers if writes else (), stage, run_dir)
        self._path, self._samples, self._stage = run_dir / "metrics.jsonl", run_dir / "samples", stage
        self.num_rows, self._writes = 0, writes
        if not writes:
            return
        for folder in (run_dir, self._samples):
            clear_temporaries(folder)
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = []
            for line in lines:
                owner = _stage_of(line)
                own = owner == stage and self.num_rows < num_rows
                self.num_rows += own
                if own or owner not in (stage, None):
                    kept.append(line)
            if kept != lines:
                atomic_text(self._path, "".join(kept))
        for path in self._samples.glob(f"{stage}-*.jsonl"):
            number = path.stem.removeprefix(f"{stage}-")
            if number.isdigit() and int(number) > step:
                path.unlink()

    def row(self, values: Mapping[str, Any]) -> None:
        """Append a row; NaN and infinities become null."""
        if not self._writes:
            return
        row = json.loads(json.dumps({"stage": self._stage, **values}), parse_constant=lambda name: None)
        append_text(self._path, json.dumps(row) + "\n")
        self.num_rows += 1
        numbers = {name: value for name, value in flatten(values, "/").items() if isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.log(numbers, step=values["step"])

    def samples(self, step: int, texts: Sequence[str]) -> None:
        """Write the texts sampled at `step`. They replace earlier ones of that step."""
        write_rows(self._samples / f"{self._stage}-{step}.jsonl", ({"text": text} for text in texts))

    def close(self) -> None:
        """End the trackers, so that they write all they have. (Files are complete after every row.)"""
        for tracker in self._trackers:
            tracker.finish()


def _stage_of(line: str) -> str | None:
    """The stage of a row of `metrics.jsonl`; None for an incomplete line or a line that is not a row."""
    try:
        return str(json.loads(line)["stage"]) if line.endswith("\n") else None
    except (ValueError, TypeError, KeyError):
        return None
