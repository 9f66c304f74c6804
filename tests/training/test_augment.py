"""Synthetic rows from few labelled ones: what is written, what is refused, and that a run goes on."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runs
import tiny
from ladle.data.columns import Columns
from ladle.data.rows import Row, read_rows
from ladle.errors import UserError
from ladle.evaluation.selection import near_copies
from ladle.evaluation.text_stats import copy_key
from ladle.training.augment import Augmented, _validated, augment

Run = Callable[..., tuple[int, str, str]]
ROWS = [
    {"text": text, "label": "good" if any(f" {animal} " in text for animal in ("cat", "fox", "owl")) else "bad"}
    for text in tiny.SENTENCES
]
RECIPE = runs.SETTINGS | {"training": runs.SETTINGS["training"] | {"steps": 4}}
SMALL = [
    "start=nothing", "autoencoder.backbone.width=32", "autoencoder.backbone.vocab_size=300",
    "autoencoder.max_tokens=24", "autoencoder.bottleneck.latent_dim=8", "diffusion.denoiser.width=32",
    "diffusion.denoiser.num_layers=2", "diffusion.schedule.shift=2", "sampling.num_inference_steps=2",
    "training.steps=4", "training.precision=fp32",
]  # fmt: skip
SETS = [word for setting in SMALL for word in ("--set", setting)]


def table(path: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    """A CSV file whose columns have names of their own, and one more."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["stars", "review", "number"])
        writer.writerows([row["label"], row["text"], number] for number, row in enumerate(rows))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Augmented, Path, list[str]]:
    folder = tmp_path_factory.mktemp("augment")
    lines: list[str] = []
    found = augment(ROWS, folder / "more.jsonl", per_class=3, recipe=RECIPE, hold_out=0.25, log=lines.append)
    return found, folder, lines


def test_new_rows_are_of_every_label_and_no_real_rows(made: tuple[Augmented, Path, list[str]]) -> None:
    """The promise of the filter, seen in what comes out of the loop."""
    found, _, lines = made
    texts = [row["text"] for row in found.synthetic]
    assert texts and set(Counter(row["label"] for row in found.synthetic).values()) <= {1, 2, 3}
    assert len({copy_key(text) for text in texts}) == len(texts)
    assert not near_copies(texts, [row["text"] for row in found.real]).any()
    assert sum(found.counts.values()) == sum(
        int(line.split(" candidate")[0]) for line in lines if "candidates: " in line
    )


def test_the_file_has_real_rows_then_synthetic_ones(made: tuple[Augmented, Path, list[str]]) -> None:
    found, folder, _ = made
    rows = [json.loads(line) for line in (folder / "more.jsonl").read_text().splitlines()]
    assert rows == [
        *({**row, "synthetic": False} for row in found.real),
        *({**row, "synthetic": True} for row in found.synthetic),
    ]
    assert read_rows(folder / "more.jsonl")[0] == found.real[0]  # as any file of rows


def test_held_out_rows_are_not_learnt_from(made: tuple[Augmented, Path, list[str]]) -> None:
    """A gain on rows that the model has seen would mean nothing."""
    found, folder, _ = made
    real, held = ({row["text"] for row in rows} for rows in (found.real, found.test))
    assert real | held == {row["text"] for row in ROWS} and not real & held
    share = Counter(row["label"] for row in found.test)
    assert share == {"good": 5, "bad": 7}
    info = json.loads((folder / "more.run" / "final" / "model.json").read_text())["info"]
    assert info["data"][0]["rows"] + info["data"][0]["held out"] == len(found.real)


def test_the_same_command_trains_once_and_draws_the_same(made: tuple[Augmented, Path, list[str]]) -> None:
    """An interrupted command goes on from the training that is there."""
    found, folder, _ = made
    before = runs.content(folder / "more.run" / "state")
    again = augment(ROWS, folder / "more.jsonl", per_class=3, recipe=RECIPE, hold_out=0.25, log=runs.quiet)
    assert runs.content(folder / "more.run" / "state") == before
    assert again.synthetic == found.synthetic
    other = augment(ROWS, run=folder / "more.run", per_class=1, recipe=RECIPE, hold_out=0.25, log=runs.quiet)
    assert Counter(row["label"] for row in other.synthetic).most_common(1)[0][1] == 1  # other rows, the same training


