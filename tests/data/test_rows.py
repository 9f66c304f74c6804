"""Rows out of every kind of file; one clear line for every kind of bad input."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys

import pytest

from ladle.data.rows import Columns, counted, read_rows
from ladle.data.splits import DataConfig, load_splits
from row_files import message_of, put, put_rows

GOOD = {"text": "Good “food”,\tfast.", "label": "positive"}
BAD = {"text": 'He said: "never, ever again"', "label": "negative"}


def as_csv(rows: list[dict], **options) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


# ---------------------------------------------------------------------------------------------------- kinds of file

CONTENTS = {
    ".jsonl": "".join(json.dumps(row) + "\n" for row in (GOOD, BAD)),
    ".ndjson": "\n".join(json.dumps(row, ensure_ascii=False) for row in (GOOD, BAD)),
    ".json": json.dumps([GOOD, BAD], indent=1),
    ".csv": "\ufeff" + as_csv([GOOD, BAD]),
    ".tsv": as_csv([GOOD | {"text": "Good “food”, fast."}, BAD], delimiter="\t"),
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("ending", CONTENTS)
def test_every_kind_of_table_reads_the_same_by_name_and_by_content(tmp_path, monkeypatch, ending, packed):
    """A name is often lost on the way: a pipe, a download without an ending, gzip without `.gz`."""
    expected = [GOOD, BAD] if ending != ".tsv" else [GOOD | {"text": "Good “food”, fast."}, BAD]
    path = put(tmp_path / f"rows{ending}{packed}", CONTENTS[ending])
    assert read_rows(path) == expected
    bare = tmp_path / "rows"
    path.rename(bare)
    assert read_rows(bare) == expected
    with open(bare, "rb") as stdin:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
        assert read_rows("-") == expected


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a", "a.text"])
def test_plain_text_is_one_text_a_line(tmp_path, name):
    """Nothing in a text is taken for markup: quotes, commas, braces, tabs, other line separators."""
    texts = ['"Stop," she said.', "a,b", "{x}", "c\td", "[aside] e", "one\u2028still one", "café"]
    notes: list[str] = []
    rows = read_rows(put(tmp_path / name, "\r\n".join(["", *texts, "  ", ""])), notes=notes)
    assert [row["text"] for row in rows] == texts
    assert all(set(row) == {"text"} for row in rows)
    assert "2 of 9 rows dropped, their text is empty" in notes[-1]
    how = ["read as plain text, one text a line"] * (
        not name.startswith("a.txt")
    )  # said where the name does not say it
    assert [note.removeprefix(f"{tmp_path / name}: ") for note in notes[:-1]] == how


def test_json_lines_may_end_in_json(tmp_path):
    assert read_rows(put_rows(tmp_path / "a.json", [GOOD, BAD])) == [GOOD, BAD]


def test_csv_cells_may_hold_lines_and_be_long(tmp_path):
    """The csv module's own limit is 128 KiB; reviews with paragraphs are common."""
    rows = [{"text": "one\ntwo", "label": "a"}, {"text": "long " * 50_000 + "end", "label": "b"}]
    assert read_rows(put(tmp_path / "a.csv", as_csv(rows))) == rows


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_of_spreadsheets_that_write_no_commas(tmp_path, delimiter):
    assert read_rows(put(tmp_path / "a.csv", as_csv([GOOD, BAD], delimiter=delimiter))) == [GOOD, BAD]


def test_tsv_keeps_the_quotes_of_writers_that_do_not_quote(tmp_path):
    """Public sets are often TSV without quoting; one lone quote must not swallow the rows after it."""
    lines = ["text\tlabel", '"Stop.\ta', 'say "no"\tb', '"All of it."\tc', '"she said ""no"""\td']
    rows = read_rows(put(tmp_path / "a.tsv", "\n".join(lines)))
    assert [row["text"] for row in rows] == ['"Stop.', 'say "no"', '"All of it."', 'she said "no"']


