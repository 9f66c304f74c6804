"""Stage `joint`: trains encoder, denoiser and decoder together, and keeps the latents from collapsing.

L = L_reconstruction + L_KL + diffusion_scale * L_diffusion. By itself the diffusion loss asks the encoder for latents
that are easy to denoise, and the easiest hold no information, or hold it in very small values. Known remedies (LDLM;
benchmarks/LOG.md has the effect of each): the gradient reaches the encoder late (`encoder_warmup`) and weakened
(`encoder_scale`), the decoder reads noised latents (`training.autoencoder.latent_noise`), times are drawn where the
error changes (`training.diffusion.times = "adaptive"`), and latents stay near their first values (`reference_scale`).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from ladle.autoencoder.encoding import store_tokens
from ladle.autoencoder.reconstruction import ReconstructionConfig, noised_decoding_loss, training_latents
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.source_text import SourceReader
from ladle.config import Config
from ladle.data.batching import epoch_batches
from ladle.data.row_portions import PerPortion
from ladle.data.rows import Row
from ladle.data.stores import TokenStore
from ladle.diffusion.loss import DenoisingLoss, DiffusionBatch
from ladle.errors import LadleError
from ladle.sampling.options import SamplingOptions
from ladle.training.optimiser import TrainingConfig
from ladle.training.stages.diffusion import NUM_SAMPLES, drawn_texts
from ladle.training.stages.interface import mean_metrics, to_device

NUM_LENGTH_ROWS = 64  # fewer than over cached latents: their sources are encoded at every step
WARMUP_STEEPNESS = 10.0
# A training ends with an error when a measure falls below this share of its highest value so far: held-out tokens
# reconstructed, directions in which latents vary, spread of latents (benchmarks/LOG.md).
MIN_ACCURACY, MIN_DIRECTIONS, MIN_SPREAD = 0.5, 0.2, 0.5


class JointConfig(Config):
    """How stage `joint` combines the losses."""

    diffusion_scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Weight of the diffusion loss."""
    encoder_scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Scale of the diffusion loss's gradient in the encoder, at the end of the stage. With 0 the encoder learns only to
    reconstruct."""
    encoder_warmup: float = Field(0.3, ge=0, lt=1)
    """Point of the stage (0 to 1) at which the gradient scale has reached half its final value, `encoder_scale`. The
    scale rises as a sigmoid. 0 uses the final value from the first step."""
    reference_scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Weight of the mean squared distance between a text's latents now and its latents when the stage began. Give 0 if
    the autoencoder had learnt nothing before the stage."""
    stop_collapsed: bool = True
    """Whether the training ends with an error when latents collapse."""

    def encoder_share(self, progress: float) -> float:
        """The factor of the diffusion loss's gradient in the encoder when the share `progress` of the stage is done."""
        if not self.encoder_warmup:
            return self.encoder_scale
        return self.encoder_scale / (1 + math.exp(-WARMUP_STEEPNESS * (progress / self.encoder_warmup - 1)))


class JointBatch(NamedTuple):
    """tokens: input_ids and attention_mask, [B, S]. condition: its sources are token ids [B, M], not yet read.
    lengths: [R] numbers of latents of other rows, with their conditions `length_condition`."""

    tokens: dict[str, Tensor]
    condition: RawCondition
    lengths: Tensor
    length_condition: RawCondition


