"""The rows of CSV and TSV files as people have them: several delimiters and ways to quote, with or without a header."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

from ladle.errors import UserError

Cells = Iterator[tuple[int, list[str]]]  # with the number of the line on which each row begins
Read = Callable[[Iterable[str]], Cells]

MARKS = ",;\t|"
_SAMPLE = 2**22  # characters by which a file's way of writing is found
_LOOK_AT = 1000  # rows by which the header is
# A cell that a writer had to quote because it holds quotes: inside, every quote stands twice.
_QUOTED_CELL = re.compile(r'"((?:[^"]|"")*""(?:[^"]|"")*)"')
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_SENTENCE = re.compile(r"""\w+\W+\w+\W+\w.*[.!]["')\]]*""", re.DOTALL)


def read_delimited(
    name: str, lines: Iterator[str], names: frozenset[str], *, tsv: bool
) -> tuple[list[str], Cells, bool, str]:
    """The columns of a file that is not blank, its rows, whether it has no header (then the columns are 1, 2, 3, ...),
    and how it is written ("" if as usual). The rows are read when they are needed.

    Args:
        names: column names (lower case) that show that the first row is a header.
        tsv: tabs are the only delimiter, and quotes need not be quoted.

    Raises:
        UserError: malformed rows (`file:line`), while they are read.
    """
    csv.field_size_limit(2**31 - 1)  # the standard 128 KiB would refuse long texts
    sample, size = [], 0
    for line in lines:
        sample.append(line)
        size += len(line)
        if size > _SAMPLE:
            break
    whole = size <= _SAMPLE
    first = next(line for line in sample if line.strip())
    read, form = _way_of(sample, first, whole, tsv)
    table = _told(name, read(chain(sample, lines)))
    start = list(islice(table, _LOOK_AT))
    rows = chain(start, table)
    number, cells = start[0]
    headless = _is_data(cells, [cells for _, cells in start[1:]], names)
    if headless:
        columns = [str(place) for place in range(1, len(cells) + 1)]
        form = ", ".join(filter(None, [form, "it has no header, so the columns are numbered"]))
    else:
        next(rows)
        columns = [cell.strip() for cell in cells]
        twice = [column for column, count in Counter(columns).items() if column and count > 1]
        if twice:
            raise UserError(f"{name}:{number}: the column '{min(twice)}' is named twice")
    return columns, _even(name, rows, len(columns)), headless, form


def _even(name: str, rows: Cells, width: int) -> Cells:
    for number, cells in rows:
        if len(cells) != width:
            remedy = "a cell that holds the delimiter must stand in quotes"
            raise UserError(f"{name}:{number}: {len(cells)} cells, but the first line names {width} columns; {remedy}")
        yield number, cells


def _told(name: str, rows: Cells) -> Cells:
    """The rows that are not blank, with errors of the csv module in the words of what a person sees."""
    try:
        yield from ((number, cells) for number, cells in rows if any(cell.strip() for cell in cells))
    except _MalformedError as error:
        raise UserError(f"{name}:{error.line}: malformed CSV ({error})") from None


class _MalformedError(Exception):
    def __init__(self, line: int, last: int, error: csv.Error):
        said, self.line = str(error), line
        why = "a cell goes on after its closing quote; a quote inside a quoted cell must stand twice"
        if "end of data" in said:
            why = f"the quote that opens in line {line} is never closed"
        elif last > line:
            why = f"a quote that opens in line {line} is closed in line {last}, inside a cell; is one missing?"
        elif "new-line" in said:
            why = "a line break of another kind (\\r) stands in a cell without quotes"
        super().__init__(why)


def _way_of(sample: list[str], first: str, whole: bool, tsv: bool) -> tuple[Read, str]:
    """How the file is written: the first way in which all rows have the same number of cells, the larger the better."""
    ways: list[tuple[str, Callable[..., Cells], dict[str, Any]]] = [
        ("", _quoted, {}),
        ("blanks before quotes are dropped", _quoted, {"skipinitialspace": True}),
    ]
    escapes = {mark for line in sample for mark in re.findall(r"\\(.)", line)}
    if '"' in escapes:
        ways.insert(0, ('quotes in cells are written \\"', _unescaped, {}))  # (fails where quotes stand twice)
    if escapes & {*MARKS}:
        escaped = {"escapechar": "\\", "quoting": csv.QUOTE_NONE}
        ways.append(("delimiters in cells stand behind backslashes", _quoted, escaped))
    if tsv and not first.startswith('"'):  # else quotes are quoted there too
        ways.insert(0, ("", _unquoted, {}))
    marks = "\t" if tsv else MARKS
    for said, cells, options in ways:
        widths = {mark: _width(cells(sample, mark, **options), whole) for mark in marks}
        best = max(marks, key=widths.__getitem__)
        if widths[best] > 1 or (widths[best] == 1 and not any(mark in first for mark in marks)):
            form = f"its cells are divided by '{best}'" if best in ";|" else ""
            return partial(cells, delimiter=best, **options), ", ".join(filter(None, [form, said]))
    mark = next((mark for mark in marks if mark in first), None)
    if mark is None and not any(line.startswith('"') for line in sample):
        return partial(_unquoted, delimiter="\n"), "it has one column, and each line is a cell"
    # The error, where there is one, is in the words of the usual way.
    return partial(_unquoted if ways[0][1] is _unquoted else _quoted, delimiter=mark or marks[0]), ""


def _width(rows: Cells, whole: bool) -> int:
    """The number of cells of every row; 0 if rows differ or are malformed. whole: whether the rows are not cut off."""
    widths: set[int] = set()
    try:
        for _, cells in rows:
            if any(cell.strip() for cell in cells):
                widths.add(len(cells))
            if len(widths) > 1:
                return 0
    except _MalformedError as error:
        if whole or "never closed" not in str(error):
            return 0
    return widths.pop() if widths else 0


def _quoted(lines: Iterable[str], delimiter: str, **options: Any) -> Cells:
    reader = csv.reader(lines, delimiter=delimiter, strict=True, **options)
    start = 1
    try:
        for row in reader:
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise _MalformedError(start, reader.line_num, error) from None


def _unescaped(lines: Iterable[str], delimiter: str) -> Cells:
    r"""With \" for a quote and \\ for a backslash; other backslashes are themselves."""
    marks = {'"': "\0", "\\": "\\"}  # (no line holds a NUL)
    marked = (re.sub(r'\\(["\\])', lambda match: marks[match[1]], line) for line in lines)
    for number, cells in _quoted(marked, delimiter):
        yield number, [cell.replace("\0", '"') for cell in cells]


def _unquoted(lines: Iterable[str], delimiter: str) -> Cells:
    """By its own rules TSV has no quoting, and texts often hold quotes. But pandas and csv quote cells with quotes."""
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\r\n").split(delimiter)
        yield number, [m[1].replace('""', '"') if (m := _QUOTED_CELL.fullmatch(cell)) else cell for cell in cells]


def _is_data(first: list[str], rest: list[list[str]], names: frozenset[str]) -> bool:
    """Whether the first row is no header: it has a number, a whole sentence, or a value that comes again below it."""
    cells = [cell.strip() for cell in first]
    if names & {cell.lower() for cell in cells}:
        return False
    if any(_NUMBER.fullmatch(cell) or _SENTENCE.fullmatch(cell) for cell in cells):
        return True
    below = [row for row in rest if row != first and len(row) == len(first)]
    again = (sum(row[place].strip() == cell for row in below) for place, cell in enumerate(cells) if cell)
    return any(count > (len(below) > 20) for count in again)
