"""Trains the rival with Ladle's own loop. It picks one of three learning rates and keeps the best weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.baselines.inputs import known_conditions
from ladle.data.batching import epoch_batches
from ladle.data.columns import Columns
from ladle.data.in_memory import RowSource
from ladle.data.rows import Row, counted
from ladle.data.splits import DataConfig, load_splits
from ladle.evaluation.likelihood import TokenRow, padded
from ladle.layers import usual_defaults
from ladle.storage.kinds import SCORER
from ladle.storage.model_folder import load_parts
from ladle.storage.names import resolve_model
from ladle.storage.run_folder import run_folder
from ladle.training.loop import train_stage
from ladle.training.optimiser import TrainingConfig
from ladle.training.progress import say
from ladle.training.stages.interface import Stage
from ladle.training.state import digest

LEARNING_RATES = (2.5e-4, 5e-4, 1e-3)  # 2e-3 wins the short trials and loses the training (benchmarks/LOG.md)
TRIAL_SHARE = 0.05  # of the budget, for each of the three
Built = TypeVar("Built", bound=nn.Module)


def train_autoregressive(
    config: AutoregressiveConfig,
    tokenizer: Any,
    train: Sequence[Row],
    valid: Sequence[Row],
    output: Path,
    settings: TrainingConfig,
    learning_rates: Sequence[float] = LEARNING_RATES,
    log: Callable[[str], None] = say,
) -> AutoregressiveModel:
    """Train under `output`; the model is in `output`/final. A repeated call continues after an interruption.

    Each learning rate gets a short trial. The one with the lowest held-out loss (nats per token) gets the rest of the
    budget. The result is the averaged weights with the lowest held-out loss.

    Args:
        config: sizes; labels and source are set from the rows.
        settings: budget and other settings for all trainings together; `lr` is replaced.
    """
    labels = tuple(sorted({row["label"] for row in train if "label" in row}))
    config = config.model_copy(update={"labels": labels, "source": any("source" in row for row in train)})
    rows = digest([[row["text"], row.get("label"), row.get("source")] for row in train])
    identity = {"model": config, "data.rows": rows}

    model, info, _ = best_of(
        {"learning rate": learning_rates},
        lambda chosen: AutoregressiveModel(config, tokenizer),
        lambda new, own: AutoregressiveStage(new, train, valid, own),
        output, settings, identity, "nats per token", log,
    )  # fmt: skip
    model.info = info
    model.save_pretrained(output / "final")
    return model


def best_of(
    choices: Mapping[str, Sequence[Any]],
    build: Callable[[Mapping[str, Any]], Built],
    stage_of: Callable[[Built, TrainingConfig], Stage],
    output: Path,
    settings: TrainingConfig,
    identity: Mapping[str, Any],
    unit: str,
    log: Callable[[str], None],
) -> tuple[Built, dict[str, Any], dict[str, float]]:
    """Choose one thing after the other by short trainings, then train a new module with the best of each.

    Args:
        choices: what is to be chosen, by name, with the values to try. "learning rate" is one of them. Each is chosen
            with the best of those before it and the first value of those behind it.
        build: makes a new module, seeded, from one value of each choice.
        stage_of: a module and the settings of its training -> the stage, whose validation has a metric `nll`.
        output: the folder of the training; trials have folders in it.
        settings: budget and other settings for all trainings together; `lr` is replaced.
        identity: as in `train_stage`.
        unit: of `nll`, for messages.

    Returns:
        The module in eval mode, with the weights of the lowest `nll`; how it was trained (minutes of all trainings,
        what was chosen, the `nll` of each trial); its validation.
    """

    def fit(folder: Path, chosen: Mapping[str, Any], share: float, **looks: float) -> tuple[Built, dict[str, float]]:
        torch.manual_seed(settings.seed)
        module = build(chosen)
        budget: dict[str, Any] = {"minutes": (settings.minutes or 0) * share or None}
        if settings.steps is not None:
            budget = {"steps": max(1, round(settings.steps * share)), "minutes": None}
        own = settings.model_copy(update={"lr": chosen["learning rate"], "keep_best": "nll", **budget, **looks})
        stage = stage_of(module, own)
        if looks:
            stage.sample = list  # type: ignore[method-assign]  # a trial writes none: that takes longer than its steps
        result = train_stage(stage, own, folder, identity=identity, log=log)
        seconds.append(result.seconds)
        names.append(stage.name)
        return module.eval(), result.metrics

    seconds: list[float] = []
    names: list[str] = []
    known: dict[tuple[Any, ...], float] = {}
    chosen = {name: values[0] for name, values in choices.items()}
    tried: dict[str, dict[str, float]] = {}
    for choice, values in choices.items():
        losses: dict[Any, float] = {}
        for value in values if len(values) > 1 else ():
            # Looks on the way would take more of so short a time than its steps do.
            looks = {"validate_every": 0.0, "sample_every": 0.0}
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            all_of_it = chosen | {choice: value}
            key = tuple(all_of_it.values())
            if key not in known:  # (the best of one choice is the first of the next)
                known[key] = fit(output / f"trial-{shown}", all_of_it, TRIAL_SHARE, **looks)[1]["nll"]
            losses[value] = known[key]
            tried.setdefault(choice, {})[shown] = losses[value]
            log(f"{names[-1]}: {choice} {shown} reaches {losses[value]:.4f} {unit}")
        if losses:
            chosen[choice] = min(losses, key=losses.__getitem__)
    module, metrics = fit(output, chosen, 1 - TRIAL_SHARE * len(seconds))
    return module, {"minutes": round(sum(seconds) / 60, 2), "chosen": chosen, "tried": tried}, metrics


@usual_defaults()
def fit_scorer(
    data: RowSource,
    output: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    columns: Columns | None = None,
    seed: int = 0,
    config: AutoregressiveConfig | None = None,
    log: Callable[[str], None] = say,
) -> float:
    """`ladle fit scorer`: train an autoregressive model of the texts in `data`, without conditions.

    Args:
        data: a file or folder, or rows in memory.
        output: the run folder; the model is in its subfolder final. A repeated call continues after an interruption.
        minutes, steps: the budget; give one of the two.
        columns: the column names.
        seed: random seed of the training.
        config: sizes of the model.
        log: receives messages for the user.

    Returns:
        The held-out loss, in nats per token.

    Raises:
        UserError: bad data, or a folder as in `ladle.training.run.train`.
    """
    with run_folder(output, [data], SCORER):
        splits = load_splits(DataConfig.of(columns), data)
        train, valid = ([Row(text=row["text"]) for row in rows] for rows in (splits.train, splits.valid))
        for note in (*splits.taken, *splits.notes):
            log(note)
        log(f"{counted(len(train), 'training text')}, {counted(len(valid), 'held-out text')}")
        tokenizer = load_parts(resolve_model("base-en")).autoencoder.backbone.tokenizer
        settings = autoregressive_settings(minutes=minutes, steps=steps, seed=seed)
        config = config or AutoregressiveConfig(width=256, num_layers=6, num_heads=4)
        model = train_autoregressive(config, tokenizer, train, valid, Path(output), settings, log=log)
        nll, tokens = model.score([row["text"] for row in valid or train[:512]])
        return float(nll.sum() / tokens.sum())


def autoregressive_settings(**budget: Any) -> TrainingConfig:
    """How these models are trained. budget: `minutes` or `steps`, `seed`. They use Muon, as Ladle does: on E2E it
    reaches 1.90 nats per token in 78 s; AdamW with its best learning rate reaches 2.42 (benchmarks/LOG.md)."""
    return TrainingConfig(optimizer="muon", cooldown=0.5, warmup=0.02, validate_every=0.05, sample_every=0.25, **budget)


def config_of_size(num_parameters: int, vocab_size: int, max_tokens: int = 96) -> AutoregressiveConfig:
    """Sizes of a GPT-2 with nearly `num_parameters` parameters, at a usual ratio of width to depth (32 to 96)."""

    def error(size: tuple[int, int]) -> float:
        width, layers = size
        count = width * (vocab_size + 2 * max_tokens) + layers * (12 * width**2 + 13 * width)
        return abs(count / num_parameters - 1)

    widths = range(32, 1601, 32)
    sizes = [(width, n) for width in widths for n in range(max(1, width // 96), max(2, width // 32) + 1)]
    width, num_layers = min(sizes, key=error)
    heads = width // (64 if width % 64 == 0 else 32)
    return AutoregressiveConfig(width=width, num_layers=num_layers, num_heads=heads, max_tokens=max_tokens)


class AutoregressiveStage:
    """Rows with `text` and, where they have them, `label` and `source`, for `ladle.training.loop`."""

    name = "autoregressive"
    progress = 0.0

    def __init__(self, model: AutoregressiveModel, train: Sequence[Row], valid: Sequence[Row], config: Any):
        self.module, self.config = model, config
        self.train_rows, self.valid_rows = self._encode(train), self._encode(valid or train[:512])
        self.valid_given = known_conditions((valid or train)[:32], model.config)

    def batches(self, epoch: int) -> list[list[int]]:
        lengths = [len(prefix) + len(text) for prefix, text in self.train_rows]
        return epoch_batches(lengths, self.config, epoch)

    def load(self, rows: list[int]) -> dict[str, Tensor]:
        drop = self.module.config.drop_prob
        chosen = []
        for row in rows:
            prefix, text = self.train_rows[row]
            lost = len(prefix) > 1 and bool(torch.rand(()) < drop)
            chosen.append((prefix[-1:] if lost else prefix, text))
        return padded(chosen, self.module.tokenizer.pad_token_id)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, metrics = self.module.loss(batch)
        return loss, {**metrics, "num_tokens": batch["is_text"].sum()}

    def validate(self) -> dict[str, float]:
        """nll: mean nats per token over the held-out texts; every token counts equally."""
        nll, tokens = self.module.score_rows(self.valid_rows)
        return {"nll": float(nll.sum() / tokens.sum())}

    def sample(self) -> list[str]:
        return self.module.generate(**self.valid_given, top_p=0.95)

    def _encode(self, rows: Sequence[Row]) -> list[TokenRow]:
        given = known_conditions(rows, self.module.config)
        return self.module.encode([row["text"] for row in rows], given["label"], given["source"])
