"""The display of a running training: a bar or a line per minute, and warnings when samples collapse.

Data go to files (`metrics.jsonl`, `samples/`), messages to standard error.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Self, TextIO

from tqdm import tqdm

Log = Callable[[str], None]

LINE_SECONDS = 60.0  # between two lines when standard error is not a terminal
LOSS_SECONDS = 1.0  # between two looks at the loss for the bar: reading it makes a GPU wait


def say(line: str) -> None:
    """Write a line to standard error without tearing a progress bar."""
    tqdm.write(line, file=sys.stderr)


class Progress:
    """A bar with the time left on a terminal, otherwise a line per minute through `log`.

    share: what is already done, in [0, 1] (more than 0 after a resume). stream: where the bar is drawn; standard error
    by default.
    """

    def __init__(self, stage: str, share: float, log: Log = say, *, stream: TextIO | None = None) -> None:
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


def sample_statistics(texts: Sequence[str]) -> dict[str, float]:
    """How far samples have collapsed, as shares in [0, 1]; {} for no samples.

    `empty`: texts with nothing but spaces. `distinct`: different texts among all. `most_common`: share of the most
    frequent text that is not empty. `repetition`: share of a text's words that are its most frequent word, as a
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
    """One line for each way in which the samples have collapsed; none if they have not.

    The limits: over 20 % empty, under 50 % distinct, one text more than twice and over 20 % of all, and repetition
    (see `sample_statistics`) over 60 %.
    """
    if not texts:
        return []
    share, count = sample_statistics(texts), len(texts)
    text = next((t for t, _ in Counter(t.strip() for t in texts).most_common() if t), "")
    same, repetition = share["most_common"], share["repetition"]
    limits = {
        f"{share['empty']:.0%} of {count} samples are empty": share["empty"] > 0.2,
        f"only {share['distinct']:.0%} of {count} samples are distinct": share["distinct"] < 0.5,
        f"{same:.0%} of {count} samples are the same text: {text[:60]!r}": same > 0.2 and same * count > 2,
        f"samples repeat themselves: one word makes up {repetition:.0%} of a text": repetition > 0.6,
    }
    return [line for line, is_passed in limits.items() if is_passed]


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


def _units(text: str) -> Sequence[str]:
    words = text.split()
    if len(words) >= 4:
        return words
    return text if len(words) == 1 and len(text) >= 8 else ()


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
