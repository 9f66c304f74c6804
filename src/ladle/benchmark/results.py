"""Turns scores into tables and plots."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ladle.benchmark import matched
from ladle.benchmark.choice import NOTE, choosing, split_choice
from ladle.evaluation.markdown import table
from ladle.evaluation.metrics import METRICS
from ladle.evaluation.plots import Point, plot_curves, plot_frontier
from ladle.storage.writing import atomic_json, atomic_text

# The columns of the first table, where they were measured; the second has every metric.
COLUMNS = (
    "mauve", "mauve_by_label", "frechet", "perplexity", "bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "bertscore",
    "slots_said", "slots_wrong", "div", "self_bleu", "test_bleu", "mem", "copies", "label_true", "label_true_2",
    "length",
)  # fmt: skip
COMPARED = ("mauve", "mauve_by_label", "perplexity", "bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "bertscore",
            "div", "mem", "copies", "label_true", "slots_said")  # fmt: skip
FRONTIERS = (("div", "mauve"), ("copies", "mauve"), ("mem", "mauve"), ("div", "perplexity"), ("div", "bleu"),
             ("slots_said", "bleu"), (matched.X, matched.Y))  # fmt: skip
# Student's t, 97.5 %, by degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
      2.110, 2.101, 2.093, 2.086)  # fmt: skip

_table = partial(table, rule=" --- ")


def write_results(result: dict[str, Any], folder: Path) -> Path:
    """Write results.json, table.md and plots/ of one suite. Returns the path of the table."""
    result["differences"] = differences(result)
    atomic_json(folder / "results.json", result)
    atomic_text(folder / "table.md", to_markdown(result))
    plots = folder / "plots"
    for x, y in FRONTIERS:
        points = _points(result, x, y)
        if points:
            plot_frontier(points, x, y, plots / f"{y}_{x}.png", title=result["suite"]["name"])
    for name, system in result["systems"].items():
        curves = perplexity_curves(folder / name) if system["kind"] == "autoregressive" else {}
        if curves:
            plot_curves(curves, "minutes of training", "perplexity a token, held out", plots / f"{name}_perplexity.png")
    return folder / "table.md"


def mean_and_spread(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, float, int] | None:
    """Mean and standard deviation over seeds, and the number of seeds; None if the metric was not measured."""
    values = [row[metric]["value"] for row in rows if metric in row]
    if not values:
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, len(values)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Mean of the differences, seed by seed, with its 95 % interval (Student's t). A single seed has no interval."""
    gaps = np.array(ours, dtype=float) - np.array(theirs, dtype=float)
    value, count = float(gaps.mean()), len(gaps)
    if count < 2:
        return {"value": value, "interval": None, "n": count}
    half = _T[min(count - 2, len(_T) - 1)] * float(gaps.std(ddof=1)) / np.sqrt(count)
    return {"value": value, "interval": [value - half, value + half], "n": count}