class JointRows:
    """Tokens and conditions of all rows."""

    def __init__(self, reader: SourceReader, rows: Sequence[Row]):
        autoencoder, config = reader.autoencoder, reader.config
        self.tokens = store_tokens(autoencoder, [row["text"] for row in rows])
        self.num_latents = autoencoder.num_latents(self.tokens.lengths)
        self.label_ids = config.label_ids([row.get("label") for row in rows]) if config.labels else None
        self.attribute_ids = None
        if config.attributes:
            self.attribute_ids = config.attribute_ids([row.get("attributes", {}) for row in rows])
        self.sources = self.with_source = None
        sources = [row.get("source") for row in rows]
        if config.source and any(sources):
            self.with_source = torch.tensor([bool(source) for source in sources])
            self.sources = TokenStore(reader.tokenizer, [source or "" for source in sources], reader.max_tokens)

    def condition(self, rows: Tensor) -> RawCondition:
        """rows [B] -> their conditions, with token ids in the place of the sources' memory."""
        raw = RawCondition(
            None if self.label_ids is None else self.label_ids[rows],
            attribute_ids=None if self.attribute_ids is None else self.attribute_ids[rows],
        )
        if self.sources is None or self.with_source is None:
            return raw
        tokens = self.sources.gather(rows)
        mask = tokens["attention_mask"] & self.with_source[rows, None]
        return replace(raw, source=tokens["input_ids"], source_mask=mask)

    def batch(self, rows: Tensor, length_rows: Tensor) -> JointBatch:
        """rows [B] -> their batch. The length model learns from `length_rows`."""
        lengths, length_condition = self.num_latents[length_rows], self.condition(length_rows)
        return JointBatch(self.tokens.gather(rows), self.condition(rows), lengths, length_condition)


