"""`ladle likelihood` from the shell: of both kinds of model, with their conditions, and bad input."""

import json
from pathlib import Path

import pytest
import torch

import runs
import tiny
from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.cli import main
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import save_parts
from ladle.storage.parts import ModelParts

ROWS = [{"text": text, "label": tiny.LABELS[i % 2], "food": "soup"} for i, text in enumerate(tiny.SENTENCES[:5])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan model, an autoregressive one, and rows."""
    path = tmp_path_factory.mktemp("likelihood")
    save_parts(tiny.tiny_plan_parts(), path / "model")
    config = AutoregressiveConfig(width=32, num_layers=1, num_heads=2, max_tokens=24, labels=tiny.LABELS)
    torch.manual_seed(0)
    AutoregressiveModel(config, tiny.tiny_tokenizer()).save_pretrained(path / "rival" / "final")
    runs.write_rows(path / "rows.jsonl", ROWS)
    return path


def command(folder: Path, model: str, *more: object) -> int:
    return main(["likelihood", str(folder / "rows.jsonl"), "--model", str(folder / model), *map(str, more)])


def test_it_prints_both_terms_and_writes_what_python_gives(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Given the labels of the file; without them with --free."""
    target = tmp_path / "report.json"
    assert command(folder, "model", "--draws", 2, "-o", target) == 0
    shown = capsys.readouterr().out
    for part in ("perplexity a token (upper bound)", "of the latents", "of the words", "5 texts", "log-SNR", "sampler"):
        assert part in shown
    texts, labels = ([row[name] for row in ROWS] for name in ("text", "label"))
    loaded = LatentDiffusion.from_pretrained(folder / "model")
    assert json.loads(target.read_text()) == loaded.likelihood(texts, label=labels, draws=2).as_json()
    assert command(folder, "model", "--draws", 2, "--free", "--log-snr", 1.5, "--seed", 9, "-o", "-") == 0
    free = json.loads(capsys.readouterr().out)
    assert free == loaded.likelihood(texts, draws=2, log_snr=1.5, seed=9).as_json()
    assert free["rows"]["given"]["log_snr"] == [1.5]


def test_of_an_autoregressive_model_it_is_the_exact_value(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's folder or the model's, given the labels or not."""
    values = []
    for more in ((), ("--free",)):
        assert command(folder, "rival", *more, "-o", "-") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["kind"] == "exact"
        values.append(found["rows"]["exact"]["nats_per_text"])
    rival = AutoregressiveModel.from_pretrained(folder / "rival" / "final")
    texts, labels = ([row[name] for row in ROWS] for name in ("text", "label"))
    assert values[0] == pytest.approx(float(rival.score(texts, label=labels)[0].mean()))
    assert values[1] == pytest.approx(float(rival.score(texts)[0].mean()))
    assert command(folder, "rival/final") == 0
    assert "perplexity a token |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "more", "says"),
    [
        ("model", ["--draws", "1"], "--draws is 1; it must be at least 2"),
        ("model", ["--log-snr", "40"], "log_snr is 40; this model's schedule allows -15 to 15"),
        ("model", ["--log-snr", "nan"], "--log-snr is nan; it must be a finite number"),
        ("model", ["--seed", "-1"], "--seed is -1"),
        ("model", ["--attribute-column", "food"], "unknown attribute 'food'"),
        ("model", ["--decoder", "parallel"], "this model has no parallel decoder"),
        ("rival", ["--log-snr", "2"], "whose likelihood is exact; leave --log-snr"),
        ("nothing", [], "nothing"),
    ],
)
def test_wrong_use_is_one_line(
    folder: Path, model: str, more: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "report.json"
    assert command(folder, model, *more, "-o", target) == 2
    error = capsys.readouterr().err
    assert says in error and error.splitlines()[-1].startswith("ladle: ") and error.count("ladle: ") == 1
    assert not target.exists()


def test_an_autoencoder_alone_has_no_likelihood(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It has no prior of its latents."""
    save_parts(ModelParts("alone", tiny.tiny_plan_autoencoder()), tmp_path / "alone")
    assert main(["likelihood", str(folder / "rows.jsonl"), "--model", str(tmp_path / "alone")]) == 2
    error = capsys.readouterr().err
    assert "without a diffusion model" in error and error.count("\n") == 1