def differences(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each system minus the rival, by metric, with the settings of the table. Other settings with all seeds come under
    `system, settings`. Those that choose among draws are compared with the rival's that choose alike, if it has any."""
    systems = result["systems"]
    rival = result["suite"]["rival"] or next((n for n, s in systems.items() if s["kind"] == "autoregressive"), None)
    if rival is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, system in systems.items():
        for i, (setting, ours) in enumerate(system["settings"].items()):
            pairs = list(zip(ours, _compared_with(result, name, setting, rival), strict=False))
            if name == rival or not pairs or i >= result["suite"].get("full_settings", 1):
                continue
            gaps = found[f"{name}, {setting}" if i else name] = {"rival": rival}
            for metric in COMPARED:
                values = [[row[metric]["value"] for row in pair if metric in row] for pair in pairs]
                if all(len(pair) == 2 for pair in values):
                    gaps[metric] = paired_difference(*zip(*values, strict=True))
    return found


def _compared_with(result: Mapping[str, Any], name: str, setting: str, rival: str) -> Sequence[Mapping[str, Any]]:
    """The rival's rows with which those of a system's settings are compared; none where that would not be fair."""
    given, theirs = _given_settings(result), result["systems"][rival]["settings"]
    choice, _ = split_choice(given.get(name, {}).get(setting, {}))
    if choice is None:
        return _first(theirs)
    alike = (other for other, values in given.get(rival, {}).items() if split_choice(values)[0] == choice)
    return theirs.get(next(alike, ""), ())


def _given_settings(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of each system, as the suite gives them. (Results of earlier versions may have none.)"""
    return {name: system["settings"] for name, system in result["suite"].get("systems", {}).items()}


def perplexity_curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Held-out perplexity over minutes of an autoregressive training, with the trials of learning rates."""
    curves = {}
    for path in [*sorted(folder.glob("trial-*/metrics.jsonl")), *folder.glob("metrics.jsonl")]:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        points = [
            (row["seconds"] / 60, float(np.exp(row["validation"]["nll"])))
            for row in rows
            if "nll" in row.get("validation", {})
        ]
        if points:
            trial = path.parent.name.removeprefix("trial-")
            curves["the training" if path.parent == folder else f"trial, learning rate {trial}"] = points
    return curves


# ------------------------------------------------------------------------------------------------------------- tables


def to_markdown(result: Mapping[str, Any]) -> str:
    """The main table, the meaning of each metric, the differences from the rival, and every metric."""
    suite, systems = result["suite"], result["systems"]
    rows: dict[str, Sequence[Mapping[str, Any]]] = {name: [row] for name, row in result["controls"].items()}
    chosen = {name: choosing(given) for name, given in _given_settings(result).items()}
    for name, system in systems.items():
        rows[name] = _first(system["settings"])
        rows |= {f"{name}, {setting}": system["settings"][setting] for setting in chosen.get(name, ())}
    columns = [name for name in COLUMNS if any(name in row for part in rows.values() for row in part)]
    batches = list(_first(_first(systems)["speed"]))
    of_systems = ["parameters", "minutes", "reconstruction"]
    head = ["system", *of_systems, *columns, *(f"tokens/s, batch {size}" for size in batches)]
    cells = []
    for name, part in rows.items():
        system = systems.get(name)
        own = ["-"] * len(of_systems)
        if system:
            bleu = system.get("reconstruction")  # (results of earlier versions have none)
            own = [f"{system['parameters'] / 1e6:.2f}M", f"{system['minutes']:.1f}", f"{bleu:.1f}" if bleu else "-"]
        speed = _speeds(_first(system["speed"]), batches) if system else ["-"] * len(batches)
        cells.append([name, *own, *(_cell(part, metric) for metric in columns), *speed])
    lines = [f"# {suite['name']}", "", _about(result), "", *_table(head, cells), ""]
    says = [f"{name}: {METRICS[name].says} ({METRICS[name].direction})" for name in columns]
    lines += ["; ".join(["reconstruction: BLEU of test texts through the autoencoder", *says]) + "."]
    lines += ["", NOTE] if any(chosen.values()) else []
    lines += _difference_lines(result) + _matched_lines(result) + _speed_lines(result, batches)
    lines += _likelihood_lines(systems)
    frontier = [
        [name, setting, *(_cell(part, metric) for metric in columns)]
        for name, system in systems.items()
        for setting, part in system["settings"].items()
        if part and len(system["settings"]) > 1
    ]
    if frontier:
        lines += ["", "## Settings", "", *_table(["system", "settings", *columns], frontier)]
    every = [
        [f"{metric.says} (`{name}`)", metric.direction, *(_cell(part, name) for part in rows.values())]
        for name, metric in METRICS.items()
        if any(name in row for part in rows.values() for row in part)
    ]
    lines += ["", "## Every metric", "", *_table(["metric", "better", *rows], every), ""]
    lines += [f"Warning: {warning}." for warning in result["warnings"]]
    return "\n".join(lines).rstrip() + "\n"


def _about(result: Mapping[str, Any]) -> str:
    suite, data = result["suite"], result["data"]
    condition = {"none": "without a condition", "label": "by label", "source": "by source"}[suite["condition"]]
    minutes = result["minutes"]
    budget = f"{minutes:g} minutes of training a system" if minutes else "the steps that the suite's recipes give"
    return (
        f"{data['train']:,} training rows, {data['valid']:,} to choose by, {data['test']:,} test rows. Budget: "
        f"{budget}. Texts {condition}: {suite['num_samples']:,} a seed, "
        f"{suite['seeds']} seeds, ± their standard deviation. {result['environment']['threads']} threads, "
        f"{result['environment']['platform']}."
    )


def _likelihood_lines(systems: Mapping[str, Any]) -> list[str]:
    """How likely held-out texts are under each system, and where the nats go."""
    cells = []
    for name, system in systems.items():
        for report in (system.get("likelihood") or {}).get("reports", []):
            for row, own in report["rows"].items():
                terms = [f"{own[term]:.1f}" if term in own else "-" for term in ("latent", "length", "wording")]
                value = f"{own['perplexity']['value']:.2f}" + (
                    " [{:.2f}, {:.2f}]".format(*own["perplexity"]["interval"]) if own["perplexity"]["interval"] else ""
                )
                cells.append([name, report["kind"], row, value, f"{own['nats_per_text']:.1f}", *terms])
    if not cells:
        return []
    title = "## Likelihood of held-out texts under each system, one row for each training, intervals over texts"
    head = ["system", "", "latents read at", "perplexity a token", "nats a text", "latents", "their number", "words"]
    return ["", title, "", *_table(head, cells)]


def _difference_lines(result: Mapping[str, Any]) -> list[str]:
    found = result["differences"]
    if not found:
        return []
    names = [metric for metric in COMPARED if any(metric in row for row in found.values())]
    cells = [[name, *(_gap(row.get(metric)) for metric in names)] for name, row in found.items()]
    title = f"## Less {_first(found)['rival']}, seed by seed, with 95 % intervals"
    return ["", title, "", *_table(["system", *names], cells)]


def _gap(gap: Mapping[str, Any] | None) -> str:
    if not gap:
        return "-"
    digits = _digits(max(map(abs, gap["interval"] or [gap["value"]])))
    bounds = " [{:+.{d}f}, {:+.{d}f}]".format(*gap["interval"], d=digits) if gap["interval"] else ""
    return f"{gap['value']:+.{digits}f}{bounds}"


def _matched_lines(result: Mapping[str, Any]) -> list[str]:
    """test-BLEU of each system at equal self-BLEU, where it was measured."""
    systems = result["systems"]
    places = {f"at {place:.1f} ({name})": place for name, place in matched.places(result).items() if place is not None}
    if not places or not any(matched.curve_of(system["settings"]) for system in systems.values()):
        return []
    cells = [
        [name, *(show(matched.at_self_bleu(system["settings"], place)) for place in places.values())]
        for name, system in systems.items()
    ]
    note = "Between two settings the curve is a straight line; `-`: the curve does not reach this self-BLEU."
    return ["", "## test-BLEU at equal self-BLEU", "", *_table(["system", *places], cells), "", note]


def _speed_lines(result: Mapping[str, Any], batches: Sequence[str]) -> list[str]:
    """The speed of systems that were also timed at cheaper settings, with their MAUVE there."""
    timed = [(name, setting) for name, system in result["systems"].items() for setting in system["speed"]]
    if len(timed) == len(result["systems"]):
        return []
    head = ["system", "settings", "mauve", *(f"tokens/s, batch {size}" for size in batches)]
    cells = []
    for name, setting in timed:
        system = result["systems"][name]
        quality = _cell(system["settings"][setting], "mauve")
        cells.append([name, setting, quality, *_speeds(system["speed"][setting], batches)])
    title = "## Speed at the cheapest settings within 5 % of a system's best MAUVE, beside the table's"
    return ["", title, "", *_table(head, cells)]


def _speeds(timed: Mapping[str, Any], batches: Sequence[str]) -> list[str]:
    return [f"{timed[size]['median']:,.0f}" for size in batches]


def _cell(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    return show(mean_and_spread(rows, metric))


def show(found: tuple[float, float, int] | None, digits: int | None = None) -> str:
    """Mean, spread and number of values as a cell: `12.3 ± 0.4`, without the spread if there is one value."""
    if found is None:
        return "-"
    value, spread, count = found
    digits = _digits(value) if digits is None else digits
    return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if count > 1 else "")


def _digits(value: float) -> int:
    """Number of decimals: three for shares, one for values in tens."""
    return 3 if abs(value) < 5 else 1 if abs(value) < 1000 else 0


def _first(items: Mapping[str, Any]) -> Any:
    """The first value. The first table shows the first of a system's settings and speeds."""
    return next(iter(items.values()))


def _points(result: Mapping[str, Any], x: str, y: str) -> dict[str, list[Point]]:
    """Every system's settings that have both metrics, in order, and the controls."""
    found: dict[str, list[Point]] = {}
    for name, system in result["systems"].items():
        for setting, rows in system["settings"].items():
            across, up = mean_and_spread(rows, x), mean_and_spread(rows, y)
            if across is not None and up is not None:
                label = setting if len(system["settings"]) > 1 else ""
                found.setdefault(name, []).append(Point(label, across[0], up[0], (across[1], up[1])))
    if not found:
        return {}
    for name, row in result["controls"].items():
        if x in row and y in row:
            found[name] = [Point("", row[x]["value"], row[y]["value"])]
    return found
