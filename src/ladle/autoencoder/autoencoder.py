"""TextAutoencoder: backbone, bottleneck, normaliser and decoders in the order in which a text meets them."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ladle.autoencoder.backbone import Backbone, BackboneConfig
from ladle.autoencoder.bottleneck import BOTTLENECKS, BottleneckConfig
from ladle.autoencoder.decoders import (
    ParallelDecoder,
    ParallelDecoderConfig,
    autoregressive_ids,
    parallel_ids,
    parallel_targets,
)
from ladle.autoencoder.latents import Latents, Normaliser
from ladle.config import Config

DecoderName = Literal["autoregressive", "parallel"]


class AutoencoderConfig(Config):
    """Sizes of the autoencoder and what makes it robust while it trains.

    max_tokens: longest text, in tokens. token_mask_prob: each text has a share of its input tokens masked, drawn
    from U(0, token_mask_prob). latent_noise: each text's z0 gets Gaussian noise of scale U(0, latent_noise).
    corrupt_prob: share of texts that get each of the two. parallel_loss_scale: weight of the parallel decoder.
    """

    max_tokens: int = Field(96, ge=4)
    token_mask_prob: float = Field(0.3, ge=0, lt=1)
    latent_noise: float = Field(0.7, ge=0)
    corrupt_prob: float = Field(0.6, ge=0, le=1)
    parallel_loss_scale: float = Field(1.0, ge=0)
    backbone: BackboneConfig = BackboneConfig()
    bottleneck: BottleneckConfig = BottleneckConfig()
    parallel_decoder: ParallelDecoderConfig = ParallelDecoderConfig()


SIZES = frozenset({"max_tokens", "backbone", "bottleneck", "parallel_decoder"})  # what weights are tied to


class TextAutoencoder(nn.Module):
    """text -> tokens -> backbone encoder -> bottleneck -> normaliser -> z0, and back (arXiv 2212.09462, section 4)."""

    def __init__(self, config: AutoencoderConfig, backbone: Backbone):
        super().__init__()
        self.config, self.backbone = config, backbone
        width, kind = backbone.width, config.bottleneck.kind
        self.bottleneck = BOTTLENECKS[kind](config.bottleneck, width, config.max_tokens)
        self.normaliser = Normaliser(config.bottleneck.latent_dim)
        self.parallel_decoder = None
        if config.parallel_decoder.num_layers:
            self.parallel_decoder = ParallelDecoder(
                config.parallel_decoder, width, backbone.model.config.vocab_size, config.max_tokens, kind == "aligned"
            )
        if config.backbone.pretrained:
            self._freeze_backbone()

    @property
    def latent_dim(self) -> int:
        """D, channels of a latent."""
        return self.config.bottleneck.latent_dim

    @property
    def max_latents(self) -> int:
        """The most latents that a text has."""
        return self.bottleneck.max_latents

    def num_latents(self, num_tokens: Tensor) -> Tensor:
        """Numbers of tokens [B] -> numbers of latents [B]."""
        if self.config.bottleneck.fixed_length:
            return torch.full_like(num_tokens, self.max_latents)
        return -(-num_tokens // self.config.bottleneck.tokens_per_latent)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Latents:
        """input_ids [B, S], attention_mask [B, S] (bool) -> z0."""
        raw, mask = self.bottleneck.compress(self.backbone.encode(input_ids, attention_mask), attention_mask)
        mean = raw[..., : self.latent_dim]
        return Latents(self.normaliser.normalise(mean) * mask[..., None], mask)

    def expand(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """z0 -> decoder memory [B, N, W] and its mask [B, N]."""
        raw = self.normaliser.denormalise(latents.values) * latents.mask[..., None]
        return self.bottleneck.expand(raw.to(self.bottleneck.up.weight.dtype), latents.mask)

    @torch.no_grad()
    def decode(self, latents: Latents, decoder: DecoderName | None = None, **options: Any) -> Tensor:
        """z0 -> token ids [B, S].

        Args:
            latents: normalised latents.
            decoder: `autoregressive` (default) or `parallel`.
            options: `num_beams`, `do_sample`, `top_p`, `temperature`, named as in transformers' `generate`;
                `noise`, the rows' own random streams, to sample with them.

        Raises:
            ValueError: `parallel` asked of an autoencoder that has no parallel decoder, or an unknown decoder.
        """
        memory, mask = self.expand(latents)
        if decoder in (None, "autoregressive"):
            return autoregressive_ids(self.backbone, memory, mask, **options)
        if decoder != "parallel" or self.parallel_decoder is None:
            raise ValueError(f"this autoencoder has no '{decoder}' decoder")
        logits = self.parallel_decoder(memory, mask, self._embedding())
        places = mask if self.parallel_decoder.queries is None else torch.ones_like(logits[..., 0], dtype=torch.bool)
        return parallel_ids(logits, places, self.backbone.tokenizer.eos_token_id, **options)

    def loss(self, batch: dict[str, Tensor], progress: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of both decoders from corrupted input tokens and noised z0; with `kl` the divergence too.

        batch: input_ids [B, S], attention_mask [B, S]. progress: the share of the training that is over, for the
        warm-up of `kl`. Returns the loss and detached metrics.
        """
        latents, divergence, metrics = self.training_latents(batch, progress)
        loss, of_decoders = self.reconstruction_loss(latents, batch)
        return loss + divergence, of_decoders | metrics

    def training_latents(
        self, batch: dict[str, Tensor], progress: float = 1.0
    ) -> tuple[Latents, Tensor | float, dict[str, Tensor]]:
        """z0 of corrupted input tokens, with `kl` drawn from its Gaussian; the loss of that, nats a token; metrics."""
        input_ids, mask = batch["input_ids"], batch["attention_mask"]
        raw, latent_mask = self.bottleneck.compress(
            self.backbone.encode(self._mask_tokens(input_ids, mask), mask), mask
        )
        kl = self.config.bottleneck.kl
        mean, log_variance = (raw, None) if kl is None else raw.float().chunk(2, dim=-1)
        if self.training:
            self.normaliser.track(mean, latent_mask)
        if kl is None or log_variance is None:
            return Latents(self.normaliser.normalise(mean) * latent_mask[..., None], latent_mask), 0.0, {}
        drawn = mean
        if self.training:
            drawn = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        by_channel = divergence_from_unit_gaussian(mean, log_variance)[latent_mask].mean(0)
        weight = kl.scale * (min(1.0, progress / kl.warmup) if kl.warmup else 1.0)
        # Cross-entropy is a mean over tokens, so nats a latent count as nats a token.
        loss = weight * by_channel.clamp_min(kl.free_bits).sum() * latent_mask.sum() / mask.sum()
        z0 = self.normaliser.normalise(drawn) * latent_mask[..., None]
        return Latents(z0, latent_mask), loss, {"kl": by_channel.sum().detach()}  # nats a latent

    def reconstruction_loss(self, latents: Latents, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """`decoding_loss` from noised latents (while it trains)."""
        noised = self._add_noise(latents.values) * latents.mask[..., None]
        return self.decoding_loss(Latents(noised, latents.mask), batch["input_ids"], batch["attention_mask"])

    def decoding_loss(self, latents: Latents, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the text input_ids [B, S] under each decoder, from (corrupted) latents."""
        memory, memory_mask = self.expand(latents)
        labels = input_ids.masked_fill(~mask, -100)
        logits = self.backbone.decode_logits(input_ids, memory, memory_mask)
        autoregressive, accuracy = _cross_entropy(logits, labels)
        metrics = {"autoregressive_loss": autoregressive.detach(), "autoregressive_accuracy": accuracy}
        loss = autoregressive
        if self.parallel_decoder is not None and self.config.parallel_loss_scale:
            places = input_ids.shape[1] + 1  # a Perceiver's decoder has `max_tokens`, however short these texts are
            logits = self.parallel_decoder(memory, memory_mask, self._embedding(), places)
            end = self.backbone.tokenizer.eos_token_id
            ids, weights = parallel_targets(input_ids, mask, logits.shape[1], end)
            parallel, accuracy = _cross_entropy(logits, ids.masked_fill(~weights, -100))
            loss = loss + self.config.parallel_loss_scale * parallel
            metrics |= {"parallel_loss": parallel.detach(), "parallel_accuracy": accuracy}
        return loss, metrics

    def log_likelihood(self, latents: Latents, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean log-probability a token of the texts input_ids [B, S] under the autoregressive decoder: [B]."""
        logits = self.backbone.decode_logits(input_ids, *self.expand(latents)).float()
        chosen = logits.log_softmax(-1).gather(-1, input_ids[..., None])[..., 0]
        return (chosen * attention_mask).sum(1) / attention_mask.sum(1)

    def _embedding(self) -> Tensor:
        return self.backbone.model.get_input_embeddings().weight

    def _mask_tokens(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        mask_id = self.backbone.tokenizer.mask_token_id
        if not self.training or not self.config.token_mask_prob or mask_id is None:
            return input_ids
        rates = self.config.token_mask_prob * self._strengths(len(input_ids), input_ids.device)
        hidden = torch.rand(input_ids.shape, device=input_ids.device) < rates[:, None]
        return input_ids.masked_fill(hidden & mask & (input_ids != self.backbone.tokenizer.eos_token_id), mask_id)

    def _add_noise(self, z0: Tensor) -> Tensor:
        if not self.training or not self.config.latent_noise:
            return z0
        scales = self.config.latent_noise * self._strengths(len(z0), z0.device)
        return z0 + scales[:, None, None] * torch.randn_like(z0)

    def _strengths(self, batch: int, device: torch.device) -> Tensor:
        """U(0, 1) for a share `corrupt_prob` of the texts, 0 for the others: [B]."""
        return torch.rand(batch, device=device) * (torch.rand(batch, device=device) < self.config.corrupt_prob)

    def _freeze_backbone(self) -> None:
        model, config = self.backbone.model, self.config.backbone
        if not config.train_decoder:
            model.requires_grad_(False)
        # The embeddings are shared by both halves: they follow the decoder.
        shared = {id(p) for p in model.get_input_embeddings().parameters()}
        for parameter in model.get_encoder().parameters():
            if id(parameter) not in shared:
                parameter.requires_grad_(config.train_encoder)

    def train(self, mode: bool = True) -> "TextAutoencoder":
        """As in torch; what is frozen of a backbone stays in evaluation mode, so that it does not drop out."""
        super().train(mode)
        config = self.config.backbone
        if config.pretrained:
            self.backbone.train(mode and config.train_decoder)
            self.backbone.model.get_encoder().train(mode and config.train_encoder)
        return self


def divergence_from_unit_gaussian(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, element by element (arXiv 1312.6114, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over labels [B, S] that are not -100, and token accuracy.

    While gradients are wanted the accuracy is that of eight texts: argmax over a vocabulary takes as long as a layer.
    """
    loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
    texts = slice(0, 8) if logits.requires_grad else slice(None)
    right = (logits[texts].detach().argmax(-1) == labels[texts]).sum()
    return loss, right / (labels[texts] != -100).sum()