def test_a_label_of_few_rows_loses_none_to_the_validation() -> None:
    """It might lose both of two rows, and the model would not know it."""
    rows = [Row(text=f"text {i}", label="common" if i < 100 else f"rare {i // 2}") for i in range(160)]
    train, valid = _validated(rows)
    assert {row["label"] for row in valid} == {"common"} and len(valid) == 8
    assert sorted(row["text"] for row in train + valid) == sorted(row["text"] for row in rows)


def test_a_label_of_two_rows_can_be_drawn(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "a rare thing.", "label": "rare"}, {"text": "one more rare thing.", "label": "rare"}]
    found = augment(rows, run=tmp_path / "run", per_class=1, recipe=RECIPE, log=runs.quiet)
    assert found.model.labels == ("bad", "good", "rare")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([row["text"] for row in ROWS], {}, "texts are drawn by label"),
        ([row for row in ROWS if row["label"] == "bad"], {}, "all rows have the label 'bad'"),
        ([*ROWS, {"text": "alone.", "label": "rare"}], {}, "the label 'rare' has 1 row; each label needs 2"),
        (ROWS, {"per_class": 0}, "per_class is 0; it must be at least 1"),
        (ROWS, {"hold_out": 1.0}, "hold_out is 1.0"),
        (ROWS, {"hold_out": 0.2, "test": ROWS}, "cannot be used together"),
        (ROWS, {"test": [{"text": "a", "label": "1"}]}, "the test rows have the labels 1, none of which"),
        (ROWS, {"output": "more.xlsx"}, "rows are written as .csv or .jsonl"),
        (ROWS, {"output": "-"}, "give --run FOLDER"),
    ],
)
def test_wrong_use_is_refused_before_any_training(
    rows: list[Any], options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that says what to do, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        augment(rows, **{"output": "more.csv", "recipe": RECIPE, "log": runs.quiet} | options)
    assert not list(tmp_path.iterdir())


def test_a_column_named_synthetic_is_not_doubled(tmp_path: Path) -> None:
    """A file that this command wrote would hold two columns of one name."""
    rows = [{"text": row["text"], "synthetic": row["label"]} for row in ROWS]
    with pytest.raises(UserError, match="rename it"):
        augment(rows, tmp_path / "more.csv", columns=Columns(label="synthetic"), recipe=RECIPE, log=runs.quiet)


def test_the_command_line_end_to_end(run: Run, tmp_path: Path) -> None:
    """From a file with columns of its own to more rows in it, and the gain beside copies and word edits."""
    data, output = table(tmp_path / "few.csv", ROWS[::2]), tmp_path / "more.csv"
    test = runs.write_rows(tmp_path / "test.jsonl", ROWS[1::2])
    names = ["--text", "review", "--label", "stars"]
    code, out, err = run("augment", "--data", data, *names, "-o", output, "--per-class", 2, "--report",
                         tmp_path / "report.json", "--hold-out", 0.4, *SETS)  # fmt: skip
    assert code == 0, err
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["review", "stars", "synthetic"]
    assert {row["synthetic"] for row in rows} == {"false", "true"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert "| real rows + synthetic rows |" in out and report["gain"]["n"] == 25 - sum(
        row["synthetic"] == "false" for row in rows
    )
    assert "written to" in err and (tmp_path / "more.run" / "final" / "model.json").exists()
    # The same command replaces its own file. Another test file needs another training, which is refused.
    code, out, err = run("augment", "--data", data, *names, "-o", output, "--per-class", 2, "--test", test, *SETS)
    assert code == 2 and "more.run" in err.splitlines()[-1]


def test_the_command_line_refuses_in_one_line(run: Run, tmp_path: Path) -> None:
    data = runs.write_rows(tmp_path / "few.jsonl", ROWS)
    for words, message in (
        (["-o", data], "the command reads it"),
        (["-o", tmp_path / "a.csv", "--per-class", 0], "--per-class is 0"),
        (["-o", tmp_path / "a.csv", "--hold-out", 2], "--hold-out is 2"),
        (["-o", tmp_path / "a.csv", "--label", ""], "texts are drawn by label"),
    ):
        code, out, err = run("augment", "--data", data, *words)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.jsonl"]
