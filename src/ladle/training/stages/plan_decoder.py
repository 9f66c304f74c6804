"""Stage `autoencoder` of plan latents: the decoder learns to write a text from its plan at every noise level."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.language import LanguageDecoder
from ladle.autoencoder.plan_loss import PlanDecodingConfig, draw_level, plan_decoding_loss
from ladle.conditioning.decoder import read_conditions
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.store import ConditionStore
from ladle.data.batching import epoch_batches
from ladle.data.stores import TokenStore, VectorStore
from ladle.diffusion.schedule import Level, ScheduleConfig, build_schedule
from ladle.sampling.words import decode_texts
from ladle.seeding import SampleNoise
from ladle.training.optimiser import TrainingConfig
from ladle.training.stages.diffusion import NUM_SAMPLES
from ladle.training.stages.interface import mean_metrics, to_device

# Diffusion times at which held-out texts are scored: nearly clean, in the middle, nearly pure noise.
VALID_TIMES = {"clean_loss": 0.02, "autoregressive_loss": 0.3, "noise_loss": 0.98}


class PlanBatch(NamedTuple):
    """Texts input_ids [B, S] with mask [B, S], their plans z0 [B, L, D], and their conditions."""

    input_ids: Tensor
    mask: Tensor
    z0: Tensor
    condition: RawCondition


class PlanDecoderStage:
    """Cross-entropy of texts from their noised plans. The sentence encoder is frozen, so each text is encoded once.

    train: tokens, plans and conditions of an epoch's rows. valid: those of the held-out rows.
    """

    name = "autoencoder"
    progress = 0.0

    def __init__(
        self,
        autoencoder: TextAutoencoder,
        train: Callable[[int], tuple[TokenStore, VectorStore, ConditionStore]],
        valid: tuple[TokenStore, VectorStore, ConditionStore],
        settings: TrainingConfig,
        objective: PlanDecodingConfig,
        *,
        drop_prob: float,
    ):
        self.module, self.settings, self.objective, self.drop_prob = autoencoder, settings, objective, drop_prob
        decoder = autoencoder.backbone.model.get_decoder()
        if isinstance(decoder, LanguageDecoder):
            decoder.set_dropout(objective.dropout)
        self._train, self.valid = train, valid
        self.tokens, self.plans, self.conditions = train(0)
        autoencoder.requires_grad_(True)
        for encoder in (autoencoder.backbone.model.get_encoder(), autoencoder.sentence_encoder):
            if isinstance(encoder, nn.Module):
                encoder.requires_grad_(False)

    def batches(self, epoch: int) -> list[list[int]]:
        self.tokens, self.plans, self.conditions = self._train(epoch)
        return epoch_batches(self.tokens.lengths.tolist(), self.settings, epoch)

    def load(self, rows: list[int]) -> PlanBatch:
        return plan_batch(self.tokens, self.plans, self.conditions, torch.tensor(rows))

    def loss(self, batch: PlanBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        level = draw_level(self.objective, len(batch.z0), batch.z0.device)
        condition = batch.condition.dropped(self.drop_prob)
        loss, metrics = self._decoding_loss(batch, level, condition)
        return loss, {**metrics, "num_tokens": batch.mask.sum()}

    def validate(self) -> dict[str, float]:
        schedule = build_schedule(ScheduleConfig())

        def metrics(rows: Tensor) -> dict[str, Tensor]:
            batch = to_device(plan_batch(*self.valid, rows), self.module)
            found = {}
            for name, time in VALID_TIMES.items():
                level = schedule.level(torch.full((len(rows),), time, device=batch.z0.device))
                found[name] = self._decoding_loss(batch, level, batch.condition)[0]
            return found

        return mean_metrics(len(self.valid[0].lengths), 64, metrics)

    def sample(self) -> list[str]:
        _, plans, conditions = self.valid
        rows = torch.arange(min(NUM_SAMPLES, len(plans)))
        z0 = list(plans.gather(rows)[0])
        noise = [SampleNoise([seed]) for seed in range(len(rows))]
        how: dict[str, Any] = {"do_sample": True, "top_p": 0.9}
        part = conditions.of_rows(rows)
        return decode_texts(self.module, z0, None, 32, noise, [None] * len(rows), part, **how)

    def _decoding_loss(
        self, batch: PlanBatch, level: Level, condition: RawCondition
    ) -> tuple[Tensor, dict[str, Tensor]]:
        read = read_conditions(self.module, condition, len(batch.z0))
        eps = torch.randn_like(batch.z0)
        return plan_decoding_loss(self.module, batch.z0, batch.input_ids, batch.mask, level, eps, read)


def plan_batch(tokens: TokenStore, plans: VectorStore, conditions: ConditionStore, rows: Tensor) -> PlanBatch:
    """Texts, plans and conditions of `rows`."""
    texts = tokens.gather(rows)
    return PlanBatch(texts["input_ids"], texts["attention_mask"], plans.gather(rows)[0], conditions.gather(rows))
