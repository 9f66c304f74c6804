"""Rows out of every kind of file; one clear line for every kind of bad input; held-out rows that stay apart."""

import csv
import gzip
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ladle.config import Config
from ladle.errors import UserError
from ladle.training.data import Columns, DataConfig, load_splits, read_rows

GOOD = {"text": "Good “food”,\tfast.", "label": "positive"}
BAD = {"text": 'He said: "never, ever again"', "label": "negative"}


def put(path: Path, data: str | bytes) -> Path:
    """Write a file, packed when its name says so."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def put_rows(path: Path, rows: list[dict]) -> Path:
    return put(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def as_csv(rows: list[dict], **options) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def message_of(call, *args, **kwargs) -> str:
    """The error's one line, without the folder."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 2
    return message


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
    assert len(notes) == 1 and "2 of 9 rows dropped, their text is empty" in notes[0]


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
    assert "not a whole Parquet file" in message_of(read_rows, tmp_path / "c.parquet")
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "d.parquet")
    assert "d.parquet: row 1: 'text' is 1, not a string" in message_of(read_rows, tmp_path / "d.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pip install 'ladle[parquet]'" in message_of(read_rows, put(tmp_path / "a.parquet", b"PAR1"))


# ---------------------------------------------------------------------------------------------------- columns


def test_a_pairs_target_is_its_text(tmp_path):
    pair = {"source": " name[Aromi] ", "target": "Aromi is a pub.\n", "references": ["Aromi is a pub.", " A pub. ", ""]}
    expected = {"source": "name[Aromi]", "text": "Aromi is a pub.", "references": ["Aromi is a pub.", "A pub."]}
    assert read_rows(put_rows(tmp_path / "a.jsonl", [pair])) == [expected]


def test_text_goes_before_target_and_names_go_before_both(tmp_path):
    row = {"text": "a", "target": "b", "source": "c", "label": "d", "Title": "e", "kind": "f"}
    path = put_rows(tmp_path / "a.jsonl", [row])
    assert read_rows(path) == [{"text": "a", "source": "c", "label": "d"}]
    assert read_rows(path, Columns(target="target")) == [{"text": "b", "source": "c", "label": "d"}]
    named = Columns(text="Title", label="kind", source="target")
    assert read_rows(path, named) == [{"text": "e", "label": "f", "source": "b"}]
    assert read_rows(path, Columns(text="source", label="")) == [{"text": "c"}]  # "" leaves a column out
    assert "not both" in message_of(read_rows, path, Columns(text="text", target="target"))


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
    assert "no column 'text' or 'target'" in message and "review, town" in message and "data.text" in message


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
    kept = read_rows(path, keep_empty=True)
    assert [row["text"] for row in kept] == ["", "a", "", ""] and kept[3]["label"] == "x"


def test_columns_that_come_late_in_a_json_file_are_read(tmp_path):
    rows = [{"text": f"t{i}"} for i in range(1500)] + [{"text": "last", "label": "x", "source": "s"}]
    assert read_rows(put_rows(tmp_path / "a.jsonl", rows)) == rows


# ---------------------------------------------------------------------------------------------------- bad input

BAD_FILES = {
    "empty file": ("a.jsonl", b"", "a.jsonl is empty"),
    "only blank lines": ("a.txt", b"\n \n", "a.txt is empty"),
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
    "text that is a list": ("a.jsonl", b'{"text": ["a"]}\n', "a.jsonl:1: 'text' is ['a'], not a string"),
    "source that is an object": (
        "a.jsonl",
        b'{"text": "a", "source": {}}\n',
        "a.jsonl:1: 'source' is {}, not a string",
    ),
    "label that is a list": ("a.jsonl", b'{"text": "a", "label": [1]}\n', "a.jsonl:1: 'label' is [1], not one label"),
    "references in a number": (
        "a.jsonl",
        b'{"text": "a", "references": 5}\n',
        "a.jsonl:1: 'references' is 5, not a list",
    ),
    "a reference that is a number": ("a.jsonl", b'{"text": "a", "references": [5]}\n', "a.jsonl:1: 'references' is 5"),
    "half a character": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "\\ud83d"}\n',
        "a.jsonl:2: 'text' holds half a surrogate",
    ),
    "too few cells": ("a.csv", b"text,label\na,b\nc\n", "a.csv:3: 1 cells, but the first line names 2 columns"),
    "too many cells": ("a.csv", b'text,label\n"a\nb",c\nd,e,f\n', "a.csv:4: 3 cells"),
    "an open quote": ("a.csv", b'text,label\na,b\n"c,d\ne,f\n', "a.csv:3: malformed CSV (a quote is never closed)"),
    "text after a quote": ("a.csv", b'text,label\n"a"b,c\n', "a.csv:2: malformed CSV"),
    "a column twice": ("a.csv", b"text,text\na,b\n", "a.csv:1: the column 'text' is named twice"),
    "cells of TSV": ("a.tsv", b"text\tlabel\na\n", "a.tsv:2: 1 cells"),
    "Latin-1": ("a.csv", "text,label\na,b\ncafé,c\n".encode("latin-1"), "a.csv:3: not UTF-8 text; convert it first"),
    "Latin-1, packed": ("a.txt.gz", "a\ncafé\n".encode("latin-1"), "a.txt.gz:2: not UTF-8 text"),
    "UTF-16": ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "a.jsonl:1: not UTF-8 text"),
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
    assert "damaged or cut-off gzip file" in message_of(read_rows, cut)
    assert message_of(read_rows, tmp_path / "absent.csv") == f"no such file: {tmp_path}/absent.csv"
    assert message_of(load_splits, DataConfig(path=str(tmp_path / "absent"))).startswith("no such file")
    assert "is a folder" in message_of(read_rows, tmp_path)


