"""Systems steered from outside, in a suite and by the script: trained, drawn, counted, refused in one line."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.baselines.guided import GuidedModel, PrefixClassifier
from ladle.benchmark.suite import load_suite
from ladle.cli import main
from ladle.errors import UserError
from ladle.evaluation.judge import fit_own
from ladle.storage.writing import write_rows
from tiny import SENTENCES, tiny_tokenizer

FIRST = ("sat", "ran", "hid")
ROWS = [{"text": text, "label": "good" if text.split()[3] in FIRST else "bad"} for text in SENTENCES]


@pytest.fixture
def rival() -> AutoregressiveModel:
    """A language model with random weights, as if it had been trained for three minutes."""
    torch.manual_seed(0)
    config = AutoregressiveConfig(width=32, num_layers=1, num_heads=2, max_tokens=16, labels=("bad", "good"))
    model = AutoregressiveModel(config, tiny_tokenizer()).eval()
    model.info = {"minutes": 3.0}
    return model


HEAD = """
condition = "label"
minutes = 0.05
num_samples = 12
seeds = 1
speed = { batches = { 4 = 4 }, rounds = 1 }
data = { path = "rows" }
"""
GUIDED = """
[systems.guided]
kind = "guided"
classifier_minutes = 0.02
settings.one = { strength = 1.0 }
settings.four = { strength = 4.0, candidates = 20, top_p = 0.9, temperature = 0.9 }
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name, rows in (("train", ROWS), ("valid", ROWS[:9]), ("test", ROWS[::4])):
        write_rows(tmp_path / "rows" / f"{name}.jsonl", rows)
    return tmp_path / "s.toml"


def test_the_benchmark_steers_the_rivals_weights(suite: Path, rival: AutoregressiveModel, tmp_path: Path) -> None:
    """Minutes and parameters are of both networks; the same command again trains and draws nothing."""
    pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")
    rival.save_pretrained(tmp_path / "weights")
    of = '[systems.rival]\nkind = "autoregressive"\nmodel = "weights"\n'
    suite.write_text(HEAD + GUIDED + 'of = "rival"\n' + of)
    assert main(["benchmark", str(suite), "-o", str(tmp_path / "results")]) == 0
    folder = tmp_path / "results" / "s"
    result = json.loads((folder / "results.json").read_text())["systems"]
    classifier = PrefixClassifier.from_pretrained(folder / "guided" / "classifier" / "final")
    assert not (folder / "guided" / "language-model").exists()
    assert result["guided"]["parameters"] == rival.num_parameters + classifier.num_parameters
    assert result["guided"]["minutes"] == pytest.approx(rival.info["minutes"] + classifier.info["minutes"])
    assert set(result["guided"]["settings"]) == {"one", "four"}
    drawn = [json.loads(line) for line in (folder / "guided/settings/four/samples-0.jsonl").read_text().splitlines()]
    options = {"strength": 4.0, "candidates": 20, "top_p": 0.9, "temperature": 0.9}
    labels, seeds = [row["label"] for row in drawn], [row["seed"] for row in drawn]
    assert [row["text"] for row in drawn] == GuidedModel(rival, classifier).generate(
        seeds=seeds, label=labels, **options
    )
    before = (folder / "table.md").read_text()
    weights = folder / "guided" / "classifier" / "final" / "model.safetensors"
    written_at = weights.stat().st_mtime_ns
    assert main(["benchmark", str(suite), "-o", str(tmp_path / "results")]) == 0
    assert (folder / "table.md").read_text() == before
    assert weights.stat().st_mtime_ns == written_at


