"""Stage `diffusion`: latents <-> noise. The autoencoder does not change."""

from collections.abc import Callable

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.conditioning.decoder import read_conditions
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.store import ConditionStore
from ladle.data.batching import epoch_batches
from ladle.data.stores import VectorStore
from ladle.diffusion.loss import DenoisingLoss, DiffusionBatch
from ladle.diffusion.model import LatentDiffusionModel
from ladle.sampling.draw import draw_latents, draw_lengths
from ladle.sampling.options import SamplingOptions
from ladle.seeding import SampleNoise
from ladle.training.optimiser import TrainingConfig
from ladle.training.stages.interface import mean_metrics, to_device

NUM_SAMPLES = 32
NUM_LENGTH_ROWS = 256


class DiffusionStage:
    """The denoiser over cached latents.

    train: latents and conditions of an epoch's rows. valid: those of the held-out rows.
    """

    name = "diffusion"
    progress = 0.0

    def __init__(
        self,
        denoising: DenoisingLoss,
        autoencoder: TextAutoencoder,
        train: Callable[[int], tuple[VectorStore, ConditionStore]],
        valid: tuple[VectorStore, ConditionStore],
        settings: TrainingConfig,
        sampling: SamplingOptions,
    ):
        self.module, self.autoencoder, self.settings = denoising, autoencoder, settings
        self.sampling = sampling.to_the_end()  # the decoder is not adapted yet
        self._train, self.valid = train, valid
        self.latents, self.conditions = train(0)
        # Every stage measures batches in tokens, so that a setting always means the same. If all texts have the same
        # number of latents, a latent counts as the mean number of tokens that it holds.
        self.tokens_per_latent: float = autoencoder.bottleneck.tokens_per_latent or (
            self.latents.num_tokens / len(self.latents.vectors)
        )
        if denoising.model.length is not None:
            denoising.model.length.fit_base(self.latents.lengths)

    def batches(self, epoch: int) -> list[list[int]]:
        self.latents, self.conditions = self._train(epoch)
        lengths = (self.latents.lengths * self.tokens_per_latent).round().long()
        return epoch_batches(lengths.tolist(), self.settings, epoch)

    def load(self, rows: list[int]) -> DiffusionBatch:
        others = torch.randint(len(self.latents), (min(NUM_LENGTH_ROWS, len(self.latents)),))
        return diffusion_batch(self.latents, self.conditions, torch.tensor(rows), others)

    def loss(self, batch: DiffusionBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, metrics = self.module(batch, self.progress)
        return loss, {**metrics, "num_tokens": batch.mask.sum() * self.tokens_per_latent}

    def validate(self) -> dict[str, float]:
        def metrics(rows: Tensor) -> dict[str, Tensor]:
            return self.module(to_device(diffusion_batch(*self.valid, rows, rows), self.module))[1]

        return mean_metrics(min(1024, len(self.valid[0])), 128, metrics)

    def sample(self) -> list[str]:
        (latents, conditions), model = self.valid, self.module.model
        rows = torch.arange(min(NUM_SAMPLES, len(latents)))
        raw = conditions.gather(rows).to(model.device)
        return drawn_texts(model, self.autoencoder.to(model.device), raw, len(rows), self.sampling)


def drawn_texts(
    model: LatentDiffusionModel, autoencoder: TextAutoencoder, raw: RawCondition, count: int, sampling: SamplingOptions
) -> list[str]:
    """One text for each of `count` conditions, by seeds 0, 1, 2, ...: what a stage shows of itself."""
    noise = SampleNoise(range(count))
    lengths = draw_lengths(model, raw, noise, sampling)
    drawn = draw_latents(model, raw, noise, lengths, sampling)
    read = read_conditions(autoencoder, raw, count)
    return autoencoder.backbone.detokenize(autoencoder.decode(drawn, sampling.decoder, read=read))


def diffusion_batch(
    latents: VectorStore, conditions: ConditionStore, rows: Tensor, length_rows: Tensor
) -> DiffusionBatch:
    """Latents and conditions of `rows`; the length model learns from `length_rows`."""
    lengths, length_condition = latents.lengths[length_rows], conditions.gather(length_rows)
    return DiffusionBatch(*latents.gather(rows), conditions.gather(rows), lengths, length_condition)
