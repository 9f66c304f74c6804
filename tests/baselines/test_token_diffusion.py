"""Diffusion over the vectors of tokens: its estimates are what Bayes says, its seeds are its own, it learns."""

import math
from pathlib import Path

import pytest
import torch

from ladle.baselines import token_diffusion
from ladle.baselines.token_diffusion import RECORD, TokenDiffusionConfig, TokenDiffusionModel, neighbour_vectors
from ladle.baselines.token_fitting import (
    SCHEDULES,
    TokenDiffusionStage,
    token_config_of_size,
    train_token_diffusion,
)
from ladle.baselines.token_likelihood import token_likelihood
from ladle.diffusion.prediction import add_noise
from ladle.errors import UserError
from ladle.training.loop import train_stage
from ladle.training.optimiser import TrainingConfig
from tiny import LABELS, SENTENCES, tiny_tokenizer

NETWORK = {"width": 48, "num_layers": 3, "num_heads": 2, "num_skips": 1}
SIZES = {"dim": 16, "network": NETWORK, "max_tokens": 24, "max_source_tokens": 24, "source_layers": 1}
ROWS = [
    {"text": text, "label": LABELS[i % 2], "source": " ".join(text.split()[1:4])} for i, text in enumerate(SENTENCES)
]


def tiny(**changes: object) -> TokenDiffusionModel:
    torch.manual_seed(0)
    config = TokenDiffusionConfig.parse(SIZES | {"labels": LABELS, "source": True} | changes)
    model = TokenDiffusionModel(config, tiny_tokenizer())
    torch.nn.init.normal_(model.denoiser.network.output.weight, std=0.2)
    return model.eval()


def test_a_new_network_gives_the_exact_posterior() -> None:
    """Its output is zero at the start, and what is left is Bayes' rule: tokens as frequent as in the data, seen through
    Gaussian noise."""
    model = tiny()
    torch.nn.init.zeros_(model.denoiser.network.output.weight)
    model.start_from_counts([[5, 5, 5, 9], [9, 5, 7, 7]])
    frequency = model.denoiser.bias.softmax(-1)
    assert frequency[[5, 9, 7]].tolist() == pytest.approx([4 / 8, 2 / 8, 2 / 8], rel=0.5)  # and a little of all others
    table = model.denoiser.table
    assert table.norm(dim=-1).tolist() == pytest.approx([math.sqrt(16)] * len(table), rel=1e-5)
    level = model.own_schedule.level(torch.tensor([0.6]))
    zt = add_noise(table[torch.tensor([[5, 9, 7]])], torch.randn(1, 3, 16), level)
    mask = torch.ones(1, 3, dtype=torch.bool)
    condition = model.condition.encode(model.read_sources(model.raw_condition([None], [None])), 1)
    given = {"mask": mask, "condition": condition}
    distance = (zt[0, :, None] - level.alpha * table[None]).square().sum(-1)
    exact = (frequency * (-distance / (2 * level.sigma.square())).exp()).double()
    exact = exact / exact.sum(-1, keepdim=True)
    logits = model.denoiser.logits(zt, level.log_snr, **given)
    torch.testing.assert_close(logits.softmax(-1)[0].double(), exact, atol=1e-5, rtol=1e-3)
    mean = model.denoise(mask, condition)(zt, level)
    torch.testing.assert_close(mean[0].double(), exact @ table.double(), atol=1e-4, rtol=1e-3)
    clamped = model.denoise(mask, condition, temperature=0)(zt, level)
    assert torch.equal(clamped[0], table[exact.argmax(-1)])


def test_tokens_with_like_neighbours_have_like_vectors() -> None:
    """So noise hides which name it is before it hides that it is a name. Neighbours end with their text."""
    names, verbs, places = range(10), range(10, 14), range(14, 20)
    texts = [[name, verb, place] for name in names for verb in verbs for place in places]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    ids = torch.tensor([token for row in order for token in texts[row]])
    vectors = neighbour_vectors(ids, torch.full((len(texts),), 3), 32, 8)
    alike = vectors @ vectors.T
    for group in (names, verbs, places):
        own = alike[group.start : group.stop]
        others = [token for token in range(20) if token not in group]
        assert own[:, group.start : group.stop].min() > own[:, others].max() + 0.5
    assert not vectors[20:].any()  # never seen
    assert torch.equal(vectors, neighbour_vectors(ids, torch.full((len(texts),), 3), 32, 8))
    assert not neighbour_vectors(torch.tensor([3, 4]), torch.tensor([1, 1]), 8, 4).any()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_seed_is_one_text_at_any_batch_size(batch_size: int, scale: float) -> None:
    """With and without guidance, neighbours and padding have no say."""
    model = tiny()
    given = {"label": [LABELS[i % 2] for i in range(10)], "source": [row["source"] for row in ROWS[:10]]}
    given |= {"num_steps": 4, "guidance_scale": scale}
    expected = model.generate(seeds=range(10), **given, batch_size=10)
    assert len(set(expected)) > 5
    assert model.generate(seeds=range(10), **given, batch_size=batch_size) == expected


