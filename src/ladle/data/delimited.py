"""CSV and TSV files as people have them: several delimiters and ways to quote, with or without a header."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

from ladle.data.columns import NUMBER
from ladle.data.files import Record, Table
from ladle.errors import UserError

Cells = Iterator[tuple[int, list[str]]]  # of rows that are not blank, with the number of the line on which each begins
Way = Callable[..., Cells]  # of writing: turns lines into cells, given the delimiter `mark`

MARKS = ",;\t|"
_REMEDY = "delete that quote, or write it twice in a cell that begins and ends with a quote"
_SAMPLE = 20_000  # lines by which a file's way of writing is found
_LOOK_AT = 1000  # rows by which the header is
# A cell that a writer had to quote because it holds quotes: inside, every quote stands twice.
_QUOTED_CELL = re.compile(r'"((?:[^"]|"")*""(?:[^"]|"")*)"')
_SENTENCE = re.compile(r"""\w+\W+\w+\W+\w.*[.!]["')\]]*""", re.DOTALL)


def delimited_table(name: str, first: str, lines: Iterator[str], header_names: frozenset[str], *, tsv: bool) -> Table:
    """The table of a CSV file. Its columns are 1, 2, 3, ... if it has no header.

    first: the first line that is not blank; lines: all lines. header_names: column names (lower case) that show that
    the first row is a header. tsv: tabs are the only delimiter, and quotes need not be quoted. Raises UserError, now or
    while the records are read: malformed rows (`file:line`).
    """
    csv.field_size_limit(2**31 - 1)  # the standard 128 KiB would refuse long texts
    sample = list(islice(lines, _SAMPLE))
    read, form = _way_of(name, first, sample, tsv)
    rows = read(name, chain(sample, lines))
    start = list(islice(rows, _LOOK_AT))
    if not start:  # (only empty cells)
        raise UserError(f"{name} is empty")
    if len(start) > 1 and _is_title(start[0][1], start[1][1], header_names):
        del start[0]
        form = ", ".join(filter(None, [form, "the first line is a title"]))
    number, cells = start[0]
    columns = [cell.strip() for cell in cells]
    headless = _is_data(columns, [cells for _, cells in start[1:]], header_names)
    if headless:
        columns = [str(place) for place in range(1, len(cells) + 1)]
        form = ", ".join(filter(None, [form, "it has no header, so the columns are numbered"]))
    elif twice := [column for column, count in Counter(columns).items() if column and count > 1]:
        raise UserError(f"{name}:{number}: the column '{min(twice)}' is named twice")
    records = _records(name, chain(start[not headless :], rows), columns)
    return Table(name, records, columns, headless=headless, form=form)


def _records(name: str, rows: Cells, columns: list[str]) -> Iterator[tuple[int, Record]]:
    for number, cells in rows:
        if len(cells) != len(columns):
            what = f"{len(cells)} cells, but the first line names {len(columns)} columns"
            raise UserError(f"{name}:{number}: {what}; a cell that holds the delimiter must stand in quotes")
        yield number, dict(zip(columns, cells, strict=True))


def _way_of(name: str, first: str, sample: list[str], tsv: bool) -> tuple[Way, str]:
    """How the file is written: the first way in which all rows have the same number of cells, the larger the better."""
    spaced = partial(_quoted, skipinitialspace=True)
    ways: list[tuple[str, Way]] = [("", _quoted), ("blanks before quotes are dropped", spaced)]
    if any('"' in re.findall(r"\\(.)", line) for line in sample):
        ways.insert(0, ('quotes in cells are written \\"', _unescaped))  # (fails where quotes stand twice)
    if tsv and not first.startswith('"'):  # else quotes are quoted there too
        ways.insert(0, ("", _unquoted))
    marks = "\t" if tsv else MARKS
    whole = len(sample) < _SAMPLE
    for said, read in ways:
        widths = {mark: _width(read(name, sample, mark=mark), whole) for mark in marks}
        best = max(marks, key=widths.__getitem__)
        if widths[best] > 1 or (widths[best] == 1 and not any(mark in first for mark in marks)):
            return partial(read, mark=best), said
    known = [mark for mark in marks if mark in first]
    if not known and not any(line.startswith('"') for line in sample):
        return partial(_unquoted, mark="\n"), "it has one column, and each line is a cell"
    return partial(ways[0][1], mark=[*known, *marks][0]), ""  # the errors are those of the likeliest way


def _width(rows: Cells, whole: bool) -> int:
    """The number of cells of every row; 0 if rows differ or are malformed. whole: whether the rows are not cut off."""
    widths: set[int] = set()
    try:
        widths.update(len(cells) for _, cells in rows)
    except UserError as error:
        if whole or "never closed" not in str(error):
            return 0
    return widths.pop() if len(widths) == 1 else 0


def _quoted(name: str, lines: Iterable[str], *, mark: str, **options: Any) -> Cells:
    reader = csv.reader(lines, delimiter=mark, strict=True, **options)
    start = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:  # in the words of what a person sees
        why = "a cell goes on after its closing quote; a quote inside a quoted cell must stand twice"
        if "end of data" in str(error):
            why = f"the quote that opens in line {start} is never closed; {_REMEDY}"
        elif reader.line_num > start:
            why = f"a quote that opens in line {start} is closed in line {reader.line_num}, inside a cell; {_REMEDY}"
        elif "new-line" in str(error):
            why = "a line break of another kind (\\r) stands in a cell without quotes"
        raise UserError(f"{name}:{start}: malformed CSV ({why})") from None


def _unescaped(name: str, lines: Iterable[str], *, mark: str) -> Cells:
    r"""With \" for a quote and \\ for a backslash; other backslashes are themselves."""
    doubled = (re.sub(r'\\(["\\])?', lambda found: found[0] if found[1] else r"\\", line) for line in lines)
    return _quoted(name, doubled, mark=mark, escapechar="\\")


def _unquoted(_: str, lines: Iterable[str], *, mark: str) -> Cells:
    """By its own rules TSV has no quoting, and texts often hold quotes. But pandas and csv quote cells with quotes."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            cells = line.rstrip("\r\n").split(mark)
            yield number, [m[1].replace('""', '"') if (m := _QUOTED_CELL.fullmatch(cell)) else cell for cell in cells]


def _is_title(first: list[str], second: list[str], header_names: frozenset[str]) -> bool:
    """Whether a table begins with a title: one filled cell of several, above a row of names that are known."""
    filled = sum(map(bool, map(str.strip, first)))
    return len(first) > filled == 1 and bool(header_names & {cell.strip().lower() for cell in second})


def _is_data(first: list[str], rest: list[list[str]], header_names: frozenset[str]) -> bool:
    """Whether the first row is no header: it has a number, a whole sentence, or a value that comes again below it."""
    if header_names & {cell.lower() for cell in first}:
        return False
    if any(NUMBER.fullmatch(cell) or _SENTENCE.fullmatch(cell) for cell in first):
        return True
    below = [row for row in ([cell.strip() for cell in cells] for cells in rest) if row != first]
    again = (sum(row[place : place + 1] == [cell] for row in below) for place, cell in enumerate(first) if cell)
    return any(count > (len(below) > 20) for count in again)
