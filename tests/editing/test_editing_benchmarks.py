"""The benchmarks of editing run whole on tiny data, and their figures are those of the texts."""

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from knowing import EIGHT, knowing
from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.evaluation.judge import fit_own
from ladle.storage.model_folder import save_parts

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
ROWS = [{"text": f"the {w} {n}", "label": own} for w, own in (("cat", "good"), ("dog", "bad")) for n in range(40)]


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path: Path, rows: list[dict]) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "knowing"
    save_parts(knowing(judged=True), folder)
    return str(folder)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("judge") / "judge"
    fit_own(ROWS, []).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scorer") / "scorer"
    config = AutoregressiveConfig(width=16, num_layers=1, num_heads=2, max_tokens=32)
    AutoregressiveModel(config, tiny.tiny_tokenizer()).save_pretrained(folder)
    return str(folder)


def cells(page: str, name: str) -> list[str]:
    """The figures of one row of a table."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_style_transfer(model: str, judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The source has the old label and is the source; people have the new one."""
    test = [{"source": EIGHT[1], "target": EIGHT[4], "label": "good", "target_label": "bad"}] * 2
    arguments = ["--test", write(tmp_path / "test.jsonl.gz", test), "--judge", judge, "--strengths", "0.5"]
    load("style_transfer").main([model, *arguments, "--train", write(tmp_path / "train.jsonl", ROWS)])
    page = capsys.readouterr().out
    assert cells(page, "people")[0].startswith("100.0%") and cells(page, "people")[1] == "100.0"
    assert cells(page, "the source itself")[0].startswith("0.0%") and cells(page, "the source itself")[2] == "100.0"
    assert "| edit, strength 0.5 |" in page and "| telling words filled in |" in page


def test_interpolation(model: str, scorer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ends are the texts, whatever is between."""
    data = write(tmp_path / "rows.jsonl", [{"text": text} for text in EIGHT])
    arguments = ["--data", data, "--train", data, "--scorer", scorer, "-n", "2", "--paths", "linear", "prior"]
    load("interpolation").main([model, *arguments, "--shown", "1"])
    page = capsys.readouterr().out
    assert cells(page, "linear")[0] == cells(page, "prior")[0] == "100.0%"
    assert len(cells(page, "nearest training text")) == 8


def test_paraphrase(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The source is the source, and other systems stand beside."""
    data = write(tmp_path / "pairs.jsonl", [{"source": EIGHT[1], "text": EIGHT[2]}, {"source": EIGHT[3], "text": "a"}])
    beside = write(tmp_path / "beside.jsonl", [{"text": EIGHT[1]}, {"text": "nothing"}])
    arguments = ["--data", data, "--strengths", "0.5", "--beside", f"other={beside}", "--out", str(tmp_path / "out")]
    load("paraphrase").main([model, *arguments])
    page = capsys.readouterr().out
    assert cells(page, "the source itself")[::3] == ["1.000", "100.0%"]
    assert cells(page, "other")[3] == "50.0%"
    assert (tmp_path / "out" / "vary-0.5.jsonl").is_file()


def test_directions(model: str, judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each direction, with how far each attribute moved."""
    words = [(w, own, v) for w, own in (("cat", "good"), ("dog", "bad")) for v in ("was", "is")]
    rows = [{"text": f"the {w} {v} at the sea {'and the king ' * (n % 3)}{n}", "label": own}
            for n in range(12) for w, own, v in words]  # fmt: skip
    rows += [{"text": text, "label": "good"} for text in EIGHT[:2]]
    arguments = ["--data", write(tmp_path / "rows.jsonl", rows), "--judge", judge, "-n", "2", "--learnt", "48"]
    load("directions").main([model, *arguments, "--strengths", "-1", "1", "--candidates", "2"])
    page = capsys.readouterr().out
    assert [line for line in page.splitlines() if line.startswith("| tense (past) (")]


def test_an_encoder_decoder_learns_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few pairs it says what it was taught, by beam search."""
    pairs = [{"source": source, "text": text} for source, text in zip(EIGHT, EIGHT[1:] + EIGHT[:1], strict=True)]
    data = write(tmp_path / "pairs.jsonl", pairs)
    script = load("encoder_decoder")
    monkeypatch.setattr(script, "load_parts", lambda name: tiny.tiny_plan_parts())
    settings = script.autoregressive_settings
    monkeypatch.setattr(script, "autoregressive_settings", lambda minutes, seed: settings(steps=150, seed=seed))
    arguments = ["--train", data, "--valid", data, "--test", data, "--width", "64", "--layers", "1", "--lr", "5e-3"]
    script.main([*arguments, "--beams", "2", "-o", str(tmp_path / "run")])
    texts = [json.loads(line)["text"] for line in (tmp_path / "run" / "texts.jsonl").read_text().splitlines()]
    assert sum(text == pair["text"] for text, pair in zip(texts, pairs, strict=True)) >= 6
