"""Trains the classifier of prefixes that steers the rival, with Ladle's own loop and the rival's choice of a rate."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ladle.baselines.autoregressive import AutoregressiveModel
from ladle.baselines.fitting import best_of
from ladle.baselines.guided import PrefixClassifier, PrefixClassifierConfig, fingerprint
from ladle.data.batching import epoch_batches
from ladle.data.rows import Row
from ladle.errors import UserError
from ladle.layers import lengths_to_mask
from ladle.training.optimiser import TrainingConfig
from ladle.training.progress import say
from ladle.training.state import digest

LEARNING_RATES = (2e-3, 4e-3, 8e-3)
Labelled = tuple[list[int], int]  # ids of a text with its end token, number of its label


def train_prefix_classifier(
    model: AutoregressiveModel,
    train: Sequence[Row],
    valid: Sequence[Row],
    output: Path,
    settings: TrainingConfig,
    learning_rates: Sequence[float] = LEARNING_RATES,
    log: Callable[[str], None] = say,
    **sizes: Any,
) -> PrefixClassifier:
    """Train under `output`; the classifier is in `output`/final. A repeated call continues after an interruption.

    Each learning rate gets a short trial, as in `train_autoregressive`. The result is the averaged weights with the
    lowest held-out loss (nats per prefix).

    Args:
        model: the language model that will be steered. Its tokenizer is used, its weights are not.
        train, valid: rows; those without a label are passed over.
        settings: budget and other settings for all trainings together; `lr` is replaced.
        sizes: fields of `PrefixClassifierConfig`, instead of their defaults.

    Raises:
        UserError: fewer than two labels in the training rows; as `train_stage`.
    """
    labels = labels_of(train)
    vocabulary = {"vocab_size": len(model.tokenizer), "vocabulary": fingerprint(model.tokenizer)}
    config = PrefixClassifierConfig.parse({**vocabulary, "labels": labels, **sizes})
    rows = _encode(model, labels, train)
    held = _encode(model, labels, [row for row in valid if row.get("label") in labels])

    def build(chosen: Mapping[str, Any]) -> PrefixClassifier:
        classifier = PrefixClassifier(config)
        classifier.known.zero_()[torch.tensor(sorted({token for ids, _ in rows for token in ids}))] = True
        return classifier

    classifier, info, metrics = best_of(
        {"learning rate": learning_rates}, build, lambda new, own: PrefixClassifierStage(new, rows, held, own), output,
        settings, {"model": config, "data.rows": digest(rows)}, "nats per prefix", log,
    )  # fmt: skip
    classifier.info = info | {"held_out": {name: metrics[name] for name in ("nll", "accuracy")}}
    classifier.save_pretrained(output / "final")
    return classifier


def classifier_settings(**budget: Any) -> TrainingConfig:
    """How these classifiers are trained. budget: `minutes` or `steps`, `seed`."""
    return TrainingConfig(cooldown=0.5, warmup=0.02, validate_every=0.1, sample_every=0.0, **budget)


def labels_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """The labels of the rows, sorted. UserError: fewer than two."""
    labels = tuple(sorted({row["label"] for row in rows if "label" in row}))
    if len(labels) < 2:
        found = f"all rows have the label '{labels[0]}'" if labels else "no training row has a label"
        raise UserError(f"a classifier that steers needs rows with two labels or more; {found}")
    return labels


class PrefixClassifierStage:
    """Texts with their labels, for `ladle.training.loop`."""

    name = "prefix-classifier"
    progress = 0.0

    def __init__(
        self, module: PrefixClassifier, train: Sequence[Labelled], valid: Sequence[Labelled], config: TrainingConfig
    ):
        self.module, self.config = module, config
        self.train_rows, self.valid_rows = train, valid or train[:512]

    def batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches([len(ids) for ids, _ in self.train_rows], self.config, epoch)

    def load(self, rows: list[int]) -> dict[str, Tensor]:
        return _batch([self.train_rows[row] for row in rows])

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Cross-entropy of the label at every prefix. A text's prefixes share one weight, so that long texts do not
        count more."""
        nll, last = _of_texts(self.module(batch["input_ids"]), batch)
        return nll.mean(), {"accuracy": last.float().mean(), "num_tokens": batch["lengths"].sum()}

    def validate(self) -> dict[str, float]:
        """nll: mean nats per prefix, every text counting equally. accuracy: share of the whole texts whose label is the
        likeliest."""
        found: list[tuple[Tensor, Tensor]] = []
        device = self.module.output.weight.device
        for start in range(0, len(self.valid_rows), 256):
            batch = {name: x.to(device) for name, x in _batch(self.valid_rows[start : start + 256]).items()}
            found.append(_of_texts(self.module(batch["input_ids"]), batch))
        nll, last = (torch.cat(part) for part in zip(*found, strict=True))
        return {"nll": float(nll.mean()), "accuracy": float(last.float().mean())}

    def sample(self) -> list[str]:
        """None: it writes no texts."""
        return []


def _encode(model: AutoregressiveModel, labels: Sequence[str], rows: Sequence[Row]) -> list[Labelled]:
    known = [row for row in rows if "label" in row]
    nothing = [None] * len(known)
    encoded = model.encode([row["text"] for row in known], nothing, nothing) if known else []
    return [(ids, labels.index(row["label"])) for (_, ids), row in zip(encoded, known, strict=True)]


def _batch(rows: Sequence[Labelled]) -> dict[str, Tensor]:
    """input_ids [B, S], filled up with 0, lengths [B] and labels [B]."""
    texts, labels = zip(*rows, strict=True)
    ids = pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    return {"input_ids": ids, "lengths": torch.tensor([len(text) for text in texts]), "labels": torch.tensor(labels)}


def _of_texts(log_shares: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """log p(label | prefix) [B, S, K] -> of each text the mean nats over its prefixes [B], and whether its own label is
    the likeliest at its end [B]."""
    lengths, labels = batch["lengths"], batch["labels"]
    own = log_shares.gather(2, labels[:, None, None].expand(-1, log_shares.shape[1], 1))[..., 0]
    nll = -(own * lengths_to_mask(lengths, log_shares.shape[1])).sum(1) / lengths
    at_end = log_shares[torch.arange(len(labels), device=labels.device), lengths - 1]
    return nll, at_end.argmax(-1) == labels