def test_the_benchmark_trains_weights_of_its_own(suite: Path, model_folder: Path, tmp_path: Path) -> None:
    """Without labels, which they will not see. The classifier's minutes are taken from the system's."""
    pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")
    ladle = f'[systems.ladle]\nkind = "ladle"\nmodel = "{model_folder}"\n'
    suite.write_text(HEAD + GUIDED + "learning_rates = [2e-3]\n" + ladle)
    assert main(["benchmark", str(suite), "-o", str(tmp_path / "results")]) == 0
    folder = tmp_path / "results" / "s"
    result = json.loads((folder / "results.json").read_text())["systems"]
    of = AutoregressiveModel.from_pretrained(folder / "guided" / "language-model" / "final")
    classifier = PrefixClassifier.from_pretrained(folder / "guided" / "classifier" / "final")
    assert result["guided"]["minutes"] == pytest.approx(of.info["minutes"] + classifier.info["minutes"])
    assert of.config.labels == ()
    assert (of.info["minutes"], classifier.info["minutes"]) == pytest.approx((0.03, 0.02), abs=0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.replace('"label"', '"none"') + GUIDED + 'model = "x"\n', "guided is steered towards labels"),
        (HEAD + GUIDED + 'of = "rvial"\n', "guided.of is 'rvial'"),
        (HEAD + GUIDED + 'of = "x"\nmodel = "x"\n', "both 'of' and 'model'"),
        (HEAD + GUIDED, "takes its tokenizer and size from a Ladle system"),
        (HEAD + '[systems.a]\nkind = "ladle"\nof = "x"\n', "a.of is a key of kind 'guided'"),
    ],
)
def test_a_wrong_suite_is_one_line(suite: Path, text: str, message: str) -> None:
    suite.write_text(text)
    with pytest.raises(UserError, match=message):
        load_suite(suite)


def test_what_cannot_be_trained_is_said_before_the_work(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after the rival's minutes."""
    pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")
    ladle = '[systems.ladle]\nkind = "ladle"\nmodel = "base-en"\n'
    plain, alike = [{"text": text} for text in SENTENCES], [row for row in ROWS if row["label"] == "good"]
    for rows, budget, message in (
        (plain, [], "no training row has a label"),
        (alike, [], "all rows have the label 'good'"),
        ([*alike, {"text": "a cat", "label": "third"}], [], "no training row has the label 'bad'"),
        (ROWS, ["--budget", "0.01"], "classifier_minutes is 0.02, of 0.01 for the whole system"),
    ):
        write_rows(tmp_path / "rows" / "train.jsonl", rows)
        suite.write_text(HEAD + GUIDED + ladle)
        assert main(["benchmark", str(suite), "-o", str(tmp_path / "results"), *budget]) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ladle:")]
        assert len(error) == 1 and message in error[0]
        assert not (tmp_path / "results" / "s" / "ladle").exists()


def test_the_script_sweeps_the_strength(rival: AutoregressiveModel, tmp_path: Path, capsys: Any) -> None:
    """A row for each label and strength beside the real texts; the classifier is trained once."""
    spec = importlib.util.spec_from_file_location("guided", Path(__file__).parents[2] / "benchmarks" / "guided.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rival.save_pretrained(tmp_path / "rival")
    fit_own(ROWS, []).save(tmp_path / "judge")
    rows = str(tmp_path / "rows.jsonl")
    write_rows(rows, ROWS)
    words = [str(tmp_path / "rival"), "--data", rows, "--valid", rows, "--classifier", str(tmp_path / "guide")]
    words += ["--minutes", "0.03", "--judge", str(tmp_path / "judge"), "--scorer", str(tmp_path / "rival"), "-n", "8"]
    found = script.main([*words, "--strengths", "0", "6", "-o", str(tmp_path / "out.json")])
    assert [(row["label"], row["strength"]) for row in found] == [
        (label, strength) for label in ("bad", "good") for strength in ("real", "0", "6")
    ]
    shown = capsys.readouterr().out
    assert "| good | 6 |" in shown and "| bad | real |" in shown
    trained = (tmp_path / "guide" / "final" / "model.safetensors").read_bytes()
    assert script.main([*words, "--strengths", "6"])[1]["texts"] == found[2]["texts"]
    assert (tmp_path / "guide" / "final" / "model.safetensors").read_bytes() == trained
    assert json.loads((tmp_path / "out.json").read_text())["rows"][2]["texts"] == found[2]["texts"]
