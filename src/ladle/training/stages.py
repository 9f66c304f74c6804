"""What each stage trains: a module with a loss, in the form that `loop.train_stage` takes.

autoencoder: text -> latents -> text. diffusion: latents <-> noise, autoencoder fixed. decoder: the way back from
latents that are as wrong as the prior's, encoder and prior fixed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.checkpoint import SamplingConfig
from ladle.condition import RawCondition
from ladle.diffusion.denoising import DiffusionBatch, LatentDiffusionModel
from ladle.generation import draw_latents, draw_lengths, noised_estimate
from ladle.layers import lengths_to_mask
from ladle.rows import Row
from ladle.seeding import SampleNoise
from ladle.source import SourceReader
from ladle.training.batching import epoch_batches
from ladle.training.cache import SourceStore, VectorStore
from ladle.training.portions import PerPortion

NUM_SAMPLES = 32
NUM_LENGTH_ROWS = 256


class TokenStore:
    """Token ids of all texts, packed."""

    def __init__(self, tokenizer: Any, texts: Sequence[str], max_tokens: int):
        parts: list[list[int]] = []
        for start in range(0, len(texts), 10_000):
            chunk = list(texts[start : start + 10_000])
            parts += tokenizer(chunk, truncation=True, max_length=max_tokens)["input_ids"]
        self.pad = tokenizer.pad_token_id
        self.lengths = torch.tensor([len(part) for part in parts])
        self.ids = torch.tensor([token for part in parts for token in part], dtype=torch.int32)
        self.starts = torch.cumsum(self.lengths, 0) - self.lengths

    @classmethod
    def of(cls, autoencoder: TextAutoencoder, texts: Sequence[str]) -> "TokenStore":
        """As the autoencoder reads them."""
        return cls(autoencoder.backbone.tokenizer, texts, autoencoder.backbone.max_tokens)

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """rows [B] -> input_ids and attention_mask, [B, longest]."""
        mask = lengths_to_mask(self.lengths[rows], int(self.lengths[rows].max()))
        places = (self.starts[rows][:, None] + torch.arange(mask.shape[1])).clamp_max(len(self.ids) - 1)
        return {"input_ids": self.ids[places].long().masked_fill(~mask, self.pad), "attention_mask": mask}


class AutoencoderStage:
    """Reconstruction from masked tokens and noised latents, by both decoders.

    train: the rows of an epoch. with_sources: source texts are among the texts, each once, as the denoiser reads them
    through what is trained here.
    """

    name = "autoencoder"
    progress = 0.0

    def __init__(
        self,
        autoencoder: TextAutoencoder,
        train: Callable[[int], Sequence[Row]],
        valid: Sequence[Row],
        config: Any,
        with_sources: bool = True,
    ):
        self.module, self.config = autoencoder, config

        def tokens(rows: Sequence[Row]) -> TokenStore:
            sources = dict.fromkeys(row["source"] for row in rows if row.get("source")) if with_sources else {}
            return TokenStore.of(autoencoder, [row["text"] for row in rows] + list(sources))

        self._tokens_of = PerPortion(train, tokens)
        self.train_tokens = self._tokens_of(0)
        self.valid_texts = [row["text"] for row in valid or train(0)][:256]
        self.valid_tokens = TokenStore.of(autoencoder, self.valid_texts)

    def batches(self, epoch: int) -> list[list[int]]:
        self.train_tokens = self._tokens_of(epoch)
        return epoch_batches(self.train_tokens.lengths.tolist(), self.config, epoch)

    def load(self, rows: list[int]) -> dict[str, Tensor]:
        return self.train_tokens.gather(torch.tensor(rows))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, metrics = self.module.loss(batch, self.progress)
        return loss, {**metrics, "num_tokens": batch["attention_mask"].sum()}

    def validate(self) -> dict[str, float]:
        return _mean_metrics(self.module, self.valid_tokens, lambda batch, rows: self.module.loss(batch))

    def sample(self) -> list[str]:
        tokens = _to_device(
            self.valid_tokens.gather(torch.arange(min(NUM_SAMPLES, len(self.valid_texts)))), self.module
        )
        return self.module.backbone.detokenize(self.module.decode(self.module.encode(**tokens)))


class ConditionStore:
    """Labels and sources of all rows, as tensors."""

    def __init__(self, reader: SourceReader, rows: Sequence[Row]):
        config = reader.config
        self.label_ids = config.label_ids([row.get("label") for row in rows]) if config.labels else None
        self.sources = None
        sources = [row.get("source") for row in rows]
        if config.source and any(source is not None for source in sources):
            self.sources = SourceStore(reader, sources)

    def gather(self, rows: Tensor) -> RawCondition:
        """rows [B] -> their conditions."""
        source = mask = None
        if self.sources is not None:
            source, mask = self.sources.gather(rows)
        return RawCondition(None if self.label_ids is None else self.label_ids[rows], source, mask)


class DiffusionStage:
    """The denoiser over cached latents.

    train: latents and conditions of an epoch's rows; valid: of those held out.
    """

    name = "diffusion"
    progress = 0.0

    def __init__(
        self,
        diffusion: LatentDiffusionModel,
        autoencoder: TextAutoencoder,
        train: Callable[[int], tuple[VectorStore, ConditionStore]],
        valid: tuple[VectorStore, ConditionStore],
        config: Any,
        sampling: SamplingConfig,
    ):
        self.module, self.autoencoder, self.config = diffusion, autoencoder, config
        self.sampling = sampling.to_the_end()  # the decoder is not adapted yet
        self._train, self.valid = train, valid
        self.latents, self.conditions = train(0)
        bottleneck = autoencoder.config.bottleneck
        # Batches are measured in tokens in every stage, so that one setting means one thing. Where every text has as
        # many latents, a latent counts as many tokens as it holds on average.
        self.tokens_per_latent: float = bottleneck.tokens_per_latent
        if bottleneck.fixed_length:
            self.tokens_per_latent = self.latents.num_tokens / len(self.latents.vectors)
        if diffusion.length is not None:
            diffusion.length.fit_base(self.latents.lengths)

    def batches(self, epoch: int) -> list[list[int]]:
        self.latents, self.conditions = self._train(epoch)
        lengths = (self.latents.lengths * self.tokens_per_latent).round().long()
        return epoch_batches(lengths.tolist(), self.config, epoch)

    def load(self, rows: list[int]) -> DiffusionBatch:
        others = torch.randint(len(self.latents), (min(NUM_LENGTH_ROWS, len(self.latents)),))
        return _diffusion_batch(self.latents, self.conditions, torch.tensor(rows), others)

    def loss(self, batch: DiffusionBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, metrics = self.module.loss(batch, self.progress)
        return loss, {**metrics, "num_tokens": batch.mask.sum() * self.tokens_per_latent}

    def validate(self) -> dict[str, float]:
        device = self.module.denoiser.no_self_condition.device
        sums: dict[str, float] = {}
        count = 0
        for rows in torch.arange(min(1024, len(self.valid[0]))).split(128):
            batch = _diffusion_batch(*self.valid, rows, rows).to(device)
            for name, value in self.module.loss(batch)[1].items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
            count += len(rows)
        return {name: value / count for name, value in sums.items()}

    def sample(self) -> list[str]:
        latents, conditions = self.valid
        rows = torch.arange(min(NUM_SAMPLES, len(latents)))
        device = self.module.denoiser.no_self_condition.device
        raw = conditions.gather(rows).to(device)
        return drawn_texts(self.module, self.autoencoder.to(device), raw, len(rows), self.sampling)


class DecoderStage:
    """The way from latents to text, made used to the prior's estimates (decoder adaptation, as in BLD and others).

    A quarter of the texts comes from z0 with Gaussian noise. The others are noised to a level, and the frozen prior's
    estimate of z0 is decoded: the mean over what is still open there, of a text that is known. So the sampler may stop
    before its end (`SamplingConfig.stop_time`) and leave to the decoder, which knows how words go together, what is
    still open between neighbours. The encoder is fixed, so that latents keep their meaning.

    train: tokens, latents and conditions of an epoch's rows; valid: of those held out.
    """

    name = "decoder"
    progress = 0.0
    estimated_share = 0.75

    def __init__(
        self,
        autoencoder: TextAutoencoder,
        diffusion: LatentDiffusionModel | None,
        train: Callable[[int], tuple[TokenStore, VectorStore, ConditionStore]],
        valid: tuple[TokenStore, VectorStore, ConditionStore],
        config: Any,
        guidance_scale: float = 1.0,
        times: tuple[float, float] = (0.4, 0.8),
    ):
        self.module, self.diffusion, self.config = autoencoder, diffusion, config
        self.guidance_scale, self.times = guidance_scale, times
        self._train, self.valid = train, valid
        self.tokens, self.latents, self.conditions = train(0)
        autoencoder.requires_grad_(False)
        for part in trained_for_decoding(autoencoder):
            part.requires_grad_(True)
        if diffusion is not None:
            diffusion.eval().requires_grad_(False)

    def batches(self, epoch: int) -> list[list[int]]:
        self.tokens, self.latents, self.conditions = self._train(epoch)
        return epoch_batches(self.tokens.lengths.tolist(), self.config, epoch)

    def load(self, rows: list[int]) -> tuple[dict[str, Tensor], DiffusionBatch]:
        index = torch.tensor(rows)
        return self.tokens.gather(index), _diffusion_batch(self.latents, self.conditions, index, index[:1])

    def loss(self, batch: tuple[dict[str, Tensor], DiffusionBatch]) -> tuple[Tensor, dict[str, Tensor | float]]:
        tokens, latents = batch
        z0 = self._corrupted(latents)
        loss, metrics = self.module.decoding_loss(
            Latents(z0 * latents.mask[..., None], latents.mask), tokens["input_ids"], tokens["attention_mask"]
        )
        return loss, {**metrics, "num_tokens": tokens["attention_mask"].sum()}

    def validate(self) -> dict[str, float]:
        tokens, latents, conditions = self.valid

        def loss(batch: dict[str, Tensor], rows: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
            device = batch["input_ids"].device
            return self.loss((batch, _diffusion_batch(latents, conditions, rows, rows[:1]).to(device)))

        return _mean_metrics(self.module, tokens, loss)

    def sample(self) -> list[str]:
        return []

    @torch.no_grad()
    def _corrupted(self, batch: DiffusionBatch) -> Tensor:
        z0, mask = batch.z0, batch.mask
        rows = len(z0)
        scales = self.module.config.latent_noise * torch.rand(rows, 1, 1, device=z0.device)
        noised = z0 + scales * torch.randn_like(z0)
        if self.diffusion is None:
            return noised
        self.diffusion.to(z0.device)
        chosen = (torch.rand(rows, device=z0.device) < self.estimated_share).nonzero()[:, 0]
        if not len(chosen):
            return noised
        return noised.index_copy(
            0, chosen, self._estimated(z0[chosen], mask[chosen], batch.condition[chosen]).to(noised)
        )

    def _estimated(self, z0: Tensor, mask: Tensor, raw: RawCondition) -> Tensor:
        """What the sampler would hand on at a random level each: guided, and with its own last estimate to go by."""
        assert self.diffusion is not None
        raw = self.diffusion.condition.drop(raw)
        low, high = self.times
        level = self.diffusion.schedule.level(low + (high - low) * torch.rand(len(z0), device=z0.device))
        return noised_estimate(self.diffusion, z0, mask, raw, level, torch.randn_like(z0), self.guidance_scale)


def drawn_texts(
    diffusion: LatentDiffusionModel,
    autoencoder: TextAutoencoder,
    raw: RawCondition,
    count: int,
    sampling: SamplingConfig,
) -> list[str]:
    """One text for each of `count` conditions, by seeds 0, 1, 2, ...: what a stage shows of itself."""
    noise = SampleNoise(range(count))
    lengths = draw_lengths(diffusion, raw, noise, sampling)
    drawn = draw_latents(diffusion, raw, noise, lengths, sampling)
    return autoencoder.backbone.detokenize(autoencoder.decode(drawn, sampling.decoder))


def trained_for_decoding(autoencoder: TextAutoencoder) -> list[torch.nn.Module]:
    """The backbone's decoder but for the embeddings, which the encoder shares; where it is frozen, the way to it."""
    backbone, bottleneck = autoencoder.config.backbone, autoencoder.bottleneck
    if backbone.pretrained and not backbone.train_decoder:
        parts: list[torch.nn.Module] = [bottleneck.up, bottleneck.layers, bottleneck.norm_out]
    else:
        decoder = autoencoder.backbone.model.get_decoder()
        parts = [module for module in decoder.children() if not isinstance(module, torch.nn.Embedding)]
    if autoencoder.parallel_decoder is not None:
        parts.append(autoencoder.parallel_decoder)
    return parts


def _diffusion_batch(
    latents: VectorStore, conditions: ConditionStore, rows: Tensor, length_rows: Tensor
) -> DiffusionBatch:
    z0, mask = latents.gather(rows)
    return DiffusionBatch(
        z0, mask, conditions.gather(rows), latents.lengths[length_rows], conditions.gather(length_rows)
    )


def _to_device(batch: dict[str, Tensor], module: torch.nn.Module) -> dict[str, Tensor]:
    device = next(module.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _mean_metrics(module: torch.nn.Module, tokens: TokenStore, loss: Any) -> dict[str, float]:
    """Means over the validation texts, weighted by rows."""
    sums: dict[str, float] = {}
    for rows in torch.arange(len(tokens.lengths)).split(64):
        for name, value in loss(_to_device(tokens.gather(rows), module), rows)[1].items():
            if name != "num_tokens":
                sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
    return {name: value / len(tokens.lengths) for name, value in sums.items()}
