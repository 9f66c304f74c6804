"""TextAutoencoder: backbone, bottleneck, normaliser and decoders, in the order in which a text passes them."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ladle.autoencoder.backbone import Backbone, BackboneConfig, SmallBackboneConfig
from ladle.autoencoder.bottleneck import BOTTLENECKS, AlignedConfig, BottleneckConfig
from ladle.autoencoder.decoders import ParallelDecoder, autoregressive_ids, parallel_ids
from ladle.autoencoder.latents import Latents, Normaliser
from ladle.autoencoder.plan import PlanBottleneck
from ladle.autoencoder.sentence_encoder import StoredSentenceEncoder, sentence_encoder
from ladle.config import Config
from ladle.diffusion.schedule import Level
from ladle.errors import UserError

Memory = tuple[Tensor, Tensor]  # vectors [B, N, W] and their mask [B, N]
DecoderName = Literal["autoregressive", "parallel"]
Trained = Literal["none", "decoder", "all"]  # of a pre-trained backbone


class AutoencoderConfig(Config):
    """The settings of the autoencoder. Its weights fit only the settings that they were trained with."""

    max_tokens: int = Field(96, ge=4)
    """Length of the longest text, in tokens, end token included. Longer texts are cut."""
    backbone: BackboneConfig = SmallBackboneConfig()
    bottleneck: BottleneckConfig = AlignedConfig()
    parallel_layers: int = Field(1, ge=0)
    """Layers of the parallel decoder, which writes all tokens of a text at once. 0 builds no parallel decoder."""


class TextAutoencoder(nn.Module):
    """text -> tokens -> backbone encoder -> bottleneck -> normaliser -> z0, and back (arXiv 2212.09462, section 4).

    encoder: the sentence encoder of a plan; None: the one that the bottleneck's settings name, if they name one.
    """

    def __init__(self, config: AutoencoderConfig, backbone: Backbone, encoder: StoredSentenceEncoder | None = None):
        super().__init__()
        self.config, self.backbone = config, backbone
        width, heads = backbone.width, backbone.num_heads
        self.bottleneck: Any = BOTTLENECKS[config.bottleneck.kind](config.bottleneck, width, heads, config.max_tokens)
        places = (self.max_latents,) if self.is_plan else ()  # (each latent of a plan has channels of its own)
        self.normaliser = Normaliser(*places, config.bottleneck.latent_dim)
        self.sentence_encoder: Any = encoder
        if encoder is None:
            self.sentence_encoder = sentence_encoder(getattr(config.bottleneck, "sentence_encoder", None))
        self.condition: nn.Module | None = None  # of a decoder that reads labels or sources (`ladle.conditioning`)
        self.parallel_decoder = None
        if config.parallel_layers and not self.is_plan:
            self.parallel_decoder = ParallelDecoder(
                config.parallel_layers, width, heads, backbone.model.config.vocab_size, config.max_tokens,
                aligned=not self.fixed_length,
            )  # fmt: skip
        self._frozen: Trained | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def latent_dim(self) -> int:
        """D, channels of a latent."""
        return self.config.bottleneck.latent_dim

    @property
    def max_latents(self) -> int:
        """The largest number of latents of a text."""
        return self.bottleneck.max_latents

    @property
    def is_plan(self) -> bool:
        """Whether the latents are a plan: they hold the meaning, and the decoder is told their noise level."""
        return isinstance(self.bottleneck, PlanBottleneck)

    @property
    def fixed_length(self) -> bool:
        """Whether all texts have `max_latents` latents."""
        return self.bottleneck.tokens_per_latent is None

    def set_max_tokens(self, max_tokens: int) -> None:
        """Let the decoder of a plan write texts of so many tokens: its places are angles, which need no weights. (The
        model must have a sentence encoder; one of the backbone's own has weights for its places.)"""
        self.config = self.config.model_copy(update={"max_tokens": max_tokens})
        self.backbone.max_tokens = max_tokens
        self.backbone.model.config.max_position_embeddings = max_tokens
        self.backbone.model.get_decoder().set_max_tokens(max_tokens)

    def num_latents(self, num_tokens: Tensor) -> Tensor:
        """Numbers of tokens [B] -> numbers of latents [B]."""
        if self.fixed_length:
            return torch.full_like(num_tokens, self.max_latents)
        return -(-num_tokens // self.bottleneck.tokens_per_latent)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Latents:
        """input_ids [B, S], attention_mask [B, S] (bool) -> z0."""
        raw, mask = self.bottleneck.compress(self.backbone.encode(input_ids, attention_mask), attention_mask)
        mean = raw[..., : self.latent_dim]
        return Latents(self.normaliser.normalise(mean) * mask[..., None], mask)

    @torch.no_grad()
    def encode_texts(self, texts: Iterable[str]) -> Latents:
        """texts -> z0 on this autoencoder's device; a text is cut at the longest that it reads."""
        if self.sentence_encoder is not None:
            raw = self.bottleneck.split(self.sentence_encoder.embed(list(texts)).to(self.device))
            mask = torch.ones(raw.shape[:2], dtype=torch.bool, device=raw.device)
            return Latents(self.normaliser.normalise(raw), mask)
        tokens = self.backbone.tokenize(texts)
        return self.encode(**{name: tensor.to(self.device) for name, tensor in tokens.items()})

    def expand(self, latents: Latents, level: Level | None = None, read: Memory | None = None) -> Memory:
        """Latents -> decoder memory [B, N, W] and its mask [B, N].

        level: of the latents, one for all or [B], which the decoder of a plan is told; None: `latents.level`. read: the
        memory of labels and sources (`condition`), and its mask.
        """
        level = latents.level if level is None else level
        if self.is_plan:
            memory, mask = self.bottleneck.expand(latents.values, latents.mask, level)
        else:
            raw = self.normaliser.denormalise(latents.values) * latents.mask[..., None]
            memory, mask = self.bottleneck.expand(raw.to(self.bottleneck.up.weight.dtype), latents.mask)
        if read is None:
            return memory, mask
        return torch.cat([read[0].to(memory), memory], dim=1), torch.cat([read[1], mask], dim=1)

    @torch.no_grad()
    def decode(
        self,
        latents: Latents,
        decoder: DecoderName | None = None,
        *,
        level: Level | None = None,
        read: Memory | None = None,
        **options: Any,
    ) -> Tensor:
        """Latents -> token ids [B, S]. `decoder` None is the autoregressive decoder. level, read: as in `expand`.

        options: `num_beams`, `do_sample`, `top_p` and `temperature` as in transformers' `generate`; `noise`, one random
        stream for each row, used when `do_sample` is set; `wording` (None: `latents.wording`); `drafts`
        and `ending` (`ladle.autoencoder.loop`).

        Raises:
            ValueError: an unknown decoder, or `parallel` for an autoencoder without a parallel decoder.
        """
        memory, mask = self.expand(latents, level, read)
        if decoder in (None, "autoregressive"):
            if latents.wording is not None and not options.get("do_sample") and options.get("num_beams", 1) == 1:
                options = {"wording": latents.wording, **options}
            return autoregressive_ids(self.backbone, memory, mask, **options)
        if decoder != "parallel" or self.parallel_decoder is None:
            raise ValueError(f"this autoencoder has no '{decoder}' decoder")
        logits = self.parallel_decoder(memory, mask, self.backbone.embedding)
        places = mask if self.parallel_decoder.queries is None else torch.ones_like(logits[..., 0], dtype=torch.bool)
        return parallel_ids(logits, places, self.backbone.tokenizer.eos_token_id, **options)

    def check_latents(self, latents: Any) -> None:
        """Raises UserError if these, given by a user, are no latents that this autoencoder can decode."""
        if not (isinstance(latents, Latents) and torch.is_tensor(latents.values) and torch.is_tensor(latents.mask)):
            kind = type(latents).__name__
            raise UserError(f"latents are a {kind}; give what `encode` returns, or Latents(values, mask) of tensors")
        values, mask, dim, most = latents.values, latents.mask, self.latent_dim, self.max_latents
        if values.shape != (*mask.shape, dim) or mask.ndim != 2:
            shapes = f"the shape {tuple(values.shape)} and the mask {tuple(mask.shape)}"
            raise UserError(f"latents have {shapes}; for this model give [B, L, {dim}] and [B, L]")
        if not values.is_floating_point() or mask.dtype != torch.bool:
            raise UserError(f"latents are {values.dtype} and the mask {mask.dtype}; give floats and a mask of bools")
        if latents.space not in (None, self.normaliser.fingerprint()):
            raise UserError("these latents are of another model; decode them with the model that encoded them")
        if (mask[:, 1:] > mask[:, :-1]).any() or ((mask.sum(1) < 1) | (mask.sum(1) > most)).any():
            raise UserError(f"each row of the mask must be True at its first places, 1 to {most}, and False after them")
        if not values[mask].isfinite().all():
            raise UserError("latents hold NaN or infinite values; give finite ones")
        if latents.wording is not None:
            self._check_wording(latents.wording, len(values))

    def _check_wording(self, wording: Any, count: int) -> None:
        if not self.is_plan:
            raise UserError("this model has no wording beside its latents; give latents without one")
        if not torch.is_tensor(wording) or not wording.is_floating_point() or wording.ndim != 2:
            raise UserError("the wording of latents must be a tensor of floats, [B, S], as `encode` gives it")
        if len(wording) != count or wording.shape[1] > self.backbone.max_tokens or not wording.isfinite().all():
            most = f"[{count}, at most {self.backbone.max_tokens}]"
            raise UserError(f"the wording has the shape {list(wording.shape)}; give finite numbers of shape {most}")

    def log_likelihood(
        self,
        latents: Latents,
        input_ids: Tensor,
        attention_mask: Tensor,
        level: Level | None = None,
        read: Memory | None = None,
    ) -> Tensor:
        """Mean log-probability per token of the texts input_ids [B, S] under the autoregressive decoder: [B]. level,
        read: as in `expand`."""
        logits = self.backbone.decode_logits(input_ids, *self.expand(latents, level, read)).float()
        chosen = logits.log_softmax(-1).gather(-1, input_ids[..., None])[..., 0]
        return (chosen * attention_mask).sum(1) / attention_mask.sum(1)

    def freeze_backbone(self, trained: Trained) -> None:
        """Freeze the weights of the backbone, except the part named by `trained`. Frozen parts also use no dropout."""
        model = self.backbone.model
        if trained == "none":
            model.requires_grad_(False)
        # The embeddings are shared by both halves: they follow the decoder.
        shared = {id(p) for p in model.get_input_embeddings().parameters()}
        for parameter in model.get_encoder().parameters():
            if id(parameter) not in shared:
                parameter.requires_grad_(trained == "all")
        self._frozen = trained

    def train(self, mode: bool = True) -> "TextAutoencoder":
        """As in torch, but frozen parts of the backbone stay in evaluation mode, so that they use no dropout."""
        super().train(mode)
        if self._frozen is not None:
            self.backbone.train(mode and self._frozen != "none")
            self.backbone.model.get_encoder().train(mode and self._frozen == "all")
        return self
