"""Verb `benchmark`."""

from pathlib import Path

from ladle.cli.app import File, OutputFolder, app, log


@app.command(sort_key=7)
def benchmark(
    suite: Path,
    /,
    *,
    budget: float | None = None,
    output: OutputFolder = Path("results"),
    data: File | None = None,
) -> None:
    """Train several systems on the same rows, sample and score them alike: one table, and plots.

    The same command goes on from where an interrupted one stopped, and does nothing twice.

    Args:
        suite: A TOML file: the data, the systems, what they are measured by. See benchmarks/suites.
        budget: Minutes of training for each system, all its stages together. Default: the suite's.
        output: Folder for the results, in a folder of the suite's name.
        data: Folder of train, valid and test files in place of the suite's data.
    """
    from ladle.benchmark.run import run_benchmark

    print(run_benchmark(suite, output, budget, data, log=log))
