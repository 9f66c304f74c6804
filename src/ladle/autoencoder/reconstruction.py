"""The training loss of an autoencoder: reconstruct texts from masked tokens and noised latents.

    L = cross-entropy of the autoregressive decoder + parallel_loss_scale * that of the parallel one + kl.scale * KL

A trained autoencoder needs nothing of this file.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.decoders import parallel_targets
from ladle.autoencoder.latents import Latents
from ladle.config import Config


class KLConfig(Config):
    """The loss that pulls Gaussian latents towards N(0, I). Needs `autoencoder.bottleneck.regulariser = "gaussian"`."""

    scale: float = Field(0.01, ge=0, allow_inf_nan=False)
    """Weight of the divergence. 1 gives the evidence lower bound, with which latents keep little of a text."""
    free_bits: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Divergence of each channel that costs nothing, in nats per latent (Kingma et al., arXiv 1606.04934)."""
    warmup: float = Field(0.0, ge=0, le=1)
    """Share of the stage over which the weight rises from 0 (Bowman et al., arXiv 1511.06349)."""


class ReconstructionConfig(Config):
    """The corruptions that make an autoencoder robust in training, and the weights of the losses."""

    token_mask_prob: float = Field(0.3, ge=0, lt=1)
    """The share of masked input tokens is drawn for each text from U(0, token_mask_prob)."""
    latent_noise: float = Field(0.7, ge=0)
    """The scale of the Gaussian noise on the latents is drawn for each text from U(0, latent_noise)."""
    corrupt_prob: float = Field(0.6, ge=0, le=1)
    """Probability that tokens of a text are masked. Independently, also the probability that its latents get noise. So
    a text can have both, one or neither."""
    parallel_loss_scale: float = Field(1.0, ge=0)
    """Weight of the parallel decoder's loss."""
    kl: KLConfig = KLConfig()


def reconstruction_loss(
    autoencoder: TextAutoencoder, batch: dict[str, Tensor], config: ReconstructionConfig, progress: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of both decoders from masked tokens and noised z0. Gaussian latents add the divergence.

    batch: input_ids and attention_mask, [B, S]. progress: the share of the training that is done, for the warm-up of
    `kl`. Returns the loss, a scalar, and detached metrics.
    """
    latents, divergence, metrics = training_latents(autoencoder, batch, config, progress)
    loss, of_decoders = noised_decoding_loss(autoencoder, latents, batch, config)
    return loss + divergence, of_decoders | metrics


def training_latents(
    autoencoder: TextAutoencoder, batch: dict[str, Tensor], config: ReconstructionConfig, progress: float = 1.0
) -> tuple[Latents, Tensor | float, dict[str, Tensor]]:
    """Returns z0 of masked tokens (Gaussian latents are drawn), the divergence loss in nats per token, and metrics."""
    mask = batch["attention_mask"]
    input_ids = _masked(autoencoder, batch["input_ids"], mask, config)
    raw, latent_mask = autoencoder.bottleneck.compress(autoencoder.backbone.encode(input_ids, mask), mask)
    gaussian = autoencoder.config.bottleneck.regulariser == "gaussian"
    mean, log_variance = raw.float().chunk(2, dim=-1) if gaussian else (raw, raw)
    if autoencoder.training:
        autoencoder.normaliser.track(mean, latent_mask)
    drawn, loss, metrics = mean, 0.0, {}
    if gaussian:
        if autoencoder.training:
            drawn = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        by_channel, kl = divergence_from_unit_gaussian(mean, log_variance)[latent_mask].mean(0), config.kl
        weight = kl.scale * (min(1.0, progress / kl.warmup) if kl.warmup else 1.0)
        # Cross-entropy is a mean over tokens, so nats a latent count as nats a token.
        loss = weight * by_channel.clamp_min(kl.free_bits).sum() * latent_mask.sum() / mask.sum()
        metrics = {"kl": by_channel.sum().detach()}  # nats a latent
    z0 = autoencoder.normaliser.normalise(drawn) * latent_mask[..., None]
    return Latents(z0, latent_mask), loss, metrics


def noised_decoding_loss(
    autoencoder: TextAutoencoder, latents: Latents, batch: dict[str, Tensor], config: ReconstructionConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """`decoding_loss` from latents that get noise while the autoencoder trains."""
    noised = Latents(_noised(latents.values, config, autoencoder.training) * latents.mask[..., None], latents.mask)
    return decoding_loss(autoencoder, noised, batch["input_ids"], batch["attention_mask"], config)


def decoding_loss(
    autoencoder: TextAutoencoder, latents: Latents, input_ids: Tensor, mask: Tensor, config: ReconstructionConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the text input_ids [B, S] under each decoder, from (corrupted) latents."""
    backbone = autoencoder.backbone
    memory, memory_mask = autoencoder.expand(latents)
    labels = input_ids.masked_fill(~mask, -100)
    logits = backbone.decode_logits(input_ids, memory, memory_mask)
    autoregressive, accuracy = _cross_entropy(logits, labels)
    metrics = {"autoregressive_loss": autoregressive.detach(), "autoregressive_accuracy": accuracy}
    loss = autoregressive
    if autoencoder.parallel_decoder is not None and config.parallel_loss_scale:
        places = input_ids.shape[1] + 1  # a Perceiver's decoder has `max_tokens`, however short these texts are
        logits = autoencoder.parallel_decoder(memory, memory_mask, backbone.embedding, places)
        ids, weights = parallel_targets(input_ids, mask, logits.shape[1], backbone.tokenizer.eos_token_id)
        parallel, accuracy = _cross_entropy(logits, ids.masked_fill(~weights, -100))
        loss = loss + config.parallel_loss_scale * parallel
        metrics |= {"parallel_loss": parallel.detach(), "parallel_accuracy": accuracy}
    return loss, metrics


def divergence_from_unit_gaussian(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, element by element (arXiv 1312.6114, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def _masked(autoencoder: TextAutoencoder, input_ids: Tensor, mask: Tensor, config: ReconstructionConfig) -> Tensor:
    tokenizer = autoencoder.backbone.tokenizer
    if not autoencoder.training or not config.token_mask_prob or tokenizer.mask_token_id is None:
        return input_ids
    rates = config.token_mask_prob * _strengths(len(input_ids), input_ids.device, config)
    hidden = torch.rand(input_ids.shape, device=input_ids.device) < rates[:, None]
    return input_ids.masked_fill(hidden & mask & (input_ids != tokenizer.eos_token_id), tokenizer.mask_token_id)


def _noised(z0: Tensor, config: ReconstructionConfig, training: bool) -> Tensor:
    if not training or not config.latent_noise:
        return z0
    scales = config.latent_noise * _strengths(len(z0), z0.device, config)
    return z0 + scales[:, None, None] * torch.randn_like(z0)


def _strengths(batch: int, device: torch.device, config: ReconstructionConfig) -> Tensor:
    """U(0, 1) for a share `corrupt_prob` of the texts, 0 for the others: [B]."""
    return torch.rand(batch, device=device) * (torch.rand(batch, device=device) < config.corrupt_prob)


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over labels [B, S] that are not -100, and token accuracy.

    While gradients are wanted the accuracy is that of eight texts: argmax over a vocabulary takes as long as a layer.
    """
    loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
    texts = slice(0, 8) if logits.requires_grad else slice(None)
    right = (logits[texts].detach().argmax(-1) == labels[texts]).sum()
    return loss, right / (labels[texts] != -100).sum()