def test_standard_input_is_named_in_errors():
    code = "from ladle.training.data import read_rows\nread_rows('-')"
    done = subprocess.run([sys.executable, "-c", code], input=b'{"text": 1}\n', capture_output=True, check=False)
    assert done.stderr.decode().splitlines()[-1].endswith("standard input:1: 'text' is 1, not a string")


# ---------------------------------------------------------------------------------------------------- folders


def texts(rows) -> list[str]:
    return [row["text"] for row in rows]


@pytest.mark.parametrize("valid_name", ["valid", "validation", "val", "dev"])
def test_a_folder_holds_files_named_after_splits_of_any_kind(tmp_path, valid_name):
    put_rows(tmp_path / "train.jsonl.gz", [{"text": "a"}, {"text": "b"}])
    put(tmp_path / f"{valid_name}.csv", "text\nc\n")
    put(tmp_path / "test.txt", "d\n")
    put(tmp_path / "README.md", "about")
    put(tmp_path / "other.txt", "x\n")
    splits = load_splits(DataConfig(path=str(tmp_path)))
    assert (texts(splits.train), texts(splits.valid), texts(splits.test)) == (["a", "b"], ["c"], ["d"])
    assert splits.notes == []


def test_paths_named_beside_the_folder_win(tmp_path):
    put(tmp_path / "data" / "train.txt", "a\nb\n")
    put(tmp_path / "data" / "valid.txt", "c\n")
    config = DataConfig(
        path=str(tmp_path / "data"),
        valid_path=str(put(tmp_path / "v.txt", "v\n")),
        test_path=str(put_rows(tmp_path / "t.jsonl", [{"text": "t"}])),
    )
    splits = load_splits(config)
    assert (texts(splits.train), texts(splits.valid), texts(splits.test)) == (["a", "b"], ["v"], ["t"])


def test_a_folder_without_train_rows_or_with_two_such_files_is_an_error(tmp_path):
    config = DataConfig(path=str(tmp_path))
    assert "no train file" in message_of(load_splits, config) and "no data files" in message_of(load_splits, config)
    put(tmp_path / "test.txt", "a\n")
    message = message_of(load_splits, config)
    assert "no train file" in message and "it has test.txt" in message
    put(tmp_path / "train.txt", "a\n")
    put(tmp_path / "train.jsonl.gz", b"")
    assert "two files of train rows, train.jsonl.gz and train.txt" in message_of(load_splits, config)


def test_a_folder_may_hold_a_split_in_parts(tmp_path):
    """As the hub's own files are named; in the order of their numbers, and what is named otherwise is not read."""
    for number in range(3):
        put_rows(tmp_path / f"train-0000{number}-of-00003.jsonl", [{"text": f"a{number}"}, {"text": f"b{number}"}])
    put(tmp_path / "validation_1.csv", "text\nv\n")
    put(tmp_path / "train_log.jsonl", "no rows\n")
    splits = load_splits(DataConfig(path=str(tmp_path)))
    assert texts(splits.train) == ["a0", "b0", "a1", "b1", "a2", "b2"] and texts(splits.valid) == ["v"]
    assert splits.notes == [f"train: 3 files of {tmp_path}"]
    put(tmp_path / "train-1.csv", "text\nx\n")  # of another kind: the same rows once more?
    assert "two files of train rows" in message_of(load_splits, DataConfig(path=str(tmp_path)))


def test_a_folder_of_files_of_any_names_is_all_trained_on(tmp_path):
    for name in ("tales.txt", "fables.txt", ".hidden.txt", "notes.md"):
        put(tmp_path / name, f"{name}\n")
    splits = load_splits(DataConfig(path=str(tmp_path), valid_fraction=0))
    assert texts(splits.train) == ["fables.txt", "tales.txt"]
    assert splits.notes == [f"train: 2 files of {tmp_path}"]


