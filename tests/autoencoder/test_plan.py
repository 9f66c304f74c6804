"""Plan latents: a few parts of one embedding, whose decoder is told how noisy they are."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

import memorised
import tiny
from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.encoding import fit_normaliser, store_latents
from ladle.autoencoder.latents import Latents, Normaliser
from ladle.autoencoder.plan import CLEAN_LOG_SNR, PlanBottleneck, PlanConfig
from ladle.autoencoder.plan_loss import CLEAN_TIME, PlanDecodingConfig, draw_level, plan_decoding_loss
from ladle.diffusion.prediction import add_noise
from ladle.diffusion.schedule import Level, ScheduleConfig, build_schedule
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

EIGHT = memorised.EIGHT
COUNT, DIM = 4, 8


def bottleneck() -> PlanBottleneck:
    torch.manual_seed(0)
    config = PlanConfig(kind="plan", num_latents=COUNT, latent_dim=DIM)
    return PlanBottleneck(config, 32, 2, tiny.MAX_TOKENS).eval()


def level_of(log_snr: float | list[float] | Tensor, kind: str = "cosine") -> Level:
    return build_schedule(ScheduleConfig(kind=kind)).level_from_log_snr(torch.as_tensor(log_snr))  # type: ignore[arg-type]


def memory_of(plan: PlanBottleneck, zt: Tensor, level: Level | None = None) -> Tensor:
    with torch.no_grad():
        return plan.expand(zt, torch.ones(zt.shape[:2], dtype=torch.bool), level)[0]


# ------------------------------------------------------------------------------------------------ the bottleneck


def test_a_plan_is_the_mean_state_in_parts_with_norm_one() -> None:
    """As sentence-transformers makes embeddings; states of padding are not in the mean."""
    plan = bottleneck()
    states, mask = (
        torch.randn(3, 6, COUNT * DIM),
        torch.tensor([[True] * 6, [True] * 2 + [False] * 4, [True] * 5 + [False]]),
    )
    raw, there = plan.compress(states, mask)
    assert raw.shape == (3, COUNT, DIM) and there.shape == (3, COUNT) and bool(there.all())
    torch.testing.assert_close(raw.flatten(1).norm(dim=-1), torch.ones(3))
    mean = states[1, :2].mean(0)
    torch.testing.assert_close(raw[1].flatten(), mean / mean.norm())
    other, _ = plan.compress(states.masked_fill(~mask[..., None], 9.0), mask)
    torch.testing.assert_close(other, raw)


def test_an_embedding_of_another_width_is_refused_in_one_line() -> None:
    """A sentence encoder does not fit every recipe; the settings that have to change are named."""
    with pytest.raises(UserError, match=r"gives 33 channels; num_latents times latent_dim of autoencoder.bottleneck"):
        bottleneck().split(torch.randn(2, 33))


def test_the_level_is_read() -> None:
    """The decoder must know how far to trust a plan: the same numbers at another level are another memory."""
    plan, zt = bottleneck(), torch.randn(3, COUNT, DIM)
    levels = [4.0, 1.0, -6.0]
    together = memory_of(plan, zt, level_of(levels))
    for row, log_snr in enumerate(levels):
        alone = memory_of(plan, zt, level_of(log_snr))
        torch.testing.assert_close(alone[row], together[row], atol=1e-5, rtol=1e-5)
        others = (alone - together).abs().amax((1, 2))
        assert others[torch.arange(3) != row].min() > 1e-2


def test_every_part_of_a_plan_is_read_at_its_place() -> None:
    """The memory is a set for the decoder, so the parts must carry their places."""
    plan, zt = bottleneck(), torch.randn(1, COUNT, DIM)
    before = memory_of(plan, zt)
    assert before.shape == (1, COUNT, 32)
    swapped = memory_of(plan, zt[:, [1, 0, 2, 3]])
    assert (swapped[:, [1, 0, 2, 3]] - before).abs().max() > 1e-3
    for part in range(COUNT):
        other = zt.clone()
        other[:, part] *= -1
        assert (memory_of(plan, other) - before).abs().max() > 1e-2


@pytest.mark.parametrize("log_snr", [6.0, 0.0, -5.0])
def test_a_level_is_the_same_on_every_path(log_snr: float) -> None:
    """Rectified flow mixes the same plan and noise to another scale; at one log-SNR they hold the same."""
    plan, z0, eps = bottleneck(), torch.randn(2, COUNT, DIM), torch.randn(2, COUNT, DIM)
    memories = [
        memory_of(plan, add_noise(z0, eps, level_of(log_snr, kind)), level_of(log_snr, kind))
        for kind in ("cosine", "flow")
    ]
    torch.testing.assert_close(*memories, atol=1e-5, rtol=1e-5)
    assert (add_noise(z0, eps, level_of(0.0)) - add_noise(z0, eps, level_of(0.0, "flow"))).abs().max() > 0.1


def test_no_level_is_a_plan_without_noise() -> None:
    """Levels beyond a very high log-SNR make no difference, so that z0 needs none; pure noise has an end too."""
    plan, z0 = bottleneck(), torch.randn(2, COUNT, DIM)
    clean = memory_of(plan, z0)
    for log_snr in (CLEAN_LOG_SNR, 15.0, 60.0):
        torch.testing.assert_close(memory_of(plan, z0, level_of(log_snr)), clean, atol=1e-4, rtol=1e-4)
    noise = [memory_of(plan, z0, level_of(log_snr)) for log_snr in (-CLEAN_LOG_SNR, -15.0)]
    torch.testing.assert_close(*noise, atol=1e-4, rtol=1e-4)
    assert (memory_of(plan, z0, level_of(5.0)) - clean).abs().max() > 1e-2


# ------------------------------------------------------------------------------------------------ the normaliser


def test_each_place_and_channel_has_mean_zero_and_variance_one() -> None:
    """The places of a plan hold different things, so they do not share their figures; also fitted in batches."""
    torch.manual_seed(0)
    raw = torch.randn(500, COUNT, DIM) * torch.linspace(0.5, 2, COUNT * DIM).view(COUNT, DIM) + torch.arange(DIM)
    mask, normaliser = torch.ones(500, COUNT, dtype=torch.bool), Normaliser(COUNT, DIM)
    for _ in range(2):  # a second fit is of normalised latents, and changes nothing
        z0 = normaliser.normalise(raw)
        normaliser.fit(Latents(part, mask[: len(part)]) for part in z0.split(64))
        z0 = normaliser.normalise(raw)
        torch.testing.assert_close(z0.mean(0), torch.zeros(COUNT, DIM), atol=1e-4, rtol=0)
        torch.testing.assert_close(z0.var(0, unbiased=False), torch.ones(COUNT, DIM), atol=1e-3, rtol=0)
    torch.testing.assert_close(normaliser.denormalise(z0), raw, atol=1e-4, rtol=1e-4)


def test_a_dead_channel_stays_small() -> None:
    """Some sentence encoders have channels that hardly vary: enlarged, their rounding would be a latent of its own."""
    torch.manual_seed(0)
    raw = torch.randn(500, COUNT, DIM)
    raw[:, 1, 2] *= 1e-4
    normaliser = Normaliser(COUNT, DIM)
    normaliser.fit([Latents(raw, torch.ones(500, COUNT, dtype=torch.bool))])
    z0 = normaliser.normalise(raw)
    assert z0[:, 1, 2].std() < 0.01
    torch.testing.assert_close(z0[:, 0].std(0), torch.ones(DIM), atol=0.01, rtol=0)


def test_the_plans_of_texts_are_normalised_and_stored_as_they_are_encoded() -> None:
    """One path for a training's store, which is in half precision, and for `encode_texts`."""
    autoencoder = tiny.tiny_plan_autoencoder()
    fit_normaliser(autoencoder, tiny.SENTENCES)
    z0 = autoencoder.encode_texts(tiny.SENTENCES).values
    assert z0.shape == (len(tiny.SENTENCES), COUNT, DIM)
    torch.testing.assert_close(z0.mean(0), torch.zeros(COUNT, DIM), atol=0.01, rtol=0)
    stored, mask = store_latents(autoencoder, tiny.SENTENCES).gather(torch.arange(len(tiny.SENTENCES)))
    torch.testing.assert_close(stored, z0, atol=5e-3, rtol=5e-3)
    assert mask.all()


