"""`ladle evaluate` and `fit judge` on bad input: one line on stderr, exit code 2, nothing written."""

import json
import sys
from pathlib import Path

import pytest

from ladle.cli import main

TEXTS = [{"text": "the soup was great", "label": "good"}, {"text": "the soup was cold", "label": "bad"}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: two samples, one sample, an empty file, labelled rows, samples of another label."""
    monkeypatch.chdir(tmp_path)
    files = {
        "two.jsonl": TEXTS,
        "one.jsonl": TEXTS[:1],
        "empty.jsonl": [],
        "rows.jsonl": TEXTS * 10,
        "labelled.jsonl": [{"text": "the only one", "label": "a"}],
        "unlike.jsonl": [{"text": f"word{i}", "label": "ab"[i % 2]} for i in range(20)],
        "other.jsonl": [row | {"label": "odd"} for row in TEXTS],
    }
    for name, rows in files.items():
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def complaint(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command says."""
    before = set(Path().rglob("*"))
    assert main([*words.split(), "-o", "report.json"]) == 2
    assert set(Path().rglob("*")) == before
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ladle:")]
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate empty.jsonl", "empty.jsonl is empty"),
        ("evaluate one.jsonl --reference two.jsonl", "one.jsonl has one sample"),
        ("evaluate nothing.jsonl", "no such file: nothing.jsonl"),
        ("evaluate two.jsonl --reference empty.jsonl", "empty.jsonl is empty"),
        ("evaluate two.jsonl --train nothing.jsonl", "no such file: nothing.jsonl"),
        ("evaluate two.jsonl --novelty", "give them with --train"),
        ("evaluate two.jsonl --model e2e", "give a reference file"),
        ("evaluate two.jsonl --mauve-encoder x", "give a reference file"),
        ("evaluate two.jsonl --slots", "slot"),
        ("evaluate two.jsonl --judge nothing", "ladle fit judge"),
        ("fit judge --data empty.jsonl", "empty.jsonl is empty"),
        ("fit judge --data unlike.jsonl", "no word occurs in two of them"),
        ("fit judge --data labelled.jsonl", "no rows are left besides the test rows"),
    ],
)
def test_bad_files_and_settings(words: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in complaint(words, capsys)


def test_a_label_that_the_judge_does_not_know(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "judge", "--data", "rows.jsonl", "-o", "judge"]) == 0
    capsys.readouterr()
    assert "does not know the label 'odd'" in complaint("evaluate other.jsonl --judge judge", capsys)


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        ("evaluate two.jsonl --reference two.jsonl --mauve-encoder x", "mauve", "mauve"),
        ("evaluate two.jsonl --train rows.jsonl --novelty", "rapidfuzz", "evaluation"),
        ("evaluate two.jsonl --reference two.jsonl --rouge", "rouge_score", "evaluation"),
        ("evaluate two.jsonl --reference two.jsonl --bertscore-encoder x", "bert_score", "bertscore"),
        ("evaluate two.jsonl --plots plots", "matplotlib", "plots"),
    ],
)
def test_a_missing_extra_is_named(
    words: str,
    package: str,
    extra: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before any work, with the command that installs it."""
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install '.[{extra}]'" in complaint(words, capsys)
