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
    """Train several systems on the same rows. Sample and score them in the same way. Write one table and plots.

    Run the same command again to continue after an interruption. Finished work is not repeated.

    A suite may also be made of other suites, such as benchmarks/suites/table.toml. They run one after the other, and
    their figures stand in one table. See benchmarks/README.md.

    Args:
        suite: A TOML file that names the data, the systems and the metrics. See benchmarks/suites.
        budget: Minutes of training for each system, all stages together. Default: the suite's value.
        output: Folder for the results. They go into a subfolder with the suite's name.
        data: Folder of train, valid and test files, used instead of the suite's data. For a suite made of others: a
            folder that has such a folder for each of them, under its name.
    """
    from ladle.benchmark.parts import run_suite

    print(run_suite(suite, output, budget, data, log=log))
