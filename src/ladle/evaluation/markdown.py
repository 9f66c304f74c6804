"""A report as a Markdown table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ladle.evaluation.metrics import METRICS


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report as a Markdown table: a line per metric, a column per kind of rows, cells as value [95 % interval]."""
    rows: Mapping[str, Any] = report["rows"]
    cells = [
        [f"{metric.says} (`{name}`)", metric.direction, *(format_score(row.get(name)) for row in rows.values())]
        for name, metric in METRICS.items()
        if any(name in row for row in rows.values())
    ]
    counts = ", ".join(f"{name} {_count(row)}" for name, row in rows.items())
    lines = [*table(["metric", "better", *rows], cells), "", f"Texts: {counts}. Intervals: 95 %."]
    if "empty" not in rows.get("reference", {"empty": None}):
        lines.append("`reference` shows the judge on rows that it did not learn from.")
    lines += [f"Warning: {warning}." for warning in report["warnings"]]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], rule: str = "---") -> list[str]:
    """The lines of a Markdown table. rule: the cells under the names of the head."""
    first, *rest = ("| " + " | ".join(cells) + " |" for cells in [head, *rows])
    return [first, "|" + f"{rule}|" * len(head), *rest]


def format_score(score: Mapping[str, Any] | None) -> str:
    """`0.951 [0.932, 0.968]`, or `0.951 ± 0.012` if only a spread over seeds is known."""
    if score is None:
        return "-"
    digits = 1 if abs(score["value"]) >= 5 else 3
    text = f"{score['value']:.{digits}f}"
    if score.get("interval"):
        return text + " [{:.{digits}f}, {:.{digits}f}]".format(*score["interval"], digits=digits)
    spread_over_seeds = score.get("details", {}).get("spread")
    return text if spread_over_seeds is None else f"{text} ± {spread_over_seeds:.{digits}f}"


def format_percent(share: Mapping[str, Any] | None) -> str:
    """A share of texts in percent: `93.5 [92.8, 94.1]`."""
    if share is None:
        return "-"
    text = f"{100 * share['value']:.1f}"
    interval = share["interval"]
    return text + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def _count(row: Mapping[str, Any]) -> int:
    return int(row["empty"]["n"] if "empty" in row else next(iter(row.values()))["n"])
