"""Stage `decoder`: trains the decoder on latents with the denoiser's errors. Encoder and denoiser are frozen."""

from collections.abc import Callable

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.autoencoder.reconstruction import ReconstructionConfig, decoding_loss
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.store import ConditionStore
from ladle.data.batching import epoch_batches
from ladle.data.stores import TokenStore, VectorStore
from ladle.diffusion.loss import DiffusionBatch
from ladle.diffusion.model import LatentDiffusionModel
from ladle.sampling.soundness import noised_estimate
from ladle.training.optimiser import TrainingConfig
from ladle.training.stages.diffusion import diffusion_batch
from ladle.training.stages.interface import mean_metrics, to_device


class DecoderStage:
    """Adapts the way from latents to text to the denoiser's estimates (decoder adaptation, as in BLD and others).

    A quarter of the texts is decoded from z0 with Gaussian noise. For the others, z0 is noised to a level, and the
    frozen denoiser's estimate of z0 is decoded: a mean over all that is still possible at that level. So the sampler
    may stop early (`LatentDraw.stop_time`) and leave the choice between neighbouring words to the decoder, which knows
    how words fit together. The encoder is frozen, so that latents keep their meaning.

    train: tokens, latents and conditions of an epoch's rows. valid: those of the held-out rows.
    """

    name = "decoder"
    progress = 0.0
    estimated_share = 0.75

    def __init__(
        self,
        autoencoder: TextAutoencoder,
        diffusion: LatentDiffusionModel,
        train: Callable[[int], tuple[TokenStore, VectorStore, ConditionStore]],
        valid: tuple[TokenStore, VectorStore, ConditionStore],
        settings: TrainingConfig,
        objective: ReconstructionConfig,
        *,
        drop_prob: float,
        guidance_scale: float = 1.0,
        times: tuple[float, float] = (0.4, 0.8),
    ):
        self.module, self.settings, self.objective = autoencoder, settings, objective
        self.diffusion = diffusion.eval().requires_grad_(False)
        self.drop_prob, self.guidance_scale, self.times = drop_prob, guidance_scale, times
        self._train, self.valid = train, valid
        self.tokens, self.latents, self.conditions = train(0)
        parts = trained_for_decoding(autoencoder)
        autoencoder.requires_grad_(False)
        for part in parts:
            part.requires_grad_(True)

    def batches(self, epoch: int) -> list[list[int]]:
        self.tokens, self.latents, self.conditions = self._train(epoch)
        return epoch_batches(self.tokens.lengths.tolist(), self.settings, epoch)

    def load(self, rows: list[int]) -> tuple[dict[str, Tensor], DiffusionBatch]:
        index = torch.tensor(rows)
        return self.tokens.gather(index), diffusion_batch(self.latents, self.conditions, index, index[:1])

    def loss(self, batch: tuple[dict[str, Tensor], DiffusionBatch]) -> tuple[Tensor, dict[str, Tensor | float]]:
        tokens, latents = batch
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        corrupted = Latents(self._corrupted(latents) * latents.mask[..., None], latents.mask)
        loss, metrics = decoding_loss(self.module, corrupted, ids, mask, self.objective)
        return loss, {**metrics, "num_tokens": mask.sum()}

    def validate(self) -> dict[str, float]:
        tokens, latents, conditions = self.valid

        def metrics(rows: Tensor) -> dict[str, Tensor | float]:
            batch = tokens.gather(rows), diffusion_batch(latents, conditions, rows, rows[:1])
            return self.loss(to_device(batch, self.module))[1]

        return mean_metrics(len(tokens.lengths), 64, metrics)

    def sample(self) -> list[str]:
        return []

    @torch.no_grad()
    def _corrupted(self, batch: DiffusionBatch) -> Tensor:
        z0, mask = batch.z0, batch.mask
        scales = self.objective.latent_noise * torch.rand(len(z0), 1, 1, device=z0.device)
        noised = z0 + scales * torch.randn_like(z0)
        self.diffusion.to(z0.device)
        chosen = (torch.rand(len(z0), device=z0.device) < self.estimated_share).nonzero()[:, 0]
        if not len(chosen):
            return noised
        estimated = self._estimated(z0[chosen], mask[chosen], batch.condition[chosen])
        return noised.index_copy(0, chosen, estimated.to(noised))

    def _estimated(self, z0: Tensor, mask: Tensor, raw: RawCondition) -> Tensor:
        """The estimates that a sampler would return at random levels, with guidance and self-conditioning."""
        raw = raw.dropped(self.drop_prob)
        low, high = self.times
        level = self.diffusion.schedule.level(low + (high - low) * torch.rand(len(z0), device=z0.device))
        return noised_estimate(self.diffusion, z0, mask, raw, level, torch.randn_like(z0), self.guidance_scale)


def trained_for_decoding(autoencoder: TextAutoencoder) -> list[torch.nn.Module]:
    """The modules that the stage trains: the parallel decoder, and the backbone's decoder without its embeddings, which
    the encoder shares. If that decoder is frozen, the modules from latents to memory take its place."""
    decoder, bottleneck = autoencoder.backbone.model.get_decoder(), autoencoder.bottleneck
    parts: list[torch.nn.Module] = [part for part in decoder.children() if not isinstance(part, torch.nn.Embedding)]
    if not any(parameter.requires_grad for part in parts for parameter in part.parameters()):
        parts = [bottleneck.up, bottleneck.layers, bottleneck.norm_out]
    if autoencoder.parallel_decoder is not None:
        parts.append(autoencoder.parallel_decoder)
    return parts
