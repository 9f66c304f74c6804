"""What a training shows while it goes: a bar or a line a minute, metrics, samples, warnings when those collapse.

Data go to files (`metrics.jsonl`, `samples/`), words to standard error.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from tqdm import tqdm

from ladle.errors import LadleError
from ladle.files import atomic_text, write_rows

Log = Callable[[str], None]

LINE_SECONDS = 60.0  # between two lines when standard error is not a terminal
LOSS_SECONDS = 1.0  # between two looks at the loss for the bar: reading it makes a GPU wait


def say(line: str) -> None:
    """Write a line to standard error without tearing a progress bar."""
    tqdm.write(line, file=sys.stderr)


class Progress:
    """A bar with the time left on a terminal, otherwise a line a minute through `log`.

    Args:
        stage: its name, shown first.
        share: what is already done, in [0, 1] (more than 0 after a resume).
        log: takes the lines.
        stream: where the bar is drawn; standard error by default.
    """

    def __init__(
        self,
        stage: str,
        share: float,
        log: Log = say,
        *,
        stream: TextIO | None = None,
    ) -> None:
        stream = stream or sys.stderr
        self._stage, self._start, self._share, self._log = stage, share, share, log
        self._began = self._shown = time.monotonic()
        self._bar: tqdm | None = None
        if stream.isatty():
            layout = "{desc} {percentage:3.0f} %|{bar}| {elapsed}, {remaining} left{postfix}"
            self._bar = tqdm(total=1.0, initial=share, desc=stage, file=stream, bar_format=layout, smoothing=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, share: float, step: int, loss: Callable[[], float | None]) -> None:
        """Show that `share` of the training is done. `loss` is called only when it is about to be shown."""
        now = time.monotonic()
        due = now - self._shown >= (LINE_SECONDS if self._bar is None else LOSS_SECONDS)
        if due:
            self._shown = now
        if self._bar is not None:
            if due:
                self._bar.set_postfix_str(f"step {step}, loss {_number(loss())}", refresh=False)
            self._bar.update(share - self._share)
        elif due:
            left = (now - self._began) * (1 - share) / max(share - self._start, 1e-9)
            self._log(f"{self._stage}: {100 * share:.0f} %, step {step}, loss {_number(loss())}, {duration(left)} left")
        self._share = share


class Record:
    """`metrics.jsonl` and `samples/<stage>-<step>.jsonl` of one stage in a run folder.

    Args:
        run_dir: the run's folder.
        stage: rows of other stages are left alone.
        num_rows: rows of this stage that the restored state knows of; later ones came after it and are dropped, as
            is a last line that was cut off. 0 for a new training.
        step: the restored step; samples after it are deleted.

    Raises:
        LadleError: a file cannot be written (from every method).
    """

    def __init__(self, run_dir: Path, stage: str, num_rows: int = 0, step: int = 0) -> None:
        self._path, self._samples, self._stage = run_dir / "metrics.jsonl", run_dir / "samples", stage
        self.num_rows = 0
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = []
            for line in lines:
                owner = _stage_of(line)
                if owner == stage and self.num_rows < num_rows:
                    kept.append(line)
                    self.num_rows += 1
                elif owner not in (stage, None):
                    kept.append(line)
            if kept != lines:
                atomic_text(self._path, "".join(kept))
        for path in self._samples.glob(f"{stage}-*.jsonl"):
            number = path.stem.removeprefix(f"{stage}-")
            if number.isdigit() and int(number) > step:
                path.unlink()

    def row(self, values: Mapping[str, Any]) -> None:
        """Append a row; NaN and infinities become null."""
        row = {"stage": self._stage} | {key: _plain(value) for key, value in values.items()}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise LadleError(f"cannot write {self._path}: {error.strerror or error}") from error
        self.num_rows += 1

    def samples(self, step: int, texts: Sequence[str]) -> None:
        """Write the texts sampled at `step`, in place of earlier ones of that step."""
        write_rows(self._samples / f"{self._stage}-{step}.jsonl", ({"text": text} for text in texts))


class NoRecord(Record):
    """Of a process that writes nothing."""

    def __init__(self, run_dir: Path, stage: str, num_rows: int = 0, step: int = 0) -> None:
        self.num_rows = num_rows

    def row(self, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def samples(self, step: int, texts: Sequence[str]) -> None:
        """Nothing."""


def sample_statistics(texts: Sequence[str]) -> dict[str, float]:
    """How far samples have collapsed, as shares in [0, 1]; {} for no samples.

    `empty`: texts without a character but spaces. `distinct`: different texts among all. `most_common`: share of the
    most frequent text that is not empty. `repetition`: share of a text that its most frequent word makes up, as a
    mean over the texts long enough to tell (four words, or eight characters where words are not spaced); 0 if none.
    """
    if not texts:
        return {}
    stripped = [text.strip() for text in texts]
    counts = Counter(stripped)
    full = [count for text, count in counts.items() if text]
    repetitions = [max(Counter(units).values()) / len(units) for units in map(_units, stripped) if units]
    return {
        "empty": counts[""] / len(texts),
        "distinct": len(counts) / len(texts),
        "most_common": max(full, default=0) / len(texts),
        "repetition": sum(repetitions) / len(repetitions) if repetitions else 0.0,
    }


def collapse_warnings(texts: Sequence[str]) -> list[str]:
    """One line for each way in which the samples have collapsed; none when they look alive.

    The limits: over 20 % empty, under 50 % distinct, one text more than twice and over 20 % of all, and repetition
    (see `sample_statistics`) over 60 %.
    """
    if not texts:
        return []
    share = sample_statistics(texts)
    warnings = []
    if share["empty"] > 0.2:
        warnings.append(f"{share['empty']:.0%} of {len(texts)} samples are empty")
    if share["distinct"] < 0.5:
        warnings.append(f"only {share['distinct']:.0%} of {len(texts)} samples are distinct")
    if share["most_common"] > 0.2 and share["most_common"] * len(texts) > 2:
        text = next(t for t, _ in Counter(t.strip() for t in texts).most_common() if t)
        warnings.append(f"{share['most_common']:.0%} of {len(texts)} samples are the same text: {text[:60]!r}")
    if share["repetition"] > 0.6:
        warnings.append(f"samples repeat themselves: one word makes up {share['repetition']:.0%} of a text")
    return warnings


def duration(seconds: float) -> str:
    """Seconds as people say them: `40 s`, `12 min`, `1 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def mean(values: Iterable[float]) -> float | None:
    """The mean of the finite values; None if there are none."""
    finite = [value for value in values if abs(value) < float("inf")]  # false for NaN too
    return sum(finite) / len(finite) if finite else None


def _stage_of(line: str) -> str | None:
    """The stage of a row of `metrics.jsonl`; None for a line that was cut off or is no row."""
    try:
        return str(json.loads(line)["stage"]) if line.endswith("\n") else None
    except (ValueError, TypeError, KeyError):
        return None


def _units(text: str) -> Sequence[str]:
    words = text.split()
    if len(words) >= 4:
        return words
    return text if len(words) == 1 and len(text) >= 8 else ()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
