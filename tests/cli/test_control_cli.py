"""`ladle fit control` and `ladle sample --control`, `--min-words` and `--max-words`, from the shell."""

import json
from pathlib import Path

import pytest

import runs
import tiny
from ladle.cli import main
from ladle.control import Control, Steer
from ladle.pipeline import LatentDiffusion
from ladle.sampling.word_count import count_words
from ladle.storage.model_folder import save_parts

ROWS = [{"text": text, "label": "cat" if " cat " in text else "other"} for text in tiny.SENTENCES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its rows."""
    path = tmp_path_factory.mktemp("shell")
    save_parts(tiny.tiny_plan_parts(labels=(), source=False), path / "model")
    runs.write_rows(path / "rows.jsonl", ROWS)
    return path


def test_from_labelled_rows_to_controlled_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a model without labels. Each row says by what it was steered, and the same command gives the same rows."""
    given = ["--data", str(folder / "rows.jsonl"), "--model", str(folder / "model"), "-o", str(folder / "control")]
    assert main(["fit", "control", *given, "--minutes", "0.02"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(folder / "control")
    assert "accuracy on 10 held-out rows" in shown.err and "at t = 0.9" in shown.err
    assert Control.load(folder / "control").labels == ("cat", "other")
    sample = ["sample", "--model", str(folder / "model"), "-n", "3", "--seed", "0"]
    asked = [f"{folder / 'control'}=cat:9", f"{folder / 'control'}=other:-9"]
    words = [*sample, "--control", asked[0], "--control", asked[1], "--candidates", "2", "--choose", "label"]
    assert main(words) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["control"] for row in rows] == [asked] * 3
    assert main(words) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    model = LatentDiffusion.from_pretrained(folder / "model")
    steers = [Steer(folder / "control", "cat", 9), Steer(folder / "control", "other", -9)]
    same = model.generate(3, seed=0, control=steers, candidates=2, choose="label")
    assert [row["text"] for row in rows] == same
    assert main([*sample, "--candidates", "2"]) == 0
    free = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in free] != same and not any("control" in row for row in free)


def test_lengths_from_the_shell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says how many texts missed; a range that all have gets none."""
    assert main(["sample", "--model", str(folder / "model"), "-n", "4", "--seed", "0", "--min-words", "2"]) == 0
    shown = capsys.readouterr()
    assert all(count_words(json.loads(line)["text"]) >= 2 for line in shown.out.splitlines())
    assert shown.err == ""
    assert main(["sample", "--model", str(folder / "model"), "-n", "4", "--seed", "0", "--min-words", "20"]) == 0
    assert "4 of 4 texts have not 20 words or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--control", "nowhere=cat"], "cannot load the control in nowhere"),
        (["--control", "nowhere"], "not of the form FOLDER=LABEL"),
        (["--min-words", "2.5"], "--min-words: '2.5' is not a whole number"),
        (["--min-words", "0"], "--min-words: must be"),
        (["--min-words", "9", "--max-words", "6"], "min_words is 9 and max_words is 6"),
        (["--min-words", "99"], "min_words is 99, but this model's texts have at most 24 tokens"),
    ],
)
def test_wrong_use_is_one_line(
    folder: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["sample", "--model", str(folder / "model"), *words, "-o", str(tmp_path / "out.jsonl")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_fitting_without_labels_or_time_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.write_rows(folder / "plain.jsonl", [{"text": "a"}])
    base = ["fit", "control", "--model", str(folder / "model"), "-o", str(folder / "none")]
    for more, says in (
        (["--data", str(folder / "plain.jsonl")], "--label COLUMN"),
        (["--data", str(folder / "rows.jsonl"), "--minutes", "0"], "--minutes is 0"),
    ):
        assert main([*base, *more]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    assert not (folder / "none").exists()
