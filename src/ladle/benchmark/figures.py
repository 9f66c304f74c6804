"""One figure of a suite's results, by its name: what a column of a composite table shows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ladle.benchmark import matched
from ladle.benchmark.matched import Figure
from ladle.benchmark.results import mean_and_spread
from ladle.benchmark.suite import SuiteConfig
from ladle.config import nearest
from ladle.errors import UserError
from ladle.evaluation.metrics import METRICS

REAL = "real text"  # the control row `reference`
LIKELIHOOD = "likelihood"  # a bound, or the exact value: perplexity of held-out texts under the system itself
AT = {f"test_bleu at self_bleu of {place}": place for place in ("real text", "the middle")}
SPEED = re.compile(r"tokens/s, batch (\d+)")
_OTHERS = {
    LIKELIHOOD: ("lower", "perplexity a token of held-out texts under the system itself"),
    **{name: ("higher", f"test-BLEU at the self-BLEU of {place}") for name, place in AT.items()},
}


def check_metric(name: str, suite: SuiteConfig, where: str) -> None:
    """Whether `figure` knows this name. Raises UserError: it does not. where: the beginning of the message."""
    if speed := SPEED.fullmatch(name):
        sizes = [str(size) for size in suite.speed.batches]
        if speed[1] not in sizes:
            raise UserError(f"{where} is of batch {speed[1]}; {suite.name} measures speed at batch {', '.join(sizes)}")
    elif name not in METRICS and name not in _OTHERS:
        sizes = [f"tokens/s, batch {size}" for size in suite.speed.batches]
        raise UserError(f"{where} has the unknown metric '{name}': {nearest(name, [*METRICS, *_OTHERS, *sizes])}")


def meaning(name: str) -> tuple[str, str]:
    """Which values of a figure are better, and what it is."""
    if SPEED.fullmatch(name):
        return "higher", "tokens of returned text a second, median of rounds"
    if name in _OTHERS:
        return _OTHERS[name]
    return METRICS[name].direction, METRICS[name].says


def figure(result: Mapping[str, Any], row: str, name: str) -> Figure | None:
    """Mean, spread and number of values (seeds; for speed rounds) of one system in a suite's results.

    row: a system, whose first settings count, or `SYSTEM, SETTINGS`, or `real text`. None where it was not measured.
    """
    if row == REAL:
        control = result["controls"].get("reference", {})
        own = matched.Y if AT.get(name) == REAL else name  # (real text is at its own self-BLEU)
        return mean_and_spread([control], own)
    name_of_system, setting = system_and_settings(row)
    system = result["systems"].get(name_of_system)
    if system is None or (setting is not None and setting not in system["settings"]):
        return None
    settings: Mapping[str, Sequence[Mapping[str, Any]]] = system["settings"]
    if setting is not None:  # (of them only the scores are known)
        return mean_and_spread(settings[setting], name) if name in METRICS else None
    if name in AT:
        return matched.at_self_bleu(settings, matched.places(result)[AT[name]])
    if speed := SPEED.fullmatch(name):
        timed = next((at[speed[1]] for at in system["speed"].values() if speed[1] in at), None)
        return timed and _spread(timed["median"], timed["rounds"])
    if name == LIKELIHOOD:
        if not system.get(name):
            return None
        return _spread(system[name]["value"], system[name]["values"])
    return mean_and_spread(next(iter(settings.values())), name)


def system_and_settings(row: str) -> tuple[str, str | None]:
    """A row of a composite table, `SYSTEM` or `SYSTEM, SETTINGS` -> the names of both; None: its first settings. (The
    name of a system has no space.)"""
    system, comma, setting = row.partition(", ")
    return system, setting if comma else None


def _spread(value: float, figures: Sequence[float]) -> Figure:
    return value, float(np.std(figures, ddof=1)) if len(figures) > 1 else 0.0, len(figures)
