"""Perplexity is exp of the mean loss, by hand and by transformers; empty texts never look fluent."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.errors import UserError
from ladle.evaluation.scorer import Scorer, perplexity
from tiny import SENTENCES, tiny_tokenizer


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt")
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_pretrained_model_scores_the_text_after_its_start(pretrained: Path) -> None:
    scorer = Scorer.load(str(pretrained))
    texts = [SENTENCES[0], "the owl", SENTENCES[8]]
    nll, tokens = scorer.score(texts)
    for text, value, count in zip(texts, nll, tokens, strict=True):
        ids = scorer.tokenizer(text, add_special_tokens=False)["input_ids"]
        given = torch.tensor([[scorer.tokenizer.bos_token_id, *ids]])
        labels = given.clone()
        assert count == len(ids)
        assert value == pytest.approx(float(scorer.model(given, labels=labels).loss.detach()) * len(ids), rel=1e-4)


def test_an_empty_text_costs_a_token_drawn_blindly(pretrained: Path) -> None:
    scorer = Scorer.load(str(pretrained))
    nll, tokens = scorer.score([""])
    assert perplexity(nll, tokens) == pytest.approx(scorer.model.config.vocab_size)
    assert perplexity(*scorer.score([])) == math.inf


def test_a_scorer_of_ladles_own_is_found_in_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoregressiveConfig(width=32, num_layers=1, num_heads=2, max_tokens=24)
    model = AutoregressiveModel(config, tiny_tokenizer()).eval()
    model.save_pretrained(tmp_path / "final")
    for folder in (tmp_path, tmp_path / "final"):
        nll, tokens = Scorer.load(str(folder)).score(SENTENCES[:5])
        assert nll.tolist() == pytest.approx(model.score(SENTENCES[:5])[0].tolist(), rel=1e-5)
        assert perplexity(nll, tokens) == pytest.approx(float(np.exp(nll.sum() / tokens.sum())))
    assert Scorer.load(str(tmp_path)).score([""])[1].tolist() == [1]  # its end


def test_no_such_scorer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the scorer"):
        Scorer.load(str(tmp_path))
