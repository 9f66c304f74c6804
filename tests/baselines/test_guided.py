"""The rival steered from outside: it draws what FUDGE's formula says, obeys a stronger guidance more, and is kept."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from ladle.autoencoder.choice import chosen_ids
from ladle.autoencoder.signs import written
from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.baselines.fitting import train_autoregressive
from ladle.baselines.guided import GuidedModel, PrefixClassifier, PrefixClassifierConfig, fingerprint
from ladle.baselines.guided_fitting import PrefixClassifierStage, classifier_settings, train_prefix_classifier
from ladle.errors import UserError
from ladle.seeding import SampleNoise
from ladle.training.optimiser import TrainingConfig
from tiny import SENTENCES, tiny_tokenizer

FIRST = ("sat", "ran", "hid")  # a verb in the midst of a text decides its label
ROWS = [{"text": text, "label": "good" if text.split()[3] in FIRST else "bad"} for text in SENTENCES]
SIZES = {"width": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "max_tokens": 24, "max_source_tokens": 24}
LABELS = ["good", "bad"] * 6
SEEDS = range(12)


def quiet(line: str) -> None:
    """A log that nobody reads."""


@pytest.fixture(scope="module")
def rival(tmp_path_factory: pytest.TempPathFactory) -> AutoregressiveModel:
    """A language model of the sentences, which knows no labels."""
    settings = TrainingConfig(steps=120, lr=5e-3, max_tokens=512, ema_decay=0.9, precision="fp32", validate_every=0.0)
    folder = tmp_path_factory.mktemp("rival")
    rows = [{"text": text} for text in SENTENCES]
    return train_autoregressive(
        AutoregressiveConfig(**SIZES), tiny_tokenizer(), rows, [], folder, settings, (5e-3,), quiet
    )


def fitted(rival: AutoregressiveModel, folder: Path, steps: int = 60, rates: tuple[float, ...] = (1e-2,)) -> Any:
    settings = classifier_settings(steps=steps).model_copy(update={"precision": "fp32", "ema_decay": 0.9})
    sizes = {"embedding_dim": 16, "width": 24}
    return train_prefix_classifier(rival, ROWS, ROWS[::3], folder, settings, rates, quiet, **sizes)


@pytest.fixture(scope="module")
def guided(rival: AutoregressiveModel, tmp_path_factory: pytest.TempPathFactory) -> GuidedModel:
    return GuidedModel(rival, fitted(rival, tmp_path_factory.mktemp("guide")))


def by_hand(
    guided: GuidedModel, label: str, seed: int, strength: float, candidates: int, top_p: float, temperature: float
) -> tuple[str, list[list[int]]]:
    """One text, every token of it by both whole networks from the beginning, and the candidates of each step."""
    model, classifier = guided.model, guided.classifier
    noise, number = SampleNoise([seed]), classifier.config.labels.index(label)
    ids: list[int] = []
    looked_at = []
    for _ in range(model.config.max_tokens):
        logits = model.causal(input_ids=torch.tensor([[model.separator, *ids]])).logits[0, -1].detach()
        logits[[model.tokenizer.pad_token_id, model.separator]] = -torch.inf
        likeliest = logits.argsort(descending=True)[:candidates].tolist()
        steered = torch.full_like(logits, -torch.inf)
        for token in likeliest:
            log_share = classifier(torch.tensor([[*ids, token]]))[0, -1, number].detach()
            steered[token] = logits[token] + strength * log_share
        looked_at.append(likeliest)
        token = int(chosen_ids(steered[None], noise.uniform(), top_p, temperature))
        if token == model.tokenizer.eos_token_id:
            break
        ids.append(token)
    return written(model.tokenizer.decode(ids, skip_special_tokens=True), None).strip(), looked_at


# ------------------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("options", [{}, {"top_p": 0.8}, {"temperature": 0.0}, {"top_p": 0.95, "temperature": 1.3}])
def test_strength_nought_with_all_candidates_is_the_rival_to_the_token(
    guided: GuidedModel, options: dict[str, float]
) -> None:
    """So that the rows of a sweep differ by the strength alone."""
    alone = guided.model.generate(seeds=range(24), **options)
    steered = guided.generate(seeds=range(24), label=LABELS * 2, strength=0, candidates=10**6, batch_size=7, **options)
    assert steered == alone
    assert options.get("temperature") == 0 or len(set(alone)) > 12


def test_a_rival_that_knows_labels_is_steered_without_them() -> None:
    """Its own condition must not do what is said to be the classifier's work."""
    torch.manual_seed(0)
    model = AutoregressiveModel(AutoregressiveConfig(**SIZES, labels=("good", "bad")), tiny_tokenizer()).eval()
    size = {"vocab_size": len(model.tokenizer), "vocabulary": fingerprint(model.tokenizer)}
    guided = GuidedModel(model, PrefixClassifier(PrefixClassifierConfig(labels=("good", "bad"), **size)))
    free = model.generate(seeds=SEEDS)
    assert free != model.generate(seeds=SEEDS, label=LABELS)
    assert guided.generate(seeds=SEEDS, label=LABELS, strength=0, candidates=1000) == free