class JointModel(nn.Module):
    """Both halves as one module, for one optimiser and one average of weights."""

    best: Tensor

    def __init__(
        self, reader: SourceReader, denoising: DenoisingLoss, config: JointConfig, reconstruction: ReconstructionConfig
    ):
        super().__init__()
        self.autoencoder, self.config, self.reconstruction = reader.autoencoder, config, reconstruction
        self.denoising, self.reader = denoising, reader
        self.reference = copy.deepcopy(self.autoencoder).requires_grad_(False) if config.reference_scale else None
        # The highest values of the measures of collapse (tokens, directions, spread), saved with the weights.
        self.register_buffer("best", torch.zeros(3))

    def loss(self, batch: JointBatch, progress: float = 1.0) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The sum of all losses. `progress` is the share of the stage that is done."""
        objective = self.reconstruction
        latents, divergence, metrics = training_latents(self.autoencoder, batch.tokens, objective, progress)
        reconstruction, of_decoders = noised_decoding_loss(self.autoencoder, latents, batch.tokens, objective)
        share = self.config.encoder_share(progress)
        # The value is z0's; of the gradient a part passes.
        z0 = latents.values.float()
        z0 = z0.detach() + share * (z0 - z0.detach())
        condition, length_condition = self.encoded(batch.condition), self.encoded(batch.length_condition)
        latents_of_rows = DiffusionBatch(z0, latents.mask, condition, batch.lengths, length_condition)
        diffusion, of_diffusion = self.denoising(latents_of_rows, progress)
        loss = reconstruction + divergence + self.config.diffusion_scale * diffusion
        if self.reference is not None:
            with torch.no_grad():
                wanted = self.reference.encode(**batch.tokens).values
            distance = (latents.values - wanted)[latents.mask].square().mean()
            loss = loss + self.config.reference_scale * distance
            metrics["reference_distance"] = distance.detach()
        return loss, {**of_decoders, **metrics, **of_diffusion, "encoder_share": share}

    @torch.no_grad()
    def encoded(self, raw: RawCondition) -> RawCondition:
        """Conditions with sources as the encoder reads them now. No gradient of theirs reaches the encoder."""
        if raw.source is None or raw.source_mask is None:
            return raw
        readable = raw.source_mask | (torch.arange(raw.source.shape[1], device=raw.source.device) == 0)
        memory, mask = self.reader.read({"input_ids": raw.source, "attention_mask": readable})
        return replace(raw, source=memory.float(), source_mask=mask & raw.source_mask.any(1, keepdim=True))


class JointStage:
    """The three losses over texts. The encoder runs at every step.

    train: gives the rows of an epoch.
    """

    name = "joint"
    progress = 0.0

    def __init__(
        self,
        reader: SourceReader,
        denoising: DenoisingLoss,
        train: Callable[[int], Sequence[Row]],
        valid: Sequence[Row],
        settings: TrainingConfig,
        joint: JointConfig,
        reconstruction: ReconstructionConfig,
        sampling: SamplingOptions,
    ):
        self.module = JointModel(reader, denoising, joint, reconstruction)
        self.settings = settings
        self._rows_of = PerPortion(train, lambda rows: JointRows(reader, rows))
        self.train_rows, self.valid_rows = self._rows_of(0), JointRows(reader, valid[:256])
        self.sampling = sampling.to_the_end()  # the decoder is not adapted yet
        if denoising.model.length is not None:
            denoising.model.length.fit_base(self.train_rows.num_latents)

    def batches(self, epoch: int) -> list[list[int]]:
        self.train_rows = self._rows_of(epoch)
        return epoch_batches(self.train_rows.tokens.lengths.tolist(), self.settings, epoch)

    def load(self, rows: list[int]) -> JointBatch:
        count = len(self.train_rows.num_latents)
        return self.train_rows.batch(torch.tensor(rows), torch.randint(count, (min(NUM_LENGTH_ROWS, count),)))

    def loss(self, batch: JointBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, metrics = self.module.loss(batch, self.progress)
        return loss, {**metrics, "num_tokens": batch.tokens["attention_mask"].sum()}

    def validate(self) -> dict[str, float]:
        latents = []

        def metrics_of(rows: Tensor) -> dict[str, Tensor | float]:
            batch = to_device(self.valid_rows.batch(rows, rows), self.module)
            found = self.module.loss(batch)[1]
            z0 = self.module.autoencoder.encode(**batch.tokens)
            latents.append(z0.values.float()[z0.mask])
            return found

        metrics = mean_metrics(len(self.valid_rows.num_latents), 64, metrics_of)
        del metrics["encoder_share"]
        held_out = torch.cat(latents)
        metrics["directions"] = num_directions(held_out)
        # In units of the normaliser: it follows too slowly to hide that latents shrink.
        metrics["spread"] = float(held_out.std(0, correction=0).mean())
        self._stop_collapsed(metrics)
        return metrics

    def sample(self) -> list[str]:
        module, rows = self.module, torch.arange(min(NUM_SAMPLES, len(self.valid_rows.num_latents)))
        raw = module.encoded(self.valid_rows.condition(rows).to(module.best.device))
        return drawn_texts(module.denoising.model, module.autoencoder, raw, len(rows), self.sampling)

    def _stop_collapsed(self, metrics: dict[str, float]) -> None:
        best = self.module.best
        now = [metrics[name] for name in ("autoregressive_accuracy", "directions", "spread")]
        best.copy_(torch.maximum(best, torch.tensor(now, device=best.device)))
        most, least = best.tolist(), (MIN_ACCURACY, MIN_DIRECTIONS, MIN_SPREAD)
        collapsed = any(value < share * top for value, share, top in zip(now, least, most, strict=True))
        if self.module.config.stop_collapsed and collapsed:
            raise LadleError(
                f"joint: the latents collapse: {now[0]:.0%} of held-out tokens are reconstructed (best "
                f"{most[0]:.0%}), latents vary in {now[1]:.1f} directions (best {most[1]:.1f}) by {now[2]:.2f} units "
                f"(best {most[2]:.2f}); give training.joint.reference_scale=1, a lower training.joint.encoder_scale, a "
                "higher training.joint.encoder_warmup or training.autoencoder.latent_noise, and another --output"
            )


def num_directions(latents: Tensor) -> float:
    """The number of directions in which latents [N, D] vary: the participation ratio of the eigenvalues l of their
    covariance, (sum of l)^2 / sum of l^2, from 1 to D; 0 if nothing varies."""
    values = torch.linalg.eigvalsh(torch.cov(latents.double().T).reshape(latents.shape[1], -1)).clamp_min(0)
    squares = float(values.square().sum())
    return float(values.sum()) ** 2 / squares if squares else 0.0
