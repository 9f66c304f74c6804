"""text -> z0 -> text: what a latent depends on, how training corrupts, and that it learns."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import memorised
import tiny
from ladle.autoencoder import reconstruction
from ladle.autoencoder.autoencoder import AutoencoderConfig, TextAutoencoder, Trained
from ladle.autoencoder.backbone import Backbone
from ladle.autoencoder.latents import Latents
from ladle.autoencoder.reconstruction import (
    KLConfig,
    ReconstructionConfig,
    decoding_loss,
    divergence_from_unit_gaussian,
    reconstruction_loss,
)
from ladle.errors import UserError
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts
from ladle.training.recipe import Recipe

KINDS = ["aligned", "perceiver"]
DECODERS = list(memorised.DECODERS)
PLAIN = ReconstructionConfig()
UNCORRUPTED = ReconstructionConfig(latent_noise=0.0, token_mask_prob=0.0)


def loss_of(
    autoencoder: TextAutoencoder,
    batch: dict[str, Tensor],
    config: ReconstructionConfig = PLAIN,
    progress: float = 1.0,
) -> Tensor:
    return reconstruction_loss(autoencoder, batch, config, progress)[0]


def padded(batch: dict[str, Tensor], extra: int, pad: int) -> dict[str, Tensor]:
    return {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, extra), value=pad),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, extra)),
    }


# ------------------------------------------------------------------------------------------------ invariance


def test_padding_does_not_change_a_texts_latents(autoencoder: TextAutoencoder) -> None:
    """Alone, in a batch of longer texts, or with padding to the end: the same z0."""
    texts = ["a cat", "the old cat sat on a mat.", "the red fox ran to the sea."]
    together = tiny.latents(autoencoder, texts)
    wide = padded(tiny.tokens(autoencoder, texts), 5, autoencoder.backbone.tokenizer.pad_token_id)
    with torch.no_grad():
        wider = autoencoder.encode(**wide)
    for row, text in enumerate(texts):
        alone = tiny.latents(autoencoder, [text])
        for other in (together, wider):
            torch.testing.assert_close(other.values[row][other.mask[row]], alone.values[0], atol=1e-5, rtol=1e-4)


def test_latents_are_zero_where_there_are_none(autoencoder: TextAutoencoder) -> None:
    """What stands in padding is written and read by nobody."""
    latents = tiny.latents(autoencoder, ["a cat", "the old cat sat on a mat."])
    assert latents.values[~latents.mask].abs().sum() == 0
    assert latents.values.shape[-1] == autoencoder.latent_dim


def test_the_number_of_latents_follows_from_the_number_of_tokens(autoencoder: TextAutoencoder) -> None:
    """`num_latents` says before encoding what encoding gives."""
    batch = tiny.tokens(autoencoder, ["a cat", "", "the old cat sat on a mat.", "the old cat " * 30])
    latents = autoencoder.encode(**batch)
    assert latents.mask.sum(1).tolist() == autoencoder.num_latents(batch["attention_mask"].sum(1)).tolist()
    assert latents.mask.sum(1).max() == autoencoder.max_latents


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_text_is_decoded_alike_in_any_batch(kind: str, decoder: str) -> None:
    """Batch split and padding change no token, also of texts that the decoder is not sure of."""
    autoencoder = memorised.memorised(kind)
    latents = tiny.latents(autoencoder, memorised.EIGHT)
    torch.manual_seed(0)
    latents = Latents(latents.values + 1.5 * torch.randn_like(latents.values) * latents.mask[..., None], latents.mask)
    together = autoencoder.backbone.detokenize(autoencoder.decode(latents, decoder))
    alone = []
    for row in range(len(latents)):
        size = int(latents.mask[row].sum())
        part = Latents(latents.values[row : row + 1, :size], latents.mask[row : row + 1, :size])
        alone += autoencoder.backbone.detokenize(autoencoder.decode(part, decoder))
    assert alone == together
    assert together != memorised.EIGHT


def test_padding_does_not_change_the_loss(autoencoder: TextAutoencoder) -> None:
    """Neither decoder is asked for padding."""
    batch = tiny.tokens(autoencoder)
    with torch.no_grad():
        loss = loss_of(autoencoder, batch)
        wide = padded(batch, 3, autoencoder.backbone.tokenizer.pad_token_id)
        wide["input_ids"][:, -3:] = 9  # not even the padding token is needed there
        other = loss_of(autoencoder, wide)
    torch.testing.assert_close(other, loss, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ corruption


def test_in_evaluation_the_loss_is_not_corrupted_and_leaves_the_normaliser(autoencoder: TextAutoencoder) -> None:
    """Masking, noise and the running figures belong to training alone."""
    batch = tiny.tokens(autoencoder)
    before = {name: tensor.clone() for name, tensor in autoencoder.normaliser.state_dict().items()}
    with torch.no_grad():
        first, second = loss_of(autoencoder, batch), loss_of(autoencoder, batch)
        z0 = autoencoder.encode(**batch)
        clean = decoding_loss(autoencoder, z0, batch["input_ids"], batch["attention_mask"], PLAIN)[0]
    assert torch.equal(first, second)
    torch.testing.assert_close(first, clean)
    torch.testing.assert_close(autoencoder.normaliser.state_dict(), before, atol=0, rtol=0)


def test_in_training_the_loss_is_corrupted_and_the_normaliser_moves(autoencoder: TextAutoencoder) -> None:
    """Both kinds of corruption by themselves make two losses of one batch differ."""
    batch = tiny.tokens(autoencoder)
    before = autoencoder.normaliser.mean.clone()
    for settings in ({"latent_noise": 0.0}, {"token_mask_prob": 0.0}):
        config = ReconstructionConfig(corrupt_prob=1.0, **settings)
        one = tiny.tiny_autoencoder().train()
        one.normaliser.momentum = 0.0
        assert loss_of(one, batch, config) != loss_of(one, batch, config)
    off = autoencoder.train()
    loss_of(off, batch, UNCORRUPTED)
    assert not torch.equal(off.normaliser.mean, before)
    off.normaliser.momentum = 0.0
    torch.testing.assert_close(loss_of(off, batch, UNCORRUPTED), loss_of(off, batch, UNCORRUPTED), atol=0, rtol=0)


def test_tokens_are_masked_text_by_text_and_never_the_end() -> None:
    """A share of the texts, each at its own rate up to `token_mask_prob`; end and padding stay."""
    autoencoder = tiny.tiny_autoencoder().train()
    config = ReconstructionConfig(token_mask_prob=0.5, corrupt_prob=0.6)
    tokenizer = autoencoder.backbone.tokenizer
    torch.manual_seed(0)
    ids = torch.full((4000, 22), 9)
    ids[:, 20], ids[:, 21] = tokenizer.eos_token_id, tokenizer.pad_token_id
    corrupted = reconstruction._masked(autoencoder, ids, ids != tokenizer.pad_token_id, config)
    hidden = corrupted == tokenizer.mask_token_id
    assert torch.equal(corrupted[~hidden], ids[~hidden])
    assert not hidden[:, 20:].any()
    shares = hidden[:, :20].float().mean(1)
    assert shares.mean() == pytest.approx(0.6 * 0.25, abs=0.01)
    assert (shares == 0).float().mean() > 0.4  # of each batch these texts are whole
    assert shares.std() > 0.1  # and the others differ in how much they lose


def test_noise_on_latents_is_of_each_texts_own_scale() -> None:
    """U(0, latent_noise) for a share of the texts; the others are left as they are."""
    config = ReconstructionConfig(latent_noise=0.8, corrupt_prob=0.5)
    torch.manual_seed(0)
    scales = reconstruction._noised(torch.zeros(2000, 6, 16), config, training=True).flatten(1).std(1)
    assert (scales == 0).float().mean() == pytest.approx(0.5, abs=0.04)
    assert scales[scales > 0].mean() == pytest.approx(0.4, abs=0.03)
    assert scales.max() < 1.1


# ------------------------------------------------------------------------------------------------ divergence


def with_kl(**kl: float) -> ReconstructionConfig:
    """Nothing is corrupted but by the draws."""
    return UNCORRUPTED.model_copy(update={"kl": KLConfig(**kl)})


def drawn(kind: str = "aligned") -> TextAutoencoder:
    """A new autoencoder whose latents are draws."""
    config = tiny.tiny_autoencoder_config(kind, regulariser="gaussian")
    torch.manual_seed(0)
    return TextAutoencoder(config, Backbone.build(config.backbone, config.max_tokens, tiny.tiny_tokenizer())).eval()


def test_the_divergence_is_that_of_two_gaussians() -> None:
    """Against torch.distributions; none from a unit Gaussian to itself."""
    torch.manual_seed(0)
    mean, log_variance = torch.randn(5, 4), torch.randn(5, 4)
    normal = torch.distributions.Normal
    known = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(divergence_from_unit_gaussian(mean, log_variance), known)
    assert not divergence_from_unit_gaussian(torch.zeros(3), torch.zeros(3)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_encoded_to_the_mean_and_trained_on_draws(kind: str) -> None:
    """Encoding is sure, a training step is not; the shapes of latents are those without."""
    autoencoder, config = drawn(kind), with_kl()
    batch = tiny.tokens(autoencoder)
    first, second = autoencoder.encode(**batch), autoencoder.encode(**batch)
    assert torch.equal(first.values, second.values)
    assert first.values.shape[-1] == autoencoder.latent_dim == 16
    autoencoder.normaliser.momentum = 0.0
    assert torch.equal(loss_of(autoencoder, batch, config), loss_of(autoencoder, batch, config))
    autoencoder.train()
    assert loss_of(autoencoder, batch, config) != loss_of(autoencoder, batch, config)


@torch.no_grad()
def test_the_divergence_is_weighed_as_nats_a_token() -> None:
    """loss = cross-entropy + scale * nats a latent * latents / tokens, warmed up, and floored by the free bits."""
    autoencoder = drawn()
    batch = tiny.tokens(autoencoder)
    tokens = int(batch["attention_mask"].sum())
    latents = int(autoencoder.encode(**batch).mask.sum())
    plain, metrics = reconstruction_loss(autoencoder, batch, with_kl(scale=0.0))
    whole = float(loss_of(autoencoder, batch, with_kl(scale=0.5)) - plain)
    assert float(metrics["kl"]) > 0.1
    assert whole == pytest.approx(0.5 * float(metrics["kl"]) * latents / tokens, rel=1e-4)
    warm = with_kl(scale=0.5, warmup=0.4)
    assert float(loss_of(autoencoder, batch, warm, 0.1) - plain) == pytest.approx(whole / 4, rel=1e-3)
    assert float(loss_of(autoencoder, batch, warm, 0.9) - plain) == pytest.approx(whole, rel=1e-3)
    free = float(loss_of(autoencoder, batch, with_kl(scale=0.5, free_bits=30.0)) - plain)
    assert free == pytest.approx(0.5 * 16 * 30 * latents / tokens, rel=1e-4)  # every channel is under its 30 nats


def test_a_heavy_divergence_leaves_nothing_and_free_bits_leave_their_share() -> None:
    """Sixty steps at a hundred times the evidence lower bound: the latents say nothing; with free bits they may."""
    left = {}
    heavy = {"scale": 100.0}
    for name, kl in {"light": {"scale": 1e-4}, "heavy": heavy, "free": heavy | {"free_bits": 0.5}}.items():
        autoencoder, config = drawn().train(), with_kl(**kl)
        batch = tiny.tokens(autoencoder)
        optimizer = torch.optim.Adam(autoencoder.parameters(), lr=5e-3)
        for _ in range(60):
            optimizer.zero_grad()
            loss_of(autoencoder, batch, config).backward()
            optimizer.step()
        left[name] = float(reconstruction_loss(autoencoder.eval(), batch, config)[1]["kl"])
    assert left["heavy"] < 0.5 < left["free"] < 1.3 * 16 * 0.5
    assert left["light"] > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_draws_is_saved_whole(kind: str, tmp_path: Path) -> None:
    """Settings and weights come back: the same latents."""
    autoencoder = drawn(kind)
    save_parts(ModelParts("drawn", autoencoder), tmp_path / "drawn")
    loaded = load_parts(tmp_path / "drawn").autoencoder
    assert loaded.config.bottleneck == autoencoder.config.bottleneck
    torch.testing.assert_close(tiny.latents(loaded, ["a cat"]).values, tiny.latents(autoencoder, ["a cat"]).values)


def test_latents_of_one_length_are_no_draws() -> None:
    """Both regularisers at once would be silently wrong: latents have one, and a divergence wants draws."""
    with pytest.raises(UserError, match="bottleneck.regulariser: must be 'norm', 'gaussian' or 'none'"):
        AutoencoderConfig.parse({"bottleneck": {"regulariser": "norm, gaussian"}})
    values = {"autoencoder": {"bottleneck": {"regulariser": "norm"}}, "training": {"autoencoder": {"kl": {"scale": 1}}}}
    with pytest.raises(UserError, match='kl needs autoencoder.bottleneck.regulariser = "gaussian"'):
        Recipe.parse(values)
    values["autoencoder"]["bottleneck"]["regulariser"] = "gaussian"
    assert Recipe.parse(values).training.autoencoder.kl.scale == 1
    batch = tiny.tokens(tiny.tiny_autoencoder())
    for regulariser in ("norm", "none"):  # nor does one come in by the way
        autoencoder = tiny.tiny_autoencoder(regulariser=regulariser)
        losses = [reconstruction_loss(autoencoder, batch, with_kl(scale=scale)) for scale in (0.0, 9.0)]
        assert torch.equal(losses[0][0], losses[1][0])
        assert "kl" not in losses[1][1]


# ------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_eight_sentences_are_learnt_by_heart_and_come_back(kind: str, decoder: str) -> None:
    """The whole path has to be able to carry a text exactly; each gap in it shows here."""
    assert memorised.decoded(memorised.memorised(kind), decoder) == memorised.EIGHT


@pytest.mark.parametrize("kind", KINDS)
def test_refitting_the_normaliser_changes_no_text(kind: str) -> None:
    """It is undone before decoding: latents move, texts stay."""
    autoencoder = memorised.memorised(kind)
    latents, texts = tiny.latents(autoencoder, memorised.EIGHT), memorised.decoded(autoencoder, "autoregressive")
    autoencoder.normaliser.fit([tiny.latents(autoencoder, memorised.EIGHT[:2])])
    assert not torch.allclose(tiny.latents(autoencoder, memorised.EIGHT).values, latents.values, atol=0.1)
    assert memorised.decoded(autoencoder, "autoregressive") == texts


def test_the_metrics_say_how_each_decoder_does(autoencoder: TextAutoencoder) -> None:
    """Losses are means over tokens that add up to the loss; accuracies are shares."""
    loss, metrics = reconstruction_loss(autoencoder, tiny.tokens(autoencoder), PLAIN)
    torch.testing.assert_close(metrics["autoregressive_loss"] + metrics["parallel_loss"], loss.detach())
    assert all(0 <= metrics[f"{name}_accuracy"] <= 1 for name in DECODERS)
    assert not any(value.requires_grad for value in metrics.values())
    config = ReconstructionConfig(parallel_loss_scale=0.0)
    only, metrics = reconstruction_loss(autoencoder, tiny.tokens(autoencoder), config)
    torch.testing.assert_close(metrics["autoregressive_loss"], only.detach())


# ------------------------------------------------------------------------------------------------ pre-trained


def pretrained(folder: Path, trained: Trained = "none") -> TextAutoencoder:
    config = tiny.tiny_autoencoder_config(pretrained=str(folder))
    torch.manual_seed(0)
    autoencoder = TextAutoencoder(config, Backbone.build(config.backbone, config.max_tokens))
    autoencoder.freeze_backbone(trained)
    return autoencoder


def changed_by_a_step(autoencoder: TextAutoencoder) -> set[str]:
    """Names of the parameters that one training step changes."""
    before = {name: p.detach().clone() for name, p in autoencoder.named_parameters()}
    optimizer = torch.optim.SGD([p for p in autoencoder.parameters() if p.requires_grad], lr=1.0)
    autoencoder.train()
    loss_of(autoencoder, tiny.tokens(autoencoder)).backward()
    optimizer.step()
    return {name for name, p in autoencoder.named_parameters() if not torch.equal(p, before[name])}


def test_a_frozen_backbone_is_not_changed_by_training(pretrained_folder: Path) -> None:
    """BART and T5 stay what they were; bottleneck and parallel decoder learn."""
    changed = changed_by_a_step(pretrained(pretrained_folder))
    assert {name.split(".")[0] for name in changed} == {"bottleneck", "parallel_decoder"}


def test_the_decoder_of_a_backbone_is_trained_by_itself_or_with_the_encoder(tmp_path: Path) -> None:
    """`decoder`, `all`. The shared embeddings follow the decoder."""
    folder = tiny.bart_folder(tmp_path / "bart")
    decoder = {n for n in changed_by_a_step(pretrained(folder, "decoder")) if n.startswith("backbone")}
    assert any("decoder.layers" in name for name in decoder)
    assert any("shared" in name or "embed_tokens" in name for name in decoder)
    assert not any("encoder.layers" in name for name in decoder)
    both = {n for n in changed_by_a_step(pretrained(folder, "all")) if n.startswith("backbone")}
    assert decoder < both
    assert any("encoder.layers" in name for name in both)


@pytest.mark.parametrize("trained", ["none", "decoder", "all"])
def test_a_frozen_half_does_not_drop_out(tmp_path: Path, trained: Trained) -> None:
    """Dropout in what cannot learn is only noise; the same text must have the same states all the time."""
    autoencoder = pretrained(tiny.bart_folder(tmp_path / "b"), trained)
    train_encoder, train_decoder = trained == "all", trained != "none"
    autoencoder.train()
    model = autoencoder.backbone.model
    assert {module.training for module in model.get_encoder().modules() if list(module.children())} == {train_encoder}
    assert model.get_decoder().training is train_decoder
    assert autoencoder.bottleneck.training
    batch = tiny.tokens(autoencoder)
    first, second = (autoencoder.backbone.encode(**batch) for _ in range(2))
    assert torch.equal(first, second) is not train_encoder
    assert not autoencoder.eval().backbone.model.get_encoder().training


def test_a_pretrained_autoencoder_encodes_and_decodes(pretrained_folder: Path) -> None:
    """BART, T5 and mT5 pass through the same path, by both decoders."""
    autoencoder = pretrained(pretrained_folder).eval()
    for decoder in DECODERS:
        texts = autoencoder.backbone.detokenize(autoencoder.decode(tiny.latents(autoencoder), decoder))
        assert len(texts) == len(tiny.SENTENCES[::7])


# ------------------------------------------------------------------------------------------------ wrong use


def test_a_decoder_that_is_not_there_is_refused() -> None:
    """Both a name that does not exist and a parallel decoder that was left out."""
    autoencoder = tiny.tiny_autoencoder(parallel=False)
    for decoder in ("parallel", "sequential"):
        with pytest.raises(ValueError, match=f"no '{decoder}' decoder"):
            autoencoder.decode(tiny.latents(autoencoder), decoder)
