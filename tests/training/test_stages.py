"""What each stage trains, on what, and what it leaves alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import memorised
import tiny
from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.encoding import fit_normaliser, store_latents, store_tokens
from ladle.autoencoder.reconstruction import ReconstructionConfig
from ladle.conditioning.config import ConditionConfig, SourceConfig
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.data.row_portions import in_every_epoch
from ladle.data.rows import Row
from ladle.diffusion.loss import DenoisingConfig, DenoisingLoss
from ladle.diffusion.model import LatentDiffusionModel
from ladle.sampling.options import SamplingOptions
from ladle.training.loop import train_stage
from ladle.training.optimiser import TrainingConfig
from ladle.training.stages.autoencoder import AutoencoderStage
from ladle.training.stages.decoder import DecoderStage
from ladle.training.stages.diffusion import NUM_SAMPLES, DiffusionStage

SETTINGS = TrainingConfig(steps=1, max_tokens=120)
ROWS = [Row(text=text, label=tiny.LABELS[i % 2], source=text.split()[1]) for i, text in enumerate(tiny.SENTENCES)]


def stores(autoencoder: TextAutoencoder, config: ConditionConfig, rows: list[Row] = ROWS) -> tuple[Any, Any]:
    return store_latents(autoencoder, [row["text"] for row in rows]), ConditionStore.of(
        SourceReader(autoencoder, config), rows
    )


def diffusion_stage(autoencoder: TextAutoencoder) -> DiffusionStage:
    fit_normaliser(autoencoder, tiny.SENTENCES)
    denoising = DenoisingLoss(tiny.tiny_diffusion(autoencoder), DenoisingConfig())
    train, valid = (stores(autoencoder, denoising.model.condition.config, rows) for rows in (ROWS, ROWS[:9]))
    return DiffusionStage(
        denoising, autoencoder, in_every_epoch(train), valid, SETTINGS, SamplingOptions(num_inference_steps=2)
    )


def decoder_stage(autoencoder: TextAutoencoder, model: LatentDiffusionModel, latent_noise: float = 0.7) -> DecoderStage:
    config = tiny.tiny_diffusion(autoencoder).condition.config
    tokens = store_tokens(autoencoder, tiny.SENTENCES)
    valid = (store_tokens(autoencoder, tiny.SENTENCES[:9]), *stores(autoencoder, config, ROWS[:9]))
    train = in_every_epoch((tokens, *stores(autoencoder, config)))
    objective = ReconstructionConfig(latent_noise=latent_noise)
    return DecoderStage(autoencoder, model, train, valid, SETTINGS, objective, drop_prob=0.1)


def step(stage: Any, lr: float = 0.05) -> set[str]:
    """Names of the parameters that one training step changes."""
    module = stage.module.train()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    loss, metrics = stage.loss(stage.load(stage.batches(0)[0]))
    assert metrics["num_tokens"] > 0
    loss.backward()
    torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=lr).step()
    module.eval()
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


# ------------------------------------------------------------------------------------------------ stores


def test_tokens_are_gathered_as_the_tokenizer_pads_them() -> None:
    """In any order, the longest text among them too."""
    autoencoder = tiny.tiny_autoencoder()
    texts = [*memorised.EIGHT, "the old cat " * 30]
    store = store_tokens(autoencoder, texts)
    for rows in ([5, 0, 3], [8], [8, 5]):
        batch, expected = store.gather(torch.tensor(rows)), tiny.tokens(autoencoder, [texts[i] for i in rows])
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
        assert torch.equal(batch["input_ids"], expected["input_ids"])


def test_rows_keep_their_own_conditions() -> None:
    """Labels by number, sources by row, -1 and no mask where a row has none."""
    autoencoder = tiny.tiny_autoencoder()
    rows = [Row(text="a", label="good", source="the cat"), Row(text="b"), Row(text="c", label="bad")]
    reader = SourceReader(autoencoder, ConditionConfig(labels=tiny.LABELS, source=SourceConfig()))
    raw = ConditionStore.of(reader, rows).gather(torch.tensor([2, 0, 1]))
    assert raw.label_ids.tolist() == [0, 1, -1]
    assert raw.source_mask.any(1).tolist() == [False, True, False]


def test_rows_without_any_source_do_for_a_model_that_takes_one() -> None:
    """Held-out rows, say: the model is unconditional there."""
    rows = [Row(text="a", label="good"), Row(text="b", label="bad")]
    reader = SourceReader(tiny.tiny_autoencoder(), ConditionConfig(labels=tiny.LABELS, source=SourceConfig()))
    store = ConditionStore.of(reader, rows)
    assert store.gather(torch.tensor([0, 1])).source is None


def test_a_model_without_conditions_asks_for_none() -> None:
    """Though the rows have them."""
    raw = ConditionStore.of(SourceReader(tiny.tiny_autoencoder(), ConditionConfig()), ROWS).gather(torch.tensor([0]))
    assert (raw.label_ids, raw.source) == (None, None)


# ------------------------------------------------------------------------------------------------ all stages


@pytest.mark.parametrize("name", ["autoencoder", "diffusion"])
def test_bf16_and_fp32_have_one_loss_curve(name: str, tmp_path: Path) -> None:
    """The same batches and draws, so that rounding is all that tells them apart."""
    curves: list[list[float]] = []
    for precision in ("fp32", "bf16"):
        autoencoder = tiny.tiny_autoencoder()
        config = TrainingConfig(
            steps=100, lr=5e-3, max_tokens=400, precision=precision, validate_every=0, sample_every=0
        )
        stage: Any = diffusion_stage(autoencoder) if name == "diffusion" else None
        if stage is None:
            stage = AutoencoderStage(autoencoder, in_every_epoch(ROWS), ROWS[:9], config, ReconstructionConfig())
        stage.settings = config
        train_stage(stage, config, tmp_path / precision, log=lambda line: None)
        rows = map(json.loads, (tmp_path / precision / "metrics.jsonl").read_text().splitlines())
        curves.append([row["loss"] for row in rows if "loss" in row])
    plain, mixed = curves
    assert len(plain) == 2 and plain[1] < 0.95 * plain[0]
    assert mixed == pytest.approx(plain, rel=0.03) and mixed != plain


def test_a_batch_of_diffusion_holds_as_many_texts_whatever_the_latents() -> None:
    """max_tokens counts tokens also where each text has six latents: before, such a batch was of max_tokens latents."""
    stage = diffusion_stage(tiny.tiny_autoencoder("perceiver"))
    mean = store_tokens(stage.autoencoder, tiny.SENTENCES).lengths.float().mean()
    assert mean > 7
    assert max(map(len, stage.batches(0))) == int(SETTINGS.max_tokens / mean)
    batch = stage.load(stage.batches(0)[0])
    assert stage.loss(batch)[1]["num_tokens"] == pytest.approx(len(stage.batches(0)[0]) * mean)


@pytest.mark.parametrize("name", ["autoencoder", "diffusion", "decoder"])
def test_an_epoch_holds_every_row_once_and_looking_changes_nothing(name: str) -> None:
    """Batches are within the budget of tokens and the same at every call; validation says the same for one seed."""
    autoencoder = tiny.tiny_autoencoder()
    stage: Any
    texts = tiny.SENTENCES
    if name == "autoencoder":
        stage = AutoencoderStage(autoencoder, in_every_epoch(ROWS), ROWS[:9], SETTINGS, ReconstructionConfig())
        texts = texts + list(dict.fromkeys(row["source"] for row in ROWS))  # the encoder has to know them too
    else:
        stage = (
            diffusion_stage(autoencoder)
            if name == "diffusion"
            else decoder_stage(autoencoder, tiny.tiny_diffusion(autoencoder))
        )
    batches = stage.batches(3)
    assert sorted(row for batch in batches for row in batch) == list(range(len(texts)))
    assert batches == stage.batches(3)
    assert batches != stage.batches(4)
    lengths = store_tokens(autoencoder, texts).lengths
    if name == "diffusion":
        lengths = 3 * -(-lengths // 3)
    assert all(len(batch) * int(lengths[batch].max()) <= SETTINGS.max_tokens for batch in batches)

    stage.module.eval()
    before = {key: tensor.clone() for key, tensor in stage.module.state_dict().items()}
    values = []
    for _ in range(2):
        torch.manual_seed(0)
        with torch.no_grad():
            values.append((stage.validate(), stage.sample()))
    assert values[0] == values[1]
    assert all(torch.tensor(value).isfinite() for value in values[0][0].values())
    torch.testing.assert_close(dict(stage.module.state_dict()), before, atol=0, rtol=0)


# ------------------------------------------------------------------------------------------------ autoencoder


def test_the_autoencoder_stage_shows_reconstructions_of_held_out_texts() -> None:
    """By an autoencoder that has learnt them, exactly."""
    rows = [Row(text=text) for text in memorised.EIGHT]
    stage = AutoencoderStage(memorised.memorised(), in_every_epoch(ROWS), rows, SETTINGS, ReconstructionConfig())
    assert stage.sample() == memorised.EIGHT
    metrics = stage.validate()
    assert metrics["autoregressive_accuracy"] == metrics["parallel_accuracy"] == 1.0


def test_without_held_out_rows_the_autoencoder_is_looked_at_on_training_rows() -> None:
    """Few texts, or valid_fraction = 0: no reason to stop."""
    stage = AutoencoderStage(tiny.tiny_autoencoder(), in_every_epoch(ROWS), [], SETTINGS, ReconstructionConfig())
    with torch.no_grad():
        assert stage.validate()["autoregressive_loss"] > 0
        assert len(stage.sample()) == NUM_SAMPLES


# ------------------------------------------------------------------------------------------------ diffusion


def test_the_diffusion_stage_trains_the_prior_alone() -> None:
    """The autoencoder is fixed: its latents were stored before."""
    autoencoder = tiny.tiny_autoencoder()
    stage = diffusion_stage(autoencoder)
    before = {name: tensor.clone() for name, tensor in autoencoder.state_dict().items()}
    changed = {".".join(name.split(".")[:2]) for name in step(stage)}
    assert changed == {"model.condition", "model.denoiser", "model.length"}
    torch.testing.assert_close(dict(autoencoder.state_dict()), before, atol=0, rtol=0)


def test_the_length_model_starts_from_the_training_lengths_and_learns_from_all_of_them() -> None:
    """A batch holds texts of like length, so its own lengths would teach that all are."""
    stage = diffusion_stage(tiny.tiny_autoencoder())
    counts = torch.bincount(stage.latents.lengths, minlength=9)[1:].float()
    torch.testing.assert_close(stage.module.model.length.base.softmax(0), counts / counts.sum(), atol=0.02, rtol=0)
    torch.manual_seed(0)
    batches = [stage.load(batch) for batch in stage.batches(0)]
    assert {len(batch.lengths) for batch in batches} == {len(ROWS)}
    assert all(batch.lengths.float().std() > 0 for batch in batches)
    assert all(torch.equal(batch.mask.any(1), torch.ones(len(batch.z0), dtype=torch.bool)) for batch in batches)


def test_samples_to_look_at_are_drawn_with_the_held_out_conditions() -> None:
    """One for each of the first held-out rows, by the sampler of the recipe."""
    stage = diffusion_stage(memorised.memorised())  # (which may have to be trained first)
    with torch.no_grad():
        texts = stage.sample()
    assert len(texts) == 9
    assert len(set(texts)) > 1


# ------------------------------------------------------------------------------------------------ decoder


@pytest.mark.parametrize("kind", ["aligned", "perceiver"])
def test_the_decoder_stage_trains_the_way_back_alone(kind: str) -> None:
    """Encoder, embeddings, the way in and the prior stay: stored latents keep their meaning."""
    autoencoder = tiny.tiny_autoencoder(kind)
    prior = tiny.tiny_diffusion(autoencoder)
    prior_before = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    latents = tiny.latents(autoencoder)
    stage = decoder_stage(autoencoder, prior)
    changed = step(stage)
    allowed = ("parallel_decoder", "backbone.model.model.dec")
    assert all(name.startswith(allowed) for name in changed)
    assert all(any(name.startswith(part) for name in changed) for part in allowed)
    assert not any("embed_tokens" in name or "embed_positions" in name for name in changed)
    assert torch.equal(tiny.latents(autoencoder).values, latents.values)
    torch.testing.assert_close(dict(prior.state_dict()), prior_before, atol=0, rtol=0)
    assert not any(parameter.requires_grad for parameter in prior.parameters())


def test_three_quarters_of_the_texts_come_from_the_priors_own_estimate() -> None:
    """The rest from z0 with noise: what the prior gets wrong is what the decoder has to put right."""
    autoencoder = tiny.tiny_autoencoder()
    stage = decoder_stage(autoencoder, tiny.tiny_diffusion(autoencoder), latent_noise=0.0)
    torch.manual_seed(0)
    same = []
    for batch in stage.batches(0):
        _, latents = stage.load(batch)
        corrupted = stage._corrupted(latents)
        assert not corrupted[~latents.mask].any()
        same += (corrupted - latents.z0).flatten(1).abs().amax(1).eq(0).tolist()
    assert 0.1 < sum(same) / len(same) < 0.4


def test_estimates_are_guided_as_in_sampling() -> None:
    """At equal random numbers another scale gives other estimates, and 1 asks for no unconditional one."""
    autoencoder = tiny.tiny_autoencoder()
    stage = decoder_stage(autoencoder, tiny.tiny_diffusion(autoencoder))
    _, latents = stage.load(stage.batches(0)[0])
    estimates = []
    for scale in (1.0, 3.0):
        stage.guidance_scale = scale
        torch.manual_seed(0)
        estimates.append(stage._estimated(latents.z0, latents.mask, latents.condition))
    assert estimates[0].shape == latents.z0.shape
    assert float((estimates[0] - estimates[1]).abs().max()) > 1e-3
    stage.times = (0.0, 0.0)
    torch.testing.assert_close(
        stage._estimated(latents.z0, latents.mask, latents.condition), latents.z0, atol=0.05, rtol=0.05
    )


def test_without_estimates_all_texts_come_from_noised_latents() -> None:
    """Up to latent_noise, each text at its own scale."""
    autoencoder = tiny.tiny_autoencoder()
    stage = decoder_stage(autoencoder, tiny.tiny_diffusion(autoencoder))
    stage.estimated_share = 0.0
    _, latents = stage.load(stage.batches(0)[0])
    torch.manual_seed(0)
    scales = torch.cat([(stage._corrupted(latents) - latents.z0).flatten(1).std(1) for _ in range(40)])
    assert scales.max() < 0.7 * 1.3
    assert scales.mean() == pytest.approx(0.35, abs=0.06)


def test_the_decoder_gets_better_at_latents_that_are_wrong() -> None:
    """What the stage is for: the loss of noised latents falls, in few steps, on what was learnt by heart."""
    autoencoder = memorised.memorised()
    rows = [Row(text=text) for text in memorised.EIGHT]
    tokens = store_tokens(autoencoder, memorised.EIGHT)
    given = stores(autoencoder, ConditionConfig(), rows)
    objective = ReconstructionConfig(latent_noise=2.0)
    train, diffusion = in_every_epoch((tokens, *given)), tiny.tiny_diffusion(autoencoder)
    stage = DecoderStage(autoencoder, diffusion, train, (tokens, *given), SETTINGS, objective, drop_prob=0.1)
    stage.estimated_share = 0.0

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return sum(stage.validate()["autoregressive_loss"] for _ in range(5))

    before = loss()
    optimizer = torch.optim.Adam([p for p in autoencoder.parameters() if p.requires_grad], lr=2e-3)
    for epoch in range(25):
        for batch in stage.batches(epoch):
            optimizer.zero_grad()
            stage.loss(stage.load(batch))[0].backward()
            optimizer.step()
    assert loss() < 0.85 * before