def test_a_part_of_a_column_that_holds_an_object_is_a_column(tmp_path):
    """As translations come; the whole column is none."""
    rows = [{"id": i, "translation": {"de": f"satz {i}", "en": f"sentence {i}"}} for i in range(3)]
    path = str(put_rows(tmp_path / "a.jsonl", rows))
    config = DataConfig(path=path, source="translation.en", text="translation.de", valid_fraction=0)
    assert load_splits(config).train == [{"text": f"satz {i}", "source": f"sentence {i}"} for i in range(3)]
    wrong = config.model_copy(update={"text": "translation.fr"})
    assert "columns: id, translation, translation.de, translation.en" in message_of(load_splits, wrong)
    assert "is {'de'" in message_of(load_splits, config.model_copy(update={"text": "translation"}))


def test_no_data_at_all_is_an_error():
    assert "name a file or folder" in message_of(load_splits, DataConfig())


# ---------------------------------------------------------------------------------------------------- holding out


def test_missing_valid_rows_are_split_off_and_it_is_said(tmp_path):
    put(tmp_path / "train.txt", "".join(f"text {i}\n" for i in range(200)))
    put(tmp_path / "test.txt", "t\n")
    splits = load_splits(DataConfig(path=str(tmp_path)))
    assert len(splits.valid) == 10 and texts(splits.test) == ["t"]
    assert sorted(texts(splits.train + splits.valid)) == sorted(f"text {i}" for i in range(200))
    order = [int(text.split()[1]) for text in texts(splits.train)]
    assert order == sorted(order)  # train keeps the order of the file
    assert splits.notes == ["valid: 10 of 200 rows split off by text, no text on both sides"]


def test_the_split_is_the_same_everywhere_and_for_any_order_of_rows(tmp_path):
    """Python's own hash differs from run to run; then a resumed run would train on its held-out rows."""
    lines = [f"text {i}\n" for i in range(100)]
    one = load_splits(DataConfig(path=str(put(tmp_path / "a.txt", "".join(lines)))))
    other = load_splits(DataConfig(path=str(put(tmp_path / "b.txt", "".join(reversed(lines))))))
    assert texts(one.valid) == ["text 2", "text 34", "text 35", "text 37", "text 65"]
    assert set(texts(one.valid)) == set(texts(other.valid))
    reseeded = load_splits(DataConfig(path=str(tmp_path / "a.txt"), seed=1))
    assert set(texts(reseeded.valid)) != set(texts(one.valid))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), min_size=1, max_size=60),
    st.floats(0, 0.5),
    st.integers(0, 8),
    st.booleans(),
    st.integers(-5, 5),
)
@example(pairs=[(0, 0), (0, 0), (1, 0), (1, 0)], fraction=0.5, most=1, with_source=True, seed=0)
def test_no_source_or_text_is_on_both_sides(tmp_path_factory, pairs, fraction, most, with_source, seed):
    """A held-out row whose twin is trained on measures memory."""
    rows = [{"text": f"T  {text}" if i % 2 else f"t {text}"} for i, (_, text) in enumerate(pairs)]
    if with_source:
        rows = [row | {"source": f"s{source}"} for row, (source, _) in zip(rows, pairs, strict=True)]
    path = put_rows(tmp_path_factory.mktemp("split") / "a.jsonl", rows)
    config = DataConfig(path=str(path), valid_fraction=fraction, max_valid_rows=most, seed=seed)
    splits = load_splits(config)

    def group(row):
        return row["source"] if with_source else " ".join(row["text"].lower().split())

    train, valid = ({group(row) for row in side} for side in (splits.train, splits.valid))
    assert not train & valid and train
    assert bool(valid) == (len({group(row) for row in rows}) > 1 and fraction > 0 and most > 0)
    assert len(splits.valid) <= most
    sizes = defaultdict(int)
    for row in rows:
        sizes[group(row)] += 1
    if min(sizes.values()) <= max(1, round(fraction * len(rows))):
        assert len(splits.valid) <= max(1, round(fraction * len(rows)))


def test_rows_of_one_source_stay_together(tmp_path):
    rows = [{"source": f"s{i % 40}", "target": f"text {i}"} for i in range(400)]
    splits = load_splits(DataConfig(path=str(put_rows(tmp_path / "a.jsonl", rows)), valid_fraction=0.1))
    assert len(splits.valid) == 40 and len({row["source"] for row in splits.valid}) == 4
    assert "by source" in splits.notes[0]


