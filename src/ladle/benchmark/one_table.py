"""The table of a composite suite: what was measured, what that means, and apart from it what others have published."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ladle.benchmark import matched
from ladle.benchmark.choice import NOTE, choosing
from ladle.benchmark.composite import ColumnConfig, CompositeConfig
from ladle.benchmark.figures import AT, REAL, figure, meaning, system_and_settings
from ladle.benchmark.matched import Figure
from ladle.benchmark.results import show
from ladle.data.rows import counted
from ladle.evaluation.markdown import table

Results = Mapping[str, Mapping[str, Any]]  # the results of each part

_table = partial(table, rule=" --- ")


def values_of(config: CompositeConfig, results: Results) -> dict[str, dict[str, Any]]:
    """The figures by row and heading: value, spread and n, or None where nothing was measured. Columns of parts without
    results are left out."""
    return {
        row: {
            column.heading: found and dict(zip(("value", "spread", "n"), found, strict=True))
            for column in _measured(config, results)
            for found in [_figure(column, results, row)]
        }
        for row in (REAL, *config.rows)
    }


def to_markdown(config: CompositeConfig, results: Results) -> str:
    """The measured table; below it what each column is, what each system took, and the machine; then the published
    table in the same form. Parts without results are named."""
    columns = _measured(config, results)
    headings = [column.heading for column in columns]
    cells = []
    missing: dict[str, list[str]] = {}
    for row, name in {REAL: f"{REAL} (held out)", **config.rows}.items():
        found = [_figure(column, results, row) for column in columns]
        cells.append([name, *(show(one, column.digits) for one, column in zip(found, columns, strict=True))])
        missing[name] = [
            column.heading
            for column, one in zip(columns, found, strict=True)
            if one is None and row != REAL and _could_have(results[column.part], row)
        ]
    lines = [f"# {config.name}", "", *_table(["system", *headings], cells), ""]
    lines += ["Mean ± standard deviation over trainings and seeds (of speed: over rounds). By column:", ""]
    lines += [f"* {column.heading}: {_says(column, results[column.part])}" for column in columns]
    if waiting := [part for part in config.parts if part not in results]:
        lines += ["", f"Not run yet: {', '.join(waiting)}."]
    if any(missing.values()):
        lines.append("")
        lines += [f"* Not measured for {name} (`-`): {'; '.join(them)}." for name, them in missing.items() if them]
    settings = [given["settings"] for result in results.values() for given in result["suite"]["systems"].values()]
    lines += ["", NOTE] if any(map(choosing, settings)) else []
    lines += ["", *_effort(config, results), "", *_machines(results), *_published(config)]
    return "\n".join(lines).rstrip() + "\n"


def _measured(config: CompositeConfig, results: Results) -> list[ColumnConfig]:
    return [column for column in config.columns if column.part in results]


def _figure(column: ColumnConfig, results: Results, row: str) -> Figure | None:
    found = figure(results[column.part], row, column.metric)
    if found is None or not column.percent:
        return found
    value, spread, count = found
    return 100 * value, 100 * spread, count


def _says(column: ColumnConfig, result: Mapping[str, Any]) -> str:
    direction, says = meaning(column.metric)
    better = column.direction or direction
    suite = result["suite"]
    if column.metric in AT:
        place = matched.places(result)[AT[column.metric]]
        says += "" if place is None else f", {place:.1f}"
    unit = ", in percent" if column.percent else ""
    seeds, trainings = counted(suite["seeds"], "seed"), counted(suite["training_seeds"], "training")
    drawn = f"up to {suite['num_samples']:,} texts a seed, {seeds}, {trainings}"
    best = "best as the real text" if better == "as the reference" else f"{better} is better"
    return f"{says}{unit}; {best}; part {column.part}, {drawn}."


def _could_have(result: Mapping[str, Any], row: str) -> bool:
    """Whether a row could have figures of this part. Settings other than the first need not be in all parts."""
    system, setting = system_and_settings(row)
    return setting is None or setting in result["systems"].get(system, {}).get("settings", {})


def _effort(config: CompositeConfig, results: Results) -> list[str]:
    """What each system is and took, by part."""
    cells = []
    for row, name in config.rows.items():
        own, given = system_and_settings(row)
        for part, result in results.items():
            if (system := result["systems"].get(own)) and _could_have(result, row):
                setting = given or next(iter(system["settings"]))
                size, minutes = f"{system['parameters'] / 1e6:.2f}M", f"{system['minutes']:.1f}"
                cells.append([name, part, setting, size, minutes, str(len(system["digests"]))])
    return _table(["system", "part", "settings", "parameters", "minutes of training", "trainings"], cells)


def _machines(results: Results) -> list[str]:
    """The machine, and where the parts and their curves are."""
    machines = {
        part: f"{result['environment']['threads']} threads, {result['environment']['platform']}"
        for part, result in results.items()
    }
    different = list(dict.fromkeys(machines.values()))
    lines = [f"Machine: {different[0]}."]
    if len(different) > 1:
        lines = ["Warning: the parts were measured on different machines: "
                 + "; ".join(f"{part} with {machine}" for part, machine in machines.items()) + "."]  # fmt: skip
    names = [result["suite"]["name"] for result in results.values()]
    lines.append("All metrics, settings and curves: " + ", ".join(f"[{name}]({name}/table.md)" for name in names) + ".")
    warnings = [f"Warning ({part}): {line}." for part, result in results.items() for line in result["warnings"]]
    return [*lines, *warnings]


def _published(config: CompositeConfig) -> list[str]:
    """The table of published values, if there are any."""
    rows = [row for row in config.rows if any(row in column.published for column in config.columns)]
    if not rows:
        return []
    columns = [column for column in config.columns if column.published]
    names = config.rows | config.published_rows
    cells = [[names[row], *(_value(column, row) for column in columns)] for row in rows]
    title = "## Published, not measured here"
    says = [config.published, ""] if config.published else []
    return ["", title, "", *says, *_table(["system", *(column.heading for column in columns)], cells)]


def _value(column: ColumnConfig, row: str) -> str:
    value = column.published.get(row)
    return "-" if value is None else f"{value:.{column.digits}f}"
