"""Folders, data sets on the hub and portions; held-out rows that stay apart."""

import importlib.util
import os
import subprocess
import sys
import types
from collections import defaultdict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ladle.config import Config
from ladle.data.splits import DataConfig, load_splits
from ladle.errors import LadleError, UserError
from row_files import message_of, put, put_rows

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
    assert "name a file or a folder" in message_of(load_splits, DataConfig())


# ---------------------------------------------------------------------------------------------------- rows in memory


def test_rows_in_memory_split_as_those_of_a_file(tmp_path):
    lines = [f"text {i}" for i in range(100)]
    path = put(tmp_path / "a.txt", "".join(f"{line}\n" for line in lines))
    of_file = load_splits(DataConfig(path=str(path)))
    for data in (lines, iter(lines), [{"text": line} for line in lines], path, str(path), {"train": lines}):
        given = load_splits(DataConfig(path="not read", id="nor this"), data)
        assert (given.train, given.valid, given.test) == (of_file.train, of_file.valid, [])


def test_a_mapping_holds_the_rows_of_each_split(tmp_path):
    path = put(tmp_path / "test.txt", "t\n")
    data = {"train": ["a", "b"], "validation": [{"text": "v", "label": "x"}], "test": path, "unsupervised": ["u"]}
    splits = load_splits(DataConfig(), data)
    assert (texts(splits.train), texts(splits.valid), texts(splits.test)) == (["a", "b"], ["v"], ["t"])
    assert splits.notes == ["data: 'unsupervised' is not the name of a split, and is not used"]
    for bad, says in (
        ({"text": ["a"]}, "data has no train rows; it has text; give {'train': rows}"),
        (
            {"train": ["a"], "valid": ["b"], "dev": ["c"]},
            "data has two groups of valid rows, 'dev' the second: give one",
        ),
        ({"train": ["a"], "valid": [{"text": 5}]}, "data (valid): row 1: 'text' is 5, not a string"),
    ):
        assert message_of(load_splits, DataConfig(), bad) == says


def test_rows_in_memory_come_in_portions_too():
    lines = [f"text {i}" for i in range(30)]
    config = DataConfig(rows_in_memory=10, valid_fraction=0)
    splits = load_splits(config, lines)
    assert [texts(splits.of_epoch(epoch)) for epoch in range(3)] == [lines[:10], lines[10:20], lines[20:]]
    assert "reads the data more than once" in message_of(load_splits, config, iter(lines))


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


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), min_size=1, max_size=60),
    st.floats(0, 0.5),
    st.integers(0, 8),
    st.booleans(),
)
@example(pairs=[(0, 0), (0, 0), (1, 0), (1, 0)], fraction=0.5, most=1, with_source=True)
def test_no_source_or_text_is_on_both_sides(pairs, fraction, most, with_source):
    """A held-out row whose twin is trained on measures memory."""
    rows = [{"text": f"T  {text}" if i % 2 else f"t {text}"} for i, (_, text) in enumerate(pairs)]
    if with_source:
        rows = [row | {"source": f"s{source}"} for row, (source, _) in zip(rows, pairs, strict=True)]
    splits = load_splits(DataConfig(valid_fraction=fraction, max_valid_rows=most), rows)

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
    assert splits.notes == ["valid: none, because all rows have the same text"]
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
    recipe = DataConfig.parse({"id": "GEM/e2e_nlg", "source": "meaning_representation", "max_rows": 9})
    local = recipe.at("mine.csv")
    assert local == DataConfig(path="mine.csv", max_rows=9)
    with pytest.raises(UserError, match="did you mean 'source'"):
        DataConfig.parse({"sorce": "x"})
    for values in ({"valid_fraction": 0.9}, {"valid_fraction": -0.1}, {"max_rows": 0}, {"max_valid_rows": -1}):
        with pytest.raises(UserError):
            DataConfig.parse(values)


def test_a_hub_set_without_the_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = message_of(load_splits, DataConfig(id="GEM/e2e_nlg"))
    assert "GEM/e2e_nlg" in message and "pip install '.[datasets]'" in message


def test_a_stream_that_breaks_on_the_way_is_one_line(monkeypatch):
    """Rows of a streamed set come over the network long after it was opened."""

    class Stream(list):
        column_names = ["text"]
        features = None

        def __iter__(self):
            yield {"text": "one"}
            raise ConnectionError("reset by peer")

    library = types.SimpleNamespace(load_dataset=lambda *args, **options: {"train": Stream()})
    monkeypatch.setitem(sys.modules, "datasets", library)
    with pytest.raises(LadleError, match=r"^the hub cannot be reached for 'me/set' \(reset by peer\)"):
        load_splits(DataConfig(id="me/set", rows_in_memory=5))


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
    streamed = load_splits(DataConfig(id=str(folder), text="body", rows_in_memory=15))
    assert streamed.train == splits.train[:15] and streamed.of_epoch(1) == splits.train[15:]
    assert streamed.valid == splits.valid and streamed.of_epoch(2) == splits.train[:15]
    message = message_of(load_splits, DataConfig(id=str(folder), text="boddy"))
    assert "did you mean 'body'?" in message and "(train)" in message


@needs_datasets
def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    """In a process of its own, since `datasets` reads the switch for offline use once, at import."""
    code = "from ladle.data.splits import DataConfig, load_splits\nload_splits(DataConfig(id='no-such/set'))"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ladle.errors.LadleError: the hub cannot be reached for 'no-such/set'")
    assert last.endswith("or use --data FILE")


def test_reading_data_imports_nothing_heavy():
    """`ladle evaluate` and `ladle --help` come through here."""
    code = (
        "import sys\nimport ladle.data.splits, ladle.storage.writing\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