# ------------------------------------------------------------------------------------------------ the loss, learnt


def test_levels_of_training_are_all_levels_and_a_share_is_clean() -> None:
    """One decoder reads plans and is a language model, so both ends must be drawn."""
    torch.manual_seed(0)
    schedule = build_schedule(ScheduleConfig())
    clean, (low, high) = float(schedule.log_snr(torch.tensor(CLEAN_TIME))), schedule.log_snr(torch.tensor([0.98, 0.02]))
    for share in (0.0, 0.25, 1.0):
        log_snr = draw_level(PlanDecodingConfig(clean_share=share), 4000, torch.device("cpu")).log_snr
        expected = share + (1 - share) * CLEAN_TIME
        assert abs(float((log_snr > clean).float().mean()) - expected) < 0.02
        assert log_snr.max() > high
        assert (log_snr.min() < low) == (share < 1)


def test_padding_counts_for_nothing_in_the_loss() -> None:
    """The mean is over the tokens of the texts, the end token included."""
    autoencoder = tiny.tiny_plan_autoencoder()
    given = tiny.tokens(autoencoder, EIGHT)
    z0, level = autoencoder.encode(**given).values, level_of(torch.linspace(9, -9, 8))
    eps = torch.randn_like(z0)

    def loss(rows: slice) -> Tensor:
        part = {name: x[rows][:, : int(given["attention_mask"][rows].sum(1).max())] for name, x in given.items()}
        own = Level(*(x[rows] for x in level))
        return plan_decoding_loss(autoencoder, z0[rows], part["input_ids"], part["attention_mask"], own, eps[rows])[0]

    counts = given["attention_mask"].sum(1)
    alone = torch.stack([loss(slice(row, row + 1)) for row in range(8)])
    torch.testing.assert_close(loss(slice(8)), (alone * counts).sum() / counts.sum(), atol=1e-4, rtol=1e-4)
    noised = Latents(add_noise(z0, eps, level), torch.ones(8, COUNT, dtype=torch.bool))
    likelihood = autoencoder.log_likelihood(noised, given["input_ids"], given["attention_mask"], level)
    torch.testing.assert_close(likelihood, -alone, atol=1e-4, rtol=1e-4)


