"""The benchmark of infilling runs whole on tiny data, and its figures are what they say."""

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest

import tiny
from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.editing.template import Template
from ladle.evaluation.scorer import Scorer
from ladle.storage.model_folder import save_parts


@pytest.fixture(scope="module")
def script() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "infilling.py"
    spec = importlib.util.spec_from_file_location("infilling", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rival(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rival") / "model"
    config = AutoregressiveConfig(width=32, num_layers=1, num_heads=2, max_tokens=tiny.MAX_TOKENS)
    AutoregressiveModel(config, tiny.tiny_tokenizer()).eval().save_pretrained(folder)
    return folder


def test_a_template_is_its_text_with_words_left_out(script: Any) -> None:
    """Signs and spaces stay, and the row itself fills the template: else nothing could be recovered."""
    generator = random.Random(0)
    texts = [*tiny.SENTENCES, "It's well-known, (they say)  that 3 of 4 came; no?"]
    made = [(text, template) for text in texts for _ in range(9) if (template := script.make_template(text, generator))]
    assert len(made) > 300
    assert all(script.keeps(template, text) for text, template in made)
    assert {Template.parse(template).num_blanks for _, template in made} == {1, 2, 3}
    assert script.make_template("No.", generator) is None


def test_a_lost_sign_is_not_kept(script: Any) -> None:
    assert script.keeps("a ___ (b).", "a big (b).")
    for text in ("a big b.", "A big (b).", "a  (b).", "a big (b)"):
        assert not script.keeps("a ___ (b).", text), text


def test_the_rival_writes_what_is_given(script: Any, rival: Path) -> None:
    """It is forced, so even a random model keeps most templates, and a seed gives the same text in any batch."""
    model = AutoregressiveModel.from_pretrained(rival)
    templates = ["the ___ cat ___ mat.", "___ to the sea.", "the king ___"]
    texts = script.rival_texts(model, templates, [0, 1, 2], 1.0, 1.0)
    for template, text in zip(templates, texts, strict=True):
        for piece in Template.parse(template).pieces:
            assert piece.strip() in text
    assert script.rival_texts(model, templates[1:], [1, 2], 1.0, 1.0) == texts[1:]


def test_the_whole_runs(script: Any, rival: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_parts(tiny.tiny_plan_parts(), tmp_path / "model")
    data, output = tmp_path / "rows.jsonl", tmp_path / "out.json"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny.SENTENCES))
    words = [str(tmp_path / "model"), "--data", str(data), "-n", "5", "--scorer", str(rival), "--rival", str(rival)]
    result = script.main([*words, "-o", str(output)])
    assert json.loads(output.read_text()) == result
    assert list(result["rows"]) == ["real", "Ladle", "autoregressive", "autoregressive, greedy"]
    assert result["rows"]["real"]["kept"] == result["rows"]["real"]["recovered"] == 1
    assert result["rows"]["Ladle"]["kept"] == 1
    assert result["rows"]["Ladle"]["perplexity"] != result["rows"]["real"]["perplexity"]
    assert Scorer.load(str(rival)).score(["the cat."])[0] > 0
    assert "| Ladle | 100.0% |" in capsys.readouterr().out