def test_parquet_reads_like_the_rest(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs the extra 'datasets'")
    parquet = pytest.importorskip("pyarrow.parquet", reason="parquet needs the extra 'datasets'")
    rows = [GOOD | {"references": ["a", "b"]}, BAD | {"references": []}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == [rows[0], BAD]
    put(tmp_path / "b.parquet.gz", (tmp_path / "a.parquet").read_bytes())
    assert read_rows(tmp_path / "b.parquet.gz") == [rows[0], BAD]
    put(tmp_path / "c.parquet", (tmp_path / "a.parquet").read_bytes()[:-20])
    assert "not a complete Parquet file" in message_of(read_rows, tmp_path / "c.parquet")
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "d.parquet")
    assert "d.parquet: row 1: 'text' is 1, not a string" in message_of(read_rows, tmp_path / "d.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pip install '.[parquet]'" in message_of(read_rows, put(tmp_path / "a.parquet", b"PAR1"))


# ---------------------------------------------------------------------------------------------------- columns


def test_a_pairs_target_is_its_text(tmp_path):
    pair = {"source": " name[Aromi] ", "target": "Aromi is a pub.\n", "references": ["Aromi is a pub.", " A pub. ", ""]}
    expected = {"source": "name[Aromi]", "text": "Aromi is a pub.", "references": ["Aromi is a pub.", "A pub."]}
    assert read_rows(put_rows(tmp_path / "a.jsonl", [pair])) == [expected]


def test_text_goes_before_target_and_names_go_before_both(tmp_path):
    row = {"text": "a", "target": "b", "source": "c", "label": "d", "Title": "e", "kind": "f"}
    path = put_rows(tmp_path / "a.jsonl", [row])
    assert read_rows(path) == [{"text": "a", "source": "c", "label": "d"}]
    assert read_rows(path, Columns(text="target")) == [{"text": "b", "source": "c", "label": "d"}]
    named = Columns(text="Title", label="kind", source="target")
    assert read_rows(path, named) == [{"text": "e", "label": "f", "source": "b"}]
    assert read_rows(path, Columns(text="source", label="")) == [{"text": "c"}]  # "" leaves a column out


def test_one_row_is_singular():
    assert [counted(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def test_usual_names_are_found_in_any_case(tmp_path):
    assert read_rows(put(tmp_path / "a.csv", "Label,Text\nx,one\n")) == [{"text": "one", "label": "x"}]


def test_the_only_column_that_holds_text_is_the_text(tmp_path):
    notes: list[str] = []
    path = put(tmp_path / "a.csv", "id,review,label,stars\n1,Fine.,pos,4.5\n2,5,neg,1\n")
    rows = read_rows(path, notes=notes)
    assert rows == [{"text": "Fine.", "label": "pos"}, {"text": "5", "label": "neg"}]
    assert notes == [f"{path}: the text is in the column 'review'"]


def test_a_file_of_sources_only_reads_as_texts(tmp_path):
    """What `sample --source FILE` is given."""
    path = put_rows(tmp_path / "a.jsonl", [{"source": "name[Aromi]", "id": 1}])
    assert read_rows(path) == [{"text": "name[Aromi]"}]


def test_no_text_column_and_two_that_could_be_is_an_error(tmp_path):
    message = message_of(read_rows, put(tmp_path / "a.csv", "review,town\nFine.,Bath\n"))
    assert "no column 'text' or 'target'" in message and "review ('Fine.'), town ('Bath')" in message
    assert message.endswith("name it with --text COLUMN (in Python text='COLUMN')")


def test_an_unknown_column_names_the_nearest_and_lists_all(tmp_path):
    path = put(tmp_path / "a.csv", "review,stars\nFine.,5\n")
    message = message_of(read_rows, path, Columns(text="reveiw"))
    assert "no column 'reveiw'" in message and "did you mean 'review'?" in message and "review, stars" in message
    message = message_of(read_rows, path, Columns(text="review", label="zzz"))
    assert "no column 'zzz'" in message and "review, stars" in message
    assert "no column 'body'" in message_of(read_rows, put(tmp_path / "a.txt", "x\n"), Columns(text="body"))


@pytest.mark.parametrize(
    ("value", "label"),
    [(1, "1"), (0, "0"), (True, "true"), (False, "false"), (" a ", "a"), (None, None), ("", None), (0.5, "0.5")],
)
def test_labels_are_strings_or_absent(tmp_path, value, label):
    """0 and False are labels; None and "" are none."""
    (row,) = read_rows(put_rows(tmp_path / "a.jsonl", [{"text": "x", "label": value}]))
    assert row.get("label") == label and ("label" in row) == (label is not None)


def test_empty_texts_are_dropped_and_counted_or_kept_for_scoring(tmp_path):
    """Dropping empty generations before scoring is how figures come out too good."""
    path = put_rows(tmp_path / "a.jsonl", [{"text": " "}, {"text": " a "}, {"text": None}, {"label": "x"}])
    notes: list[str] = []
    assert read_rows(path, notes=notes) == [{"text": "a"}]
    assert notes == [f"{path}: 3 of 4 rows dropped, their text is empty"]
    assert f"{path}:3: 'text' is None" in message_of(read_rows, path, empty="keep")
    path = put_rows(tmp_path / "b.jsonl", [{"text": " "}, {"text": " a "}, {"text": "", "label": "x"}])
    assert read_rows(path, empty="keep") == [{"text": ""}, {"text": "a"}, {"text": "", "label": "x"}]


def test_each_reader_says_what_its_rows_need(tmp_path):
    """Labelled rows for a judge, sources to sample from: the others are dropped and counted, or are an error."""
    mixed = [{"text": "a", "label": "x"}, {"text": "b"}, {"text": "", "label": "y"}, {"source": "s", "label": "z"}]
    path = put_rows(tmp_path / "a.jsonl", mixed)
    notes: list[str] = []
    assert read_rows(path, need=("text", "label"), notes=notes) == [{"text": "a", "label": "x"}]
    assert notes == [
        f"{path}: 1 of 4 rows dropped, they have no label",
        f"{path}: 2 of 4 rows dropped, their text is empty",
    ]
    assert "no rows with a label" in message_of(read_rows, [{"text": "a"}], need=("text", "label"))
    assert read_rows(path, need=("source",)) == [{"text": "", "source": "s", "label": "z"}]
    assert "a.jsonl:1: no 'source' among text, label" in message_of(read_rows, path, need=("source",), empty="refuse")


def test_sources_are_the_column_of_that_name_or_the_only_one_that_holds_text(tmp_path):
    plain = put(tmp_path / "a.txt", "one\n\n2\n")
    sources = [row["source"] for row in read_rows(plain, need=("source",), empty="refuse")]
    assert sources == ["one", "2"]  # a blank line is none, and not an error
    notes: list[str] = []
    assert read_rows([{"facts": "a", "id": 1}], need=("source",), notes=notes) == [{"text": "", "source": "a"}]
    assert notes == ["data: the source is in the column 'facts'"]
    message = message_of(read_rows, [{"facts": "a", "more": "b", "label": "c"}], need=("source",))
    assert "no column 'source'" in message and "facts ('a'), more ('b'), label ('c')" in message


# ---------------------------------------------------------------------------------------------------- rows in memory


def test_rows_in_memory_read_as_those_of_a_file(tmp_path):
    """Lists, generators, tuples; the same columns, the same notes."""
    rows = [GOOD, {"text": " "}, BAD | {"references": ["a", " "]}]
    notes: list[str] = []
    expected = [GOOD, BAD | {"references": ["a"]}]
    assert read_rows(rows, notes=notes) == read_rows(iter(rows)) == read_rows(tuple(rows)) == expected
    assert notes == ["data: 1 of 3 rows dropped, their text is empty"]
    assert read_rows(put_rows(tmp_path / "a.jsonl", rows)) == expected
    assert read_rows(["one ", "", "two"]) == [{"text": "one"}, {"text": "two"}]
    assert read_rows([{"review": "a", "stars": 5}], Columns(text="review", label="stars")) == [
        {"text": "a", "label": "5"}
    ]


def test_a_data_set_in_memory_has_its_class_names():
    datasets = pytest.importorskip("datasets", reason="needs the extra [datasets]")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    assert read_rows(data) == [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}, {"text": "c"}]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "data is empty"),
        ([" "], "data has no rows with text"),
        ([{"text": "a"}, {"text": 5}], "data: row 2: 'text' is 5, not a string"),
        (["a", 5], "data: row 2: 5 is neither a text nor a mapping"),
        ([{"text": "a"}, {"text": "b", "label": [1]}], "data: row 2: 'label' is [1], not one label"),
        ({"text": ["a"]}, "data has the type dict, which is not a list of rows; give a list"),
        (5, "data has the type int"),
        ([{"review": "a", "town": "b"}], "data has no column 'text' or 'target'"),
    ],
)
def test_bad_rows_in_memory_are_one_line(rows, says):
    assert message_of(read_rows, rows).startswith(says)


