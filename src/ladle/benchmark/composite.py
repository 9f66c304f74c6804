"""A suite made of suites: its parts, and the rows and columns of the one table, in one TOML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from ladle.benchmark.figures import check_metric
from ladle.benchmark.suite import SuiteConfig, load_suite
from ladle.config import Config, nearest
from ladle.data.files import PathLike, read_toml
from ladle.errors import UserError

HINT = "give a .toml file, such as benchmarks/suites/tiny.toml"


class ColumnConfig(Config):
    """One column of the table.

    heading: its name. part: the suite that it comes from. metric: the name of a metric, of which the first settings of
    each system count; or `tokens/s, batch 64`, with a batch size of the part; or `test_bleu at self_bleu of real text`
    (or `of the middle`: of the range that all systems of the part have in common). direction: which values are better,
    if the metric does not say it. digits: number of decimals. percent: the share is shown in percent. published: values
    that somebody else says, by row, as they are shown.
    """

    heading: str = Field(min_length=1)
    part: str
    metric: str
    direction: Literal["higher", "lower", "as the reference"] | None = None
    digits: int = Field(1, ge=0, le=6)
    percent: bool = False
    published: dict[str, float] = {}


class CompositeConfig(Config):
    """parts: suites in the same folder, by the names of their files without `.toml`. rows: systems of the parts, each
    with its name in the table. A system has one name in all parts. `SYSTEM, SETTINGS` is a row of those settings, in
    the parts that have them. published: where the published values come from. published_rows: the names of the rows in
    the published table, where they differ."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    parts: tuple[str, ...] = Field(min_length=1)
    rows: dict[str, str] = Field(min_length=1)
    columns: tuple[ColumnConfig, ...] = Field(min_length=1)
    published: str = ""
    published_rows: dict[str, str] = {}


@dataclass(frozen=True)
class Composite:
    """A composite suite with the files and the suites of its parts."""

    config: CompositeConfig
    files: dict[str, Path]
    suites: dict[str, SuiteConfig]


def load_composite(path: PathLike) -> Composite:
    """Read a composite suite and its parts.

    Raises:
        UserError: not TOML, a bad value, a part that is missing or bad, two parts of one name, an unknown metric, a
            row that no part has. In one line.
    """
    values = read_toml(path, "suite", HINT)
    config = CompositeConfig.parse({"name": Path(path).stem} | values, str(path))
    files = {part: Path(path).parent / f"{part}.toml" for part in config.parts}
    for part, file in files.items():
        if not file.is_file():
            raise UserError(f"{path} has the part '{part}', but there is no {file}; add it, or take the part out")
    suites = {part: load_suite(file) for part, file in files.items()}
    names = [suites[part].name for part in config.parts]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: two parts have the name '{doubled}'; give one of them another name")
    known = [name for suite in suites.values() for name in suite.systems]
    known += [
        f"{n}, {own}" for suite in suites.values() for n, system in suite.systems.items() for own in system.settings
    ]
    for row in config.rows:
        if row not in known:
            raise UserError(f"{path}: no part has the system '{row}' of rows: {nearest(row, sorted({*known}))}")
    for column in config.columns:
        where = f"{path}: column '{column.heading}'"
        if column.part not in suites:
            raise UserError(f"{where} is of the part '{column.part}': {nearest(column.part, list(suites))}")
        check_metric(column.metric, suites[column.part], where)
        for row in column.published:
            if row not in config.rows:
                raise UserError(f"{where} has a published value for '{row}': {nearest(row, list(config.rows))}")
    for row in config.published_rows:
        if row not in config.rows:
            raise UserError(f"{path}: published_rows has '{row}': {nearest(row, list(config.rows))}")
    return Composite(config, files, suites)