@pytest.mark.parametrize(("strength", "candidates", "temperature"), [(0, 3, 1.0), (1, 5, 1.0), (4, 8, 3.0)])
def test_it_draws_what_the_formula_says(
    guided: GuidedModel, strength: float, candidates: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against both whole networks read anew for every candidate: the kept states, the gates that are computed once and
    the rows that leave the batch must change nothing. The end token is among the candidates."""
    monkeypatch.setattr("ladle.baselines.autoregressive.SHRINK_BELOW", 1.0)  # each row leaves as soon as it ends
    given = {"strength": strength, "candidates": candidates, "top_p": 0.9, "temperature": temperature}
    found = guided.generate(seeds=SEEDS, label=LABELS, **given)
    wanted = [by_hand(guided, label, seed, **given) for seed, label in zip(SEEDS, LABELS, strict=True)]
    assert found == [text for text, _ in wanted]
    assert len({len(steps) for _, steps in wanted}) > 2
    assert any(guided.model.tokenizer.eos_token_id in tokens[1:] for _, steps in wanted for tokens in steps)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_seed_is_one_text_at_any_batch_size(guided: GuidedModel, batch_size: int) -> None:
    given: dict[str, Any] = {"seeds": SEEDS, "label": LABELS, "strength": 2, "candidates": 20}
    assert guided.generate(**given, batch_size=batch_size) == guided.generate(**given, batch_size=12)


def test_a_stronger_guidance_is_obeyed_more(guided: GuidedModel) -> None:
    labels = ["good", "bad"] * 30
    numbers = torch.tensor([guided.classifier.config.labels.index(label) for label in labels])

    def obeyed(strength: float) -> float:
        texts = guided.generate(seeds=range(60), label=labels, strength=strength)
        return float(guided.probabilities(texts)[torch.arange(60), numbers].mean())

    shares = [obeyed(strength) for strength in (0, 1, 4)]
    assert shares[0] + 0.15 < shares[1] < shares[2]
    assert shares[2] > 0.9


def test_a_text_without_a_label_is_not_steered(guided: GuidedModel) -> None:
    """Also among others that are."""
    some = [label if i % 3 else None for i, label in enumerate(LABELS)]
    found = guided.generate(seeds=SEEDS, label=some, strength=8)
    free, steered = guided.generate(seeds=SEEDS), guided.generate(seeds=SEEDS, label=LABELS, strength=8)
    assert found == [free[i] if label is None else steered[i] for i, label in enumerate(some)]
    assert free != steered


# ------------------------------------------------------------------------------------------------------- the classifier


def test_a_step_is_the_whole_network(guided: GuidedModel) -> None:
    """torch's own GRU over whole texts trains the weights; token by token they are used by another formula."""
    classifier = guided.classifier
    ids = torch.randint(guided.model.num_ids + 3, (4, 9))
    gates = classifier.gates(guided.model.num_ids + 3)
    states = torch.zeros(4, classifier.config.width)
    found = []
    for column in ids.T:
        states = classifier.step(states, gates[column][:, None])[:, 0]
        found.append(classifier.log_shares(states))
    assert torch.allclose(torch.stack(found, dim=1), classifier(ids), atol=1e-5)


def test_unseen_tokens_are_read_as_one(guided: GuidedModel) -> None:
    """A token that training never showed has a random embedding, which a strong guidance would find."""
    classifier = guided.classifier
    unseen = (~classifier.known).nonzero()[:, 0].tolist()
    seen = sorted({token for _, ids in guided.model.encode(SENTENCES, [None] * 49, [None] * 49) for token in ids})
    assert classifier.known.nonzero()[:, 0].tolist() == seen
    assert guided.model.tokenizer.eos_token_id in seen
    beyond = [classifier.config.vocab_size, classifier.config.vocab_size + 7]  # the separator, a label
    shares = classifier.probabilities([[seen[5], token, seen[9]] for token in (*unseen[:5], *beyond)])
    assert len(unseen) > 5
    assert torch.equal(shares, shares[:1].expand_as(shares))
    assert not torch.equal(shares[0], classifier.probabilities([[seen[5], seen[20], seen[9]]])[0])


@torch.no_grad()
def test_every_prefix_is_learnt_from_and_long_texts_do_not_count_more(guided: GuidedModel) -> None:
    """By hand from each text alone: padding has no share in it either."""
    rows = [([5, 9, 2], 0), ([7, 8, 9, 10, 11, 12, 2], 1), ([2], 0)]
    stage = PrefixClassifierStage(guided.classifier, rows, [], TrainingConfig(steps=1))
    by_text = [-guided.classifier(torch.tensor([ids]))[0, :, label].mean() for ids, label in rows]
    expected = float(torch.stack(by_text).mean())
    assert float(stage.loss(stage.load([0, 1, 2]))[0]) == pytest.approx(expected, rel=1e-5)
    assert stage.validate()["nll"] == pytest.approx(expected, rel=1e-5)


def test_it_learns_the_labels_and_is_saved(rival: AutoregressiveModel, guided: GuidedModel, tmp_path: Path) -> None:
    """Whole texts are told apart, the rate is chosen by trials, and the folder gives the same texts."""
    classifier = fitted(rival, tmp_path, steps=100, rates=(1e-6, 1e-2))
    assert classifier.info["chosen"] == {"learning rate": 1e-2}
    tried = classifier.info["tried"]["learning rate"]
    assert tried["1e-06"] > tried["0.01"]
    assert classifier.info["held_out"]["accuracy"] == 1
    again = PrefixClassifier.from_pretrained(tmp_path / "final")
    assert again.config == classifier.config
    assert again.info["held_out"] == classifier.info["held_out"]
    given: dict[str, Any] = {"seeds": SEEDS, "label": LABELS, "strength": 3}
    assert GuidedModel(rival, again).generate(**given) == GuidedModel(rival, classifier).generate(**given)


def test_an_interrupted_training_goes_on_to_the_same_weights(
    rival: AutoregressiveModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(rival, tmp_path / "whole", steps=20)
    loss, calls = PrefixClassifierStage.loss, iter(range(1000))

    def stopped(self: PrefixClassifierStage, batch: dict[str, torch.Tensor]) -> Any:
        if next(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch)

    monkeypatch.setattr(PrefixClassifierStage, "loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        fitted(rival, tmp_path / "stopped", steps=20)
    resumed = fitted(rival, tmp_path / "stopped", steps=20)
    assert next(calls) == 20
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


# -------------------------------------------------------------------------------------------------------- wrong input


def test_wrong_input_is_one_line(rival: AutoregressiveModel, guided: GuidedModel, tmp_path: Path) -> None:
    for given, message in (
        ({"label": ["god"]}, "unknown label 'god': .*good"),
        ({"label": ["good"], "candidates": -1}, "candidates is -1; it must be at least 1"),
        ({"label": ["good"], "strength": -1}, "strength is -1"),
        ({"label": ["good"], "strength": float("nan")}, "strength is nan"),
        ({"label": ["good"], "num_samples": 3}, "1 labels for 3 texts"),
        ({"label": "good"}, "label: one str was given"),
        ({"label": ["good"], "top_p": 0}, "top_p 0"),
    ):
        with pytest.raises(UserError, match=message):
            guided.generate(**given)
    settings = classifier_settings(steps=1)
    for rows, message in (
        ([{"text": "a cat"}], "no training row has a label"),
        ([{"text": "a cat", "label": "x"}], "all rows have the label 'x'"),
    ):
        with pytest.raises(UserError, match=message):
            train_prefix_classifier(rival, rows, [], tmp_path / "none", settings, log=quiet)
    assert not (tmp_path / "none").exists()
    other = AutoregressiveModel(AutoregressiveConfig(**SIZES), tiny_tokenizer(300))
    with pytest.raises(UserError, match="another tokenizer's tokens"):
        GuidedModel(other, guided.classifier)


def test_a_folder_that_is_no_classifier_is_one_line(guided: GuidedModel, tmp_path: Path) -> None:
    guided.model.save_pretrained(tmp_path / "rival")
    with pytest.raises(UserError, match="cannot load the prefix classifier in .*rival"):
        PrefixClassifier.from_pretrained(tmp_path / "rival")
    folder = tmp_path / "classifier"
    guided.classifier.save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(UserError, match="cannot load the prefix classifier in .*classifier"):
        PrefixClassifier.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(weights)
    record = json.loads((folder / "prefix_classifier.json").read_text())
    (folder / "prefix_classifier.json").write_text(json.dumps(record | {"format": 9}))
    with pytest.raises(UserError, match="format 9 is newer"):
        PrefixClassifier.from_pretrained(folder)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "model.safetensors").write_text("mine")
    with pytest.raises(UserError, match="Ladle did not write it"):
        guided.classifier.save_pretrained(taken)