def test_columns_that_come_late_in_a_json_file_are_read(tmp_path):
    rows = [{"text": f"t{i}"} for i in range(1500)] + [{"text": "last", "label": "x", "source": "s"}]
    assert read_rows(put_rows(tmp_path / "a.jsonl", rows)) == rows


# ---------------------------------------------------------------------------------------------------- bad input

BAD_FILES = {
    "empty file": ("a.jsonl", b"", "a.jsonl is empty"),
    "only blank lines": ("a.txt", b"\n \n", "a.txt is empty"),
    "only empty cells": ("a.csv", b'"",,\n,,\n', "a.csv is empty"),
    "empty gzip": ("a.csv.gz", b"", "a.csv.gz is empty"),
    "header only": ("a.csv", b"text,label\n", "a.csv has no rows with text"),
    "no text in any row": ("a.jsonl", b'{"text": ""}\n{"text": " "}\n', "a.jsonl has no rows with text"),
    "not JSON": ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"\n', "a.jsonl:3: not JSON"),
    "cut JSON": ("a.jsonl.gz", b'{"text": "a"}\n{"text": "b', "a.jsonl.gz:2: not JSON"),
    "bad JSON by content": ("a", b'{"text": "b\n', "a:1: not JSON"),
    "a list for an object": ("a.jsonl", b'{"text": "a"}\n["b"]\n', "a.jsonl:2: a JSON list, not an object"),
    "a string for an object": ("a.jsonl", b'{"text": "a"}\n"b"\n', "a.jsonl:2: a JSON string, not an object"),
    "a deep list": ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not usable JSON"),
    "a long number": ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", "a.jsonl:1: not usable JSON"),
    "bad JSON document": ("a.json", b'[{"text": "a"},\n{"text"}]', "a.json:2: not JSON"),
    "bad row of a document": ("a.json", b'[{"text": "a"}, 5]', "a.json: row 2: a JSON number, not an object"),
    "text that is a number": ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n', "a.jsonl:2: 'text' is 5, not a string"),
    "text that is a list": (
        "a.jsonl",
        b'{"text": ["a"]}\n{"text": ["b"]}\n',
        "a.jsonl:1: 'text' is ['a'], not a string",
    ),
    "source that is an object": (
        "a.jsonl",
        b'{"text": "a", "source": "b"}\n{"text": "a", "source": {}}\n',
        "a.jsonl:2: 'source' is {}, not a string",
    ),
    "label that is a list": ("a.jsonl", b'{"text": "a", "label": [1]}\n', "a.jsonl:1: 'label' is [1], not one label"),
    "references in a number": (
        "a.jsonl",
        b'{"text": "a"}\n' * 1000 + b'{"text": "a", "references": 5}\n',
        "a.jsonl:1001: 'references' is 5, not a list",
    ),
    "a reference that is a number": (
        "a.jsonl",
        b'{"text": "a"}\n' * 1000 + b'{"text": "a", "references": [5]}\n',
        "a.jsonl:1001: 'references' is 5",
    ),
    "half a character": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "\\ud83d"}\n',
        "a.jsonl:2: 'text' holds half a surrogate",
    ),
    "too few cells": ("a.csv", b"text,label\na,b\nc\n", "a.csv:3: 1 cells, but the first line names 2 columns"),
    "too many cells": ("a.csv", b'text,label\n"a\nb",c\nd,e,f\n', "a.csv:4: 3 cells"),
    "an open quote": (
        "a.csv",
        b'text,label\na,b\n"c,d\ne,f\n',
        "a.csv:3: malformed CSV (the quote that opens in line 3 is never",
    ),
    "text after a quote": ("a.csv", b'text,label\n"a"b,c\n', "a.csv:2: malformed CSV"),
    "a column twice": ("a.csv", b"text,text\na,b\n", "a.csv:1: the column 'text' is named twice"),
    "cells of TSV": ("a.tsv", b"text\tlabel\na\n", "a.tsv:2: 1 cells"),
    "Latin-1": ("a.csv", "text,label\na,b\ncafé,c\n".encode("latin-1"), "a.csv:3: not UTF-8 text; save it as UTF-8"),
    "Latin-1, packed": ("a.txt.gz", "a\ncafé\n".encode("latin-1"), "a.txt.gz:2: not UTF-8 text"),
    "UTF-16, cut": ("a.jsonl", '{"text": "a"}\n'.encode("utf-16")[:-1], "a.jsonl: not whole UTF-16 text"),
    "UTF-16 without a mark": ("a.txt", "a\nb\n".encode("utf-16-le"), "a.txt:1: not UTF-8 text"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_every_bad_file_is_one_line_that_says_where(tmp_path, what):
    """Both ways in: what `evaluate` and what `train` call."""
    name, data, expected = BAD_FILES[what]
    path = put(tmp_path / name, data)
    for call, given_path in ((read_rows, path), (lambda p: load_splits(DataConfig(path=str(p))), path)):
        assert message_of(call, given_path).startswith(f"{tmp_path}/{expected}")


def test_damaged_gzip_and_missing_files_are_one_line(tmp_path):
    whole = gzip.compress(b"".join(json.dumps({"text": os.urandom(20).hex()}).encode() + b"\n" for _ in range(500)))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "damaged or incomplete gzip file" in message_of(read_rows, cut)
    assert message_of(read_rows, tmp_path / "absent.csv") == f"no such file: {tmp_path}/absent.csv"
    assert message_of(load_splits, DataConfig(path=str(tmp_path / "absent"))).startswith("no such file")
    assert "is a folder" in message_of(read_rows, tmp_path)


def test_standard_input_is_named_in_errors():
    code = "from ladle.data.rows import read_rows\nread_rows('-')"
    done = subprocess.run([sys.executable, "-c", code], input=b'{"text": 1}\n', capture_output=True, check=False)
    assert done.stderr.decode().splitlines()[-1].endswith("standard input:1: 'text' is 1, not a string")
