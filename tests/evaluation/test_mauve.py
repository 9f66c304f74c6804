"""MAUVE and its features. The divergence needs the extra; the features are tested with tiny real models."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from ladle.errors import UserError
from ladle.evaluation.mauve import Featuriser, mauve_scores
from ladle.evaluation.metrics import score_mauve

TEXTS = ["the cat sat on the mat", "", "a dog", "it rains and rains and rains and it will not end today"]


def save_tokenizer(folder, **special):
    """A word-level tokenizer of the test's own words."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]", "[EOS]"]))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]", **special
    ).save_pretrained(folder)


@pytest.fixture
def bert(tmp_path):
    """A tiny encoder, as sentence encoders are."""
    save_tokenizer(tmp_path, pad_token="[PAD]")
    BertModel(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(tmp_path)
    return tmp_path


def test_features_do_not_depend_on_batch_or_neighbours(bert):
    """Padding must be masked out of the mean, and every row must land in its own place."""
    featuriser = Featuriser.load(str(bert))
    together = featuriser.features(TEXTS)
    alone = np.concatenate([featuriser.features([text], batch_size=1) for text in TEXTS])
    assert together.shape == (4, 16)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(featuriser.features(TEXTS[::-1]), together[::-1], atol=1e-5)


def test_features_are_the_mean_of_the_last_states(bert):
    """What the sentence encoders were trained with; the oracle is the model itself on one text."""
    featuriser = Featuriser.load(str(bert))
    model = AutoModel.from_pretrained(bert).eval()
    ids = featuriser.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    states = model(input_ids=ids).last_hidden_state[0].detach().numpy()
    np.testing.assert_allclose(featuriser.features([TEXTS[0]])[0], states.mean(axis=0), atol=1e-5)


def test_an_empty_text_has_features(bert):
    """Dropped empty generations are a known way to flatter a model; here they are a text like any other."""
    features = Featuriser.load(str(bert)).features(["", "a dog"])
    assert np.isfinite(features).all()
    assert not np.allclose(features[0], features[1])


def test_causal_and_encoder_decoder_models_work(tmp_path):
    """GPT-2 (the paper's protocol) gives its last token's state, T5 its encoder's mean."""
    gpt2, t5 = tmp_path / "gpt2", tmp_path / "t5"
    save_tokenizer(gpt2)
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)).save_pretrained(gpt2)
    save_tokenizer(t5, pad_token="[PAD]")
    T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=1)
    ).save_pretrained(t5)
    for folder, pooling in ((gpt2, "last"), (t5, "mean")):
        featuriser = Featuriser.load(str(folder))
        together = featuriser.features(TEXTS)
        alone = np.concatenate([featuriser.features([text]) for text in TEXTS])
        assert featuriser.pooling == pooling
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_report_names_the_featuriser(bert):
    """Figures of two featurisers cannot be compared, so two models must never look like one."""
    first = Featuriser.load(str(bert)).describe()
    BertModel(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(bert)
    second = Featuriser.load(str(bert)).describe()
    assert first["name"] == second["name"] == str(bert)
    assert first["weights"] != second["weights"]


def test_a_missing_encoder_is_one_clear_line(tmp_path):
    """Bad input, not a traceback."""
    with pytest.raises(UserError, match="cannot load the encoder"):
        Featuriser.load(str(tmp_path / "nothing"))


def blobs(count, centre, seed):
    """Points around a centre, 8 wide."""
    return np.random.default_rng(seed).normal(centre, 1.0, size=(count, 8)).astype(np.float32)


def test_mauve_is_high_for_one_source_and_low_for_two():
    """Where a set against itself, a second sample and another source must lie."""
    pytest.importorskip("mauve", reason="the extra ladle[mauve] is not installed")
    near, far = np.eye(8)[0] * 3, np.eye(8)[1] * 3
    one, again, other = blobs(300, near, 0), blobs(300, near, 1), blobs(300, far, 2)
    assert mauve_scores(one, one, seeds=[0]) == pytest.approx([1.0])
    assert mauve_scores(again, one, seeds=[0])[0] > 0.9
    assert mauve_scores(other, one, seeds=[0])[0] < 0.1
    assert mauve_scores(one, again, seeds=[5]) == mauve_scores(one, again, seeds=[5])


def test_mauve_of_collapsed_and_of_missing_texts():
    """All texts alike on both sides leave nothing to tell apart; no texts at all are the worst."""
    same = np.ones((40, 8), dtype=np.float32)
    assert mauve_scores(same, same, seeds=[0, 1]) == [1.0, 1.0]
    assert mauve_scores(np.zeros((0, 8), dtype=np.float32), same, seeds=[0]) == [0.0]


def test_mauve_scores_come_with_seeds_and_spread(bert):
    """One clustering moves MAUVE by up to .07: a single number would claim too much."""
    pytest.importorskip("mauve", reason="the extra ladle[mauve] is not installed")
    featuriser = Featuriser.load(str(bert))
    words = ["the", "cat", "sat", "on", "mat", "a", "dog", "it", "rains", "and", "will", "not", "end", "today"]
    texts = [" ".join(np.random.default_rng(i).choice(words, size=3 + i % 5)) for i in range(80)]
    score = score_mauve(texts[:40], texts[40:], featuriser, seeds=3)
    assert len(score.details["values"]) == 3
    assert score.value == pytest.approx(np.mean(score.details["values"]))
    assert score.details["featuriser"]["name"] == str(bert)
    with pytest.raises(UserError, match="at least 3"):
        score_mauve(texts[:40], texts[40:], featuriser, seeds=1)