@pytest.mark.parametrize("temperature", [0, 0.5, 1.0])
def test_means_are_the_same_in_parts(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of the softmax over the logits at once. In 32 bits, whatever computes around them."""
    denoiser, told = tiny().denoiser, torch.randn(2, 5, 16)
    logits = torch.nn.functional.linear(told, denoiser.table, denoiser.bias)
    weights = torch.eye(logits.shape[-1])[logits.argmax(-1)] if temperature == 0 else (logits / temperature).softmax(-1)
    for places in (512, 3):
        monkeypatch.setattr(token_diffusion, "PLACES", places)
        with torch.autocast("cpu", torch.bfloat16):
            found = denoiser.mean_vectors(told, temperature)
        torch.testing.assert_close(found, weights @ denoiser.table, atol=1e-5, rtol=1e-4)


def test_16_bits_change_few_texts() -> None:
    """The network alone computes in them."""
    model = tiny(source=False)
    exact, near = model.generate(40, num_steps=8), model.generate(40, num_steps=8, bf16=True)
    assert model.generate(40, num_steps=8, bf16=True) == near
    assert 20 < sum(one == other for one, other in zip(exact, near, strict=True)) < 40


def test_steps_follow_the_cross_entropy() -> None:
    """Once errors are known, a sampler's times are dense where the cross-entropy changes; the ends stay."""
    model = tiny()
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    even = model.own_schedule.log_snr(times)
    assert torch.allclose(model.schedule.log_snr(times), even, atol=1e-4)
    assert model.adaptive_times is not None
    model.adaptive_times.error[:] = torch.where(torch.arange(50) < 25, 0.01, 4.0)  # all of it happens at the middle
    fitted = model.schedule.log_snr(times)
    assert fitted[[0, -1]].tolist() == pytest.approx(even[[0, -1]].tolist(), rel=1e-4)
    assert bool((fitted.diff() <= 0).all())
    middle = model.own_schedule.log_snr(torch.tensor(0.5))
    assert int(((fitted - middle).abs() < 1.0).sum()) > int(((even - middle).abs() < 1.0).sum())
    assert torch.equal(tiny(times="uniform").schedule.log_snr(times), even)


def test_it_learns_its_conditions_and_is_saved(tmp_path: Path) -> None:
    """From the words of the source it writes the sentence; the folder gives the same texts."""
    model = tiny()
    settings = TrainingConfig(steps=250, lr=3e-3, max_tokens=512, ema_decay=0.9, precision="fp32", validate_every=0.2)
    stage = TokenDiffusionStage(model, ROWS, ROWS[:8], settings)
    before = stage.validate()["nll"]
    result = train_stage(stage, settings, tmp_path / "run", log=lambda line: None)
    assert result.metrics["nll"] < before / 2
    given = {"label": [row["label"] for row in ROWS], "source": [row["source"] for row in ROWS], "num_steps": 16}
    texts = model.generate(**given)
    assert sum(text == row["text"] for text, row in zip(texts, ROWS, strict=True)) > 0.7 * len(ROWS)
    model.save_pretrained(tmp_path / "final")
    again = TokenDiffusionModel.from_pretrained(tmp_path / "final")
    assert again.num_parameters == model.num_parameters
    assert again.generate(**given) == texts


def test_the_loss_reads_existing_tokens_only() -> None:
    """What stands in the padding changes nothing."""
    model = tiny(times="uniform")
    stage = TokenDiffusionStage(model, ROWS, ROWS[:4], TrainingConfig(steps=1, max_tokens=256))
    batch = stage.load([0, 1, 2, 3, 4])
    assert batch.ids is not None and not bool(batch.mask.all())
    other = batch._replace(ids=torch.where(batch.mask, batch.ids, 7))
    losses = []
    for one in (batch, other):
        torch.manual_seed(3)
        losses.append(float(stage.loss(one)[0].detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_finished_training_is_read_and_not_repeated(tmp_path: Path) -> None:
    """The second call makes no step, and has the same weights and the same times."""
    settings, lines = TrainingConfig(steps=3, max_tokens=256, precision="fp32"), list[str]()
    found = []
    for seed in range(2):
        model = tiny()
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.denoiser.network.output.weight)  # what it starts from has no say
        train_stage(TokenDiffusionStage(model, ROWS, ROWS[:4], settings), settings, tmp_path, log=lines.append)
        found.append(model.state_dict())
    assert "already trained" in lines[-1]
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())


def test_rate_and_schedule_are_chosen_by_short_trials(tmp_path: Path) -> None:
    """The rate first, by the first schedule; then the schedule, by the best rate. No trial is run twice."""
    lines: list[str] = []
    settings = TrainingConfig(steps=60, max_tokens=256, precision="fp32", validate_every=0.5)
    given = {"learning_rates": (1e-7, 3e-3), "schedules": ("cosine", "sqrt"), "log": lines.append}
    config = TokenDiffusionConfig.parse(SIZES)
    model = train_token_diffusion(config, tiny_tokenizer(), ROWS, ROWS[:8], tmp_path, settings, **given)
    assert sorted(path.name for path in tmp_path.glob("trial-*")) == ["trial-0.003", "trial-1e-07", "trial-sqrt"]
    assert [path.parent.name for path in tmp_path.rglob("samples")] == [tmp_path.name]  # (trials write none)
    assert model.info["chosen"]["learning rate"] == 3e-3
    tried = model.info["tried"]
    assert tried["schedule"]["cosine"] == tried["learning rate"]["0.003"]
    best = min(tried["schedule"], key=tried["schedule"].__getitem__)
    assert model.info["chosen"]["schedule"] == best and model.config.schedule == SCHEDULES[best][0]
    assert model.config.labels == tuple(sorted(LABELS)) and model.config.source
    again = train_token_diffusion(config, tiny_tokenizer(), ROWS, ROWS[:8], tmp_path, settings, **given)
    assert again.generate(3, num_steps=3) == model.generate(3, num_steps=3)
    assert sum("already trained" in line for line in lines) == 4


def test_its_size_is_what_is_asked_for() -> None:
    """Within a tenth, so that a table compares equals."""
    for wanted in (3_000_000, 13_000_000):
        given = TokenDiffusionConfig(labels=LABELS, source=True)
        config = token_config_of_size(wanted, tiny_tokenizer(), given)
        assert TokenDiffusionModel(config, tiny_tokenizer()).num_parameters == pytest.approx(wanted, rel=0.1)


def test_the_bound_is_the_exact_likelihood_where_that_is_known() -> None:
    """Without a network, tokens are drawn one by one by their frequencies, and so are lengths: then the estimates are
    exact, and the bound is tight. Wrong estimates make it larger."""
    model = tiny(labels=(), source=False, self_condition=False)
    torch.nn.init.zeros_(model.denoiser.network.output.weight)
    known = sorted({token for row in model.encode(SENTENCES) for token in row})[:12]
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(12, generator=generator).square()
    rows = [torch.multinomial(shares, 6, True, generator=generator).tolist() for _ in range(40)]
    texts = [[known[place] for place in row] for row in rows]
    model.start_from_counts(texts)
    model.encode = lambda _: texts  # type: ignore[method-assign]
    frequency = model.denoiser.bias.detach().log_softmax(-1)
    exact = -sum(float(frequency[token]) for row in texts for token in row) / len(texts)
    length = -float(model.length.base.detach().log_softmax(-1)[5])
    report = token_likelihood(model, ["one"] * len(texts), draws=128)
    assert report.nats.total.mean() == pytest.approx(exact + length, rel=0.02)
    assert report.perplexity == pytest.approx(math.exp((exact + length) / 7), rel=0.05)  # six tokens and the end
    right = model.denoiser.forward
    model.denoiser.forward = lambda *a, **k: 0.8 * right(*a, **k)  # type: ignore[method-assign]
    assert token_likelihood(model, ["one"] * len(texts), draws=64).nats.total.mean() > 1.05 * (exact + length)


def test_wrong_input_is_one_line(tmp_path: Path) -> None:
    model = tiny()
    for given, said in (
        ({"label": ["ugly"]}, "unknown label 'ugly'"),
        ({"sampler": "magic"}, "unknown sampler 'magic'"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"num_steps": 0}, "num_steps 0"),
    ):
        with pytest.raises(UserError, match=said) as error:
            model.generate(**given)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="trained without sources"):
        tiny(source=False).generate(source=["a dog"])
    with pytest.raises(UserError, match="cannot load"):
        TokenDiffusionModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / RECORD).write_text("{}")
    with pytest.raises(UserError, match="cannot load"):
        TokenDiffusionModel.from_pretrained(tmp_path / "model")
