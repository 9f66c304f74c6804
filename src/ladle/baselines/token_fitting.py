"""Trains the diffusion over tokens with Ladle's own loop and loss."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ladle.baselines.fitting import best_of
from ladle.baselines.inputs import known_conditions
from ladle.baselines.token_diffusion import TokenDiffusionConfig, TokenDiffusionModel, cross_entropy
from ladle.data.batching import epoch_batches
from ladle.data.rows import Row
from ladle.diffusion.loss import DenoisingConfig, DenoisingLoss, DiffusionBatch
from ladle.diffusion.prediction import add_noise
from ladle.diffusion.schedule import ScheduleConfig
from ladle.training.optimiser import TrainingConfig
from ladle.training.progress import say
from ladle.training.stages.interface import mean_metrics, to_device
from ladle.training.state import digest

LEARNING_RATES = (5e-4, 1e-3, 2e-3)
# name -> schedule and times: those that follow the cross-entropy, Diffusion-LM's, and the paper's with more noise.
SCHEDULES: dict[str, tuple[ScheduleConfig, Literal["uniform", "adaptive"]]] = {
    "adaptive": (ScheduleConfig(shift=2.0), "adaptive"),
    "sqrt": (ScheduleConfig(kind="sqrt", shift=2.0), "uniform"),
    "cosine": (ScheduleConfig(shift=2.0), "uniform"),
}
LENGTH_ROWS = 256  # from which the length model learns at a step
SHOWN = 32  # texts that the training shows
VALIDATED = 512  # rows
LOG_SNRS = (-8.0, 4.0)  # between which the held-out cross-entropy is measured


def train_token_diffusion(
    config: TokenDiffusionConfig,
    tokenizer: Any,
    train: Sequence[Row],
    valid: Sequence[Row],
    output: Path,
    settings: TrainingConfig,
    learning_rates: Sequence[float] = LEARNING_RATES,
    schedules: Sequence[str] = tuple(SCHEDULES),
    log: Callable[[str], None] = say,
) -> TokenDiffusionModel:
    """Train under `output`; the model is in `output`/final. A repeated call continues after an interruption.

    Short trials choose the learning rate and then one of SCHEDULES, by the lowest held-out cross-entropy. The rest of
    the budget trains with the best. The result is the averaged weights with the lowest held-out cross-entropy.

    Args:
        config: sizes; labels, source, schedule and times are set.
        settings: budget and other settings for all trainings together; `lr` is replaced.
    """
    labels = tuple(sorted({row["label"] for row in train if "label" in row}))
    config = config.model_copy(update={"labels": labels, "source": any("source" in row for row in train)})
    rows = digest([[row["text"], row.get("label"), row.get("source")] for row in train])

    def build(chosen: Mapping[str, Any]) -> TokenDiffusionModel:
        schedule, times = SCHEDULES[chosen["schedule"]]
        return TokenDiffusionModel(config.model_copy(update={"schedule": schedule, "times": times}), tokenizer)

    model, info, _ = best_of(
        {"learning rate": learning_rates, "schedule": schedules},
        build,
        lambda new, own: TokenDiffusionStage(new, train, valid, own),
        output, settings, {"data.rows": rows}, "nats per token", log,
    )  # fmt: skip
    model.info = info
    model.save_pretrained(output / "final")
    return model


def token_config_of_size(num_parameters: int, tokenizer: Any, config: TokenDiffusionConfig) -> TokenDiffusionConfig:
    """The same config with the sizes of a model of nearly `num_parameters` parameters, at a usual ratio of width to
    depth (32 to 96)."""

    def sized(width: int, num_layers: int) -> TokenDiffusionConfig:
        changed = {"width": width, "num_layers": num_layers, "num_heads": width // (64 if width % 64 == 0 else 32)}
        return config.model_copy(update={"network": config.network.model_copy(update=changed)})

    def count(width: int, num_layers: int) -> int:
        with torch.device("meta"):  # without memory or random numbers
            return TokenDiffusionModel(sized(width, num_layers), tokenizer).num_parameters

    best = None
    for width in range(64, 1025, 32):
        few, more = (count(width, layers) for layers in (4, 5))  # every layer has as many
        wanted = round(4 + (num_parameters - few) / (more - few))
        layers = min(max(wanted, 1, width // 96), max(1, width // 32))
        error = abs((few + (layers - 4) * (more - few)) / num_parameters - 1)
        if best is None or error < best[0]:
            best = error, sized(width, layers)
    assert best is not None
    return best[1]


class TokenDiffusionStage:
    """Rows with `text` and, where they have them, `label` and `source`, for `ladle.training.loop`."""

    name = "token-diffusion"
    progress = 0.0

    def __init__(self, model: TokenDiffusionModel, train: Sequence[Row], valid: Sequence[Row], config: Any):
        self.model, self.config = model, config
        times = DenoisingConfig(times=model.config.times, drop_prob=model.config.drop_prob)
        self.module = DenoisingLoss(model, times, cross_entropy, model.adaptive_times)
        self.train, self.valid = _Encoded(model, train), _Encoded(model, (valid or train)[:VALIDATED])
        model.start_from_counts(self.train.texts)

    def batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches(self.train.sizes, self.config, epoch)

    def load(self, rows: list[int]) -> DiffusionBatch:
        others = torch.randint(len(self.train.texts), (min(LENGTH_ROWS, len(self.train.texts)),))
        return self.train.batch(torch.tensor(rows), others)

    def loss(self, batch: DiffusionBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, metrics = self.module(self.model.with_vectors(batch), self.progress)
        return loss, {**metrics, "num_tokens": batch.mask.sum()}

    def validate(self) -> dict[str, float]:
        """nll: cross-entropy of a token of held-out texts, a mean over log-SNRs that are spread evenly, so that
        schedules can be compared."""

        def metrics(rows: Tensor) -> dict[str, Tensor]:
            batch = self.model.with_vectors(to_device(self.valid.batch(rows, rows), self.module))
            return {"nll": self._nats_at_every_level(batch).detach()}

        return mean_metrics(len(self.valid.texts), 64, metrics)

    def sample(self) -> list[str]:
        count = min(SHOWN, len(self.valid.texts))
        return self.model.generate(count, **{name: values[:count] for name, values in self.valid.given.items()})

    def _nats_at_every_level(self, batch: DiffusionBatch) -> Tensor:
        model, rows, (low, high) = self.model, len(batch.mask), LOG_SNRS
        share = (torch.rand(()) + torch.randperm(rows) / rows) % 1.0
        level = model.own_schedule.level_from_log_snr(low + (high - low) * share).to(batch.z0.device)
        zt = add_noise(batch.z0, torch.randn_like(batch.z0), level)
        condition = model.condition.encode(batch.condition, rows)
        logits = model.denoiser.logits(zt, level.log_snr, mask=batch.mask, condition=condition)
        assert batch.ids is not None
        return F.cross_entropy(logits[batch.mask], batch.ids[batch.mask])


class _Encoded:
    """Rows as token ids and conditions."""

    def __init__(self, model: TokenDiffusionModel, rows: Sequence[Row]):
        self.model, self.texts = model, model.encode([row["text"] for row in rows])
        self.given = known_conditions(rows, model.config)
        self.raw = model.raw_condition(self.given["label"], self.given["source"])
        self.lengths = torch.tensor([len(text) for text in self.texts])
        read = 0 if self.raw.source_ids_mask is None else self.raw.source_ids_mask.sum(1)
        self.sizes = (self.lengths + read).tolist()  # positions that a row takes in a batch

    def batch(self, rows: Tensor, others: Tensor) -> DiffusionBatch:
        """The batch of some rows, without the vectors. The length model learns from `others`."""
        texts = [self.texts[row] for row in rows.tolist()]
        return self.model.batch(texts, self.raw[rows], self.lengths[others], self.raw[others])