@cache
def _learnt() -> TextAutoencoder:
    """Eight sentences by heart, from plans at all levels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = tiny.tiny_plan_autoencoder(rough=False)
        fit_normaliser(autoencoder, EIGHT)
        given = tiny.tokens(autoencoder, EIGHT * 4)
        with torch.no_grad():
            z0 = autoencoder.encode(**given).values
        trained = [p for name, p in autoencoder.named_parameters() if ".encoder." not in name]
        optimizer = torch.optim.Adam(trained, lr=5e-3, betas=(0.9, 0.98))
        for _ in range(250):
            level = draw_level(PlanDecodingConfig(), len(z0), torch.device("cpu"))
            loss, _ = plan_decoding_loss(autoencoder, z0, *given.values(), level, torch.randn_like(z0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return autoencoder.eval()


def learnt() -> LatentDiffusion:
    return LatentDiffusion(ModelParts("eight", copy.deepcopy(_learnt())))


def noised(model: LatentDiffusion, log_snr: float, copies: int = 1) -> Latents:
    """Plans of the eight sentences at a level."""
    torch.manual_seed(1)
    z0 = model.encode(EIGHT * copies)
    level = level_of(log_snr)
    return replace(z0, values=add_noise(z0.values, torch.randn_like(z0.values), level), level=level)


def test_eight_sentences_are_written_back_from_their_plans() -> None:
    """Without noise, with a little, and by drawing from a clean plan, which leaves no doubt."""
    model = learnt()
    assert model.reconstruct(EIGHT) == EIGHT
    assert model.decode(noised(model, 8.0)) == EIGHT
    noise = [SampleNoise([seed]) for seed in range(8)]
    z0 = model.encode(EIGHT)
    ids = model.autoencoder.decode(z0, do_sample=True, noise=SampleNoise.join(noise))
    drawn = model.autoencoder.backbone.detokenize(ids)
    assert sum(one == other for one, other in zip(drawn, EIGHT, strict=True)) >= 7


def test_from_pure_noise_the_decoder_is_a_language_model() -> None:
    """It writes sentences of the set, all of them, and not the one whose plan was there before the noise."""
    model = learnt()
    texts = model.decode(noised(model, -12.0, copies=10), do_sample=True)
    right = sum(text == own for text, own in zip(texts, EIGHT * 10, strict=True))
    assert sum(text in EIGHT for text in texts) > 0.8 * len(texts)
    assert set(texts) >= set(EIGHT)
    assert right < 0.4 * len(texts)


def test_what_is_told_of_the_level_decides_how_a_plan_is_read() -> None:
    """The same plans, said to be noise, are not believed."""
    model = learnt()
    z0 = model.encode(EIGHT)
    texts = model.decode(z0, level=level_of(-12.0))
    assert texts != EIGHT
    assert all(text in EIGHT for text in texts)


# ------------------------------------------------------------------------------------------------ latents with a level


def test_latents_say_their_level_to_the_decoder() -> None:
    """As a field or as an argument, one for all or one for each, on another path: the same texts."""
    model = learnt()
    at = noised(model, -3.0)
    assert at.level is not None
    expected = model.decode(at)
    assert expected != model.decode(replace(at, level=None))
    plain = replace(at, level=None)
    each = level_of([-3.0] * 8)
    assert model.decode(plain, level=at.level) == model.decode(plain, level=each) == expected
    assert model.decode(replace(plain, level=each), batch_size=3) == expected
    assert model.autoencoder.backbone.detokenize(model.autoencoder.decode(at)) == expected
    many, flow = noised(model, 0.0, copies=20), level_of(0.0, "flow")
    drawn = []
    for latents in (many, replace(many, values=many.values * flow.scale, level=flow)):
        torch.manual_seed(2)
        drawn.append(model.decode(latents, do_sample=True))
    assert drawn[0] == drawn[1]


def test_latents_are_cut_and_moved_with_their_level() -> None:
    """Each row keeps its own; one level for all stays that."""
    values, mask = torch.randn(4, COUNT, DIM), torch.ones(4, COUNT, dtype=torch.bool)
    each = Latents(values, mask, level=level_of([3.0, 2.0, 1.0, 0.0]))[1:3].to(torch.float64)
    assert each.level is not None and each.level.log_snr.tolist() == [2.0, 1.0]
    assert each.values.dtype == torch.float64
    both = Latents(values, mask, level=level_of(3.0))[1:3].to("cpu")
    assert both.level is not None and float(both.level.log_snr) == 3.0
    assert Latents(values, mask)[1:].to("cpu").level is None


def test_an_autoencoder_without_plans_refuses_a_level_in_one_line() -> None:
    """Its decoder reads z0 alone: to leave out a level in silence would give a wrong text."""
    model = LatentDiffusion(tiny.tiny_parts())
    z0 = model.encode(["the old cat"])
    for given, options in ((z0, {"level": level_of(1.0)}), (replace(z0, level=level_of(1.0)), {})):
        with pytest.raises(UserError) as caught:
            model.decode(given, **options)
        assert str(caught.value) == "this model's decoder reads latents without noise only; give no level"


class OfLetters:
    """A sentence encoder for texts of any length."""

    def embed(self, texts: list[str], batch_size: int = 128) -> Tensor:
        counts = torch.tensor([[text.count(chr(97 + i % 26)) + i % 3 for i in range(COUNT * DIM)] for text in texts])
        return torch.nn.functional.normalize(counts.float(), dim=-1)


def test_a_longer_longest_text_changes_no_other_text() -> None:
    """Places are angles: what the decoder says of short texts stays, and longer ones come back whole."""
    autoencoder = tiny.tiny_plan_autoencoder()
    autoencoder.sentence_encoder = OfLetters()
    model = LatentDiffusion(ModelParts("plan", autoencoder))
    long = " ".join(tiny.SENTENCES[:12])
    short = model.decode(model.encode(tiny.SENTENCES[:4], wording=False))
    assert model.reconstruct([long]) != [long]
    model.autoencoder.set_max_tokens(400)
    assert model.reconstruct([long]) == [long]
    longer = model.decode(model.encode(tiny.SENTENCES[:4], wording=False))
    assert all(new.startswith(old) for old, new in zip(short, longer, strict=True))
