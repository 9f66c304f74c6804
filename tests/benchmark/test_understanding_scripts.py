"""The scripts of classifiers on embeddings and of added rows run whole on tiny data."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from ladle.errors import UserError
from ladle.storage.model_folder import save_parts
from ladle.storage.writing import write_rows

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
ROWS = [
    {"text": text, "label": "good" if any(f" {animal} " in text for animal in ("cat", "fox", "owl")) else "bad"}
    for text in tiny.SENTENCES
]


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set of texts and a set of pairs, each with train and test rows."""
    pairs = [{"text": one["text"], "source": two["text"], "label": str(one["label"] == two["label"])}
             for one, two in zip(ROWS, ROWS[8:] + ROWS[:8], strict=True)]  # fmt: skip
    for name, rows in (("sst2", ROWS), ("mrpc", pairs)):
        for part, own in (("train", [row for i, row in enumerate(rows) if i % 4]), ("test", rows[::4])):
            write_rows(tmp_path / "data" / name / f"{part}.jsonl.gz", own)
    return tmp_path / "data"


def test_classifiers_on_three_kinds_of_features(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words decide the labels here, so TF-IDF must find them; every figure has its interval and its n."""
    script = load("understanding")
    monkeypatch.setattr(script, "offline_encoder", lambda: None)  # the wheel is not on every machine
    save_parts(tiny.tiny_plan_parts(), tmp_path / "model")
    words = ["--data", str(data), "--model", str(tmp_path / "model"), "--sets", "sst2", "mrpc", "--rows", "30"]
    found = script.main([*words, "-o", str(tmp_path / "result.json")])["sets"]
    assert found["sst2"]["train"] == 30 and found["mrpc"]["accuracy"]["TF-IDF"]["n"] == 13
    assert found["sst2"]["accuracy"]["TF-IDF"]["value"] > 0.9
    low, high = found["sst2"]["accuracy"][f"embeddings of {tmp_path / 'model'}"]["interval"]
    assert 0 <= low < high <= 1
    assert "| accuracy, % | sst2 (n = 13) | mrpc (n = 13) |" in capsys.readouterr().out
    assert json.loads((tmp_path / "result.json").read_text())["sets"].keys() == {"sst2", "mrpc"}


def test_added_rows_over_seeds(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training for each seed, which the same command does not repeat; other settings are refused."""
    script = load("augmentation")
    sets = [
        "start=nothing", "autoencoder.backbone.width=32", "autoencoder.backbone.vocab_size=300",
        "autoencoder.max_tokens=24", "autoencoder.bottleneck.latent_dim=8", "diffusion.denoiser.width=32",
        "diffusion.denoiser.num_layers=2", "diffusion.schedule.shift=2", "sampling.num_inference_steps=2",
        "training.steps=4", "training.precision=fp32",
    ]  # fmt: skip
    words = ["--data", str(data), "-o", str(tmp_path / "out"), "--sets", "sst2", "--seeds", "2", "--rows", "8"]
    words += [word for setting in sets for word in ("--set", setting)]
    script.main([*words, "--per-class", "1"])
    table = (tmp_path / "out" / "table.md").read_text()
    assert capsys.readouterr().out == table
    assert "| sst2: trained on |" in table and "8 real rows a class" in table and "2 seeds; n = 13" in table
    before = (tmp_path / "out" / "sst2-1.json").stat().st_mtime_ns
    script.main([*words, "--per-class", "1"])
    assert (tmp_path / "out" / "sst2-1.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="of another command"):
        script.main([*words, "--per-class", "2"])
    assert script.over_seeds([0.1, 0.1, 0.1], "+") == "+10.0 [+10.0, +10.0]"
    assert script.over_seeds([0.5], "") == "50.0"