def test_of_a_source_with_more_rows_than_may_be_held_out_none_is_trained_on(tmp_path):
    rows = [{"source": f"s{i % 2}", "target": f"text {i}"} for i in range(20)]
    splits = load_splits(DataConfig(path=str(put_rows(tmp_path / "a.jsonl", rows)), max_valid_rows=3))
    assert len(splits.valid) == 3 and len(splits.train) == 10
    assert {row["source"] for row in splits.valid} != {row["source"] for row in splits.train}
    assert splits.notes[-1] == "valid: 3 of 10 rows used (max_valid_rows)"


def test_nothing_is_split_off_when_all_rows_are_alike_or_none_is_wanted(tmp_path):
    path = str(put(tmp_path / "a.txt", "same\nSame \nsame\n"))
    splits = load_splits(DataConfig(path=path))
    assert len(splits.train) == 3 and splits.valid == []
    assert splits.notes == ["valid: none, since all rows have the same text"]
    assert load_splits(DataConfig(path=path, valid_fraction=0)).valid == []


def test_row_limits_take_rows_from_the_whole_file(tmp_path):
    """Files stand in order, by book or by label: the first rows are not like the rest."""
    put(tmp_path / "train.txt", "".join(f"{i} a\n" for i in range(1000)))
    put(tmp_path / "valid.txt", "".join(f"{i} v\n" for i in range(1000)))
    splits = load_splits(DataConfig(path=str(tmp_path), max_rows=100, max_valid_rows=50))
    for rows, count in ((splits.train, 100), (splits.valid, 50)):
        numbers = [int(text.split()[0]) for text in texts(rows)]
        assert len(set(numbers)) == count and numbers == sorted(numbers)
        assert 350 < sum(numbers) / count < 650
    assert splits.notes == [
        "train: 100 of 1,000 rows used (max_rows)",
        "valid: 50 of 1,000 rows used (max_valid_rows)",
    ]


# ---------------------------------------------------------------------------------------------------- config, hub


def test_config_is_checked_and_a_local_file_takes_the_place_of_a_hub_set():
    """A recipe's column names are those of the hub's set; a file that takes its place has its own."""
    assert issubclass(DataConfig, Config)
    recipe = DataConfig.parse({"id": "GEM/e2e_nlg", "source": "meaning_representation", "max_rows": 9, "seed": 4})
    local = recipe.at("mine.csv")
    assert local == DataConfig(path="mine.csv", max_rows=9, seed=4)
    with pytest.raises(UserError, match="did you mean 'source'"):
        DataConfig.parse({"sorce": "x"})
    for values in ({"valid_fraction": 0.9}, {"valid_fraction": -0.1}, {"max_rows": 0}, {"max_valid_rows": -1}):
        with pytest.raises(UserError):
            DataConfig.parse(values)


def test_a_hub_set_without_the_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = message_of(load_splits, DataConfig(id="GEM/e2e_nlg"))
    assert "GEM/e2e_nlg" in message and "pip install 'ladle[datasets]'" in message


needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs the extra [datasets]")


@needs_datasets
def test_a_hub_set_is_read_with_its_class_names_and_splits(tmp_path, monkeypatch):
    """`datasets` reads a local folder as it reads the hub; class numbers become the names that a user knows."""
    import datasets

    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {"body": datasets.Value("string"), "label": datasets.ClassLabel(names=["sad", "glad"])}
    )
    folder = tmp_path / "set"
    folder.mkdir()
    for name, count in (("train", 20), ("validation", 2), ("test", 1)):
        values = {"body": [f"{name} {i}" for i in range(count)], "label": [-1, *[i % 2 for i in range(1, count)]]}
        datasets.Dataset.from_dict(values, features=features).to_parquet(folder / f"{name}.parquet")
    splits = load_splits(DataConfig(id=str(folder), text="body"))
    assert [len(rows) for rows in (splits.train, splits.valid, splits.test)] == [20, 2, 1]
    assert splits.train[:2] == [{"text": "train 0"}, {"text": "train 1", "label": "glad"}]
    message = message_of(load_splits, DataConfig(id=str(folder), text="boddy"))
    assert "did you mean 'body'?" in message and "(train)" in message


@needs_datasets
def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    """In a process of its own, since `datasets` reads the switch for offline use once, at import."""
    code = "from ladle.training.data import DataConfig, load_splits\nload_splits(DataConfig(id='no-such/set'))"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ladle.errors.LadleError: the hub cannot be reached for 'no-such/set'")
    assert last.endswith("or use --data FILE")


def test_reading_data_imports_nothing_heavy():
    """`ladle evaluate` and `ladle --help` come through here."""
    code = (
        "import sys\nimport ladle.training.data, ladle.files\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
