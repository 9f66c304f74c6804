"""Runs the parts of a composite suite one after the other, and writes the one table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ladle.benchmark.composite import HINT, load_composite
from ladle.benchmark.one_table import to_markdown, values_of
from ladle.benchmark.run import check_benchmark, check_budget, run_benchmark
from ladle.data.files import PathLike, known_json, read_toml
from ladle.storage.folders import check_folder
from ladle.storage.kinds import RESULTS
from ladle.storage.run_folder import locked
from ladle.storage.writing import atomic_json, atomic_text
from ladle.training.progress import say


def run_suite(
    suite: PathLike,
    output: PathLike = "results",
    budget: float | None = None,
    data: str | None = None,
    log: Callable[[str], None] = say,
) -> Path:
    """Run a suite of either kind: as `run_benchmark`, or as `run_composite` if it has `parts`."""
    check_budget(budget)
    composite = "parts" in read_toml(suite, "suite", HINT)
    return (run_composite if composite else run_benchmark)(suite, output, budget, data, log)


def run_composite(
    suite: PathLike,
    output: PathLike = "results",
    budget: float | None = None,
    data: str | None = None,
    log: Callable[[str], None] = say,
) -> Path:
    """Run all parts of a composite suite. The table is written after each part. A repeated call continues after an
    interruption; a finished part is not repeated.

    Args:
        suite: a TOML file.
        output: folder for OUTPUT/NAME: a folder for each part, as `run_benchmark` writes it, results.json and table.md.
        budget: minutes of training for each system of every part, instead of the suites' own.
        data: a folder with a folder of rows for each part, instead of the parts' data.
        log: receives messages for the user.

    Returns:
        The table, OUTPUT/NAME/table.md.

    Raises:
        UserError: as `load_composite`; for any part, as `run_benchmark`. All parts are checked before the first begins.
    """
    composite = load_composite(suite)
    folder = Path(output) / composite.config.name
    check_folder(folder, RESULTS, [data])
    rows = {part: None if data is None else str(Path(data) / part) for part in composite.files}
    for part, file in composite.files.items():
        check_benchmark(file, folder, budget, rows[part])
    with locked(folder):
        results: dict[str, Any] = {}
        for number, (part, file) in enumerate(composite.files.items(), start=1):
            log(f"part {number} of {len(composite.files)}: {part}")
            table = run_benchmark(file, folder, budget, rows[part], log)
            results[part] = known_json(table.parent / "results.json")
            atomic_json(folder / "results.json", {
                "format": 1,
                "suite": composite.config.model_dump(mode="json"),
                "values": values_of(composite.config, results),
            })  # fmt: skip
            atomic_text(folder / "table.md", to_markdown(composite.config, results))
    log(f"the table is in {folder / 'table.md'}")
    return folder / "table.md"
