"""`ladle fit`: a judge and a scorer from the shell, with one line for bad input."""

from pathlib import Path

import pytest

from ladle.cli import main
from ladle.evaluation.judge import Judge
from ladle.storage.writing import write_rows


def test_a_judge_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"{word} {i % 7}", "label": word} for i in range(60) for word in ("up", "down")]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert main(["fit", "judge", "--data", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "judge")]) == 0
    captured = capsys.readouterr()
    assert "accuracy on 24 held-out rows: 100.0%" in captured.err
    assert captured.out.strip() == str(tmp_path / "judge")
    assert Judge.load(tmp_path / "judge").predict(["up 3"]) == ["up"]


def test_wrong_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"text": "a"}])
    data, output = str(tmp_path / "rows.jsonl"), str(tmp_path / "out")
    for words, message in (
        (["judge", "--data", data, "-o", output], "name the label column with --label COLUMN"),
        (["judge", "--data", data, "-o", output, "--kind", "encoder"], "needs --encoder"),
        (["scorer", "--data", data, "-o", output, "--minutes", "0"], "--minutes is 0"),
        (["scorer", "--data", str(tmp_path / "none.jsonl"), "-o", output], "none.jsonl"),
    ):
        assert main(["fit", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()
