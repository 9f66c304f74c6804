"""The systems that latent diffusion is compared with, and how each is trained on a suite's rows.

A new kind of rival is a class like these, a function that trains it, an entry of RIVALS, and its name in
`ladle.benchmark.suite.SystemConfig.kind`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel, rival_folder
from ladle.baselines.exact_likelihood import exact_likelihood
from ladle.baselines.fitting import autoregressive_settings, config_of_size, train_autoregressive
from ladle.baselines.guided import RECORD as CLASSIFIER_RECORD
from ladle.baselines.guided import GuidedModel, PrefixClassifier
from ladle.baselines.guided_fitting import classifier_settings, labels_of, train_prefix_classifier
from ladle.baselines.inputs import known_conditions
from ladle.baselines.token_diffusion import NUM_STEPS, TokenDiffusionConfig, TokenDiffusionModel
from ladle.baselines.token_diffusion import RECORD as TOKEN_DIFFUSION_RECORD
from ladle.baselines.token_fitting import (
    LEARNING_RATES,
    SCHEDULES,
    token_config_of_size,
    train_token_diffusion,
)
from ladle.baselines.token_likelihood import token_likelihood
from ladle.benchmark.suite import SuiteConfig, SystemConfig
from ladle.config import nearest
from ladle.data.rows import Row
from ladle.data.splits import Splits
from ladle.errors import UserError
from ladle.evaluation.likelihood_report import LikelihoodReport
from ladle.evaluation.mauve import weights_digest
from ladle.evaluation.scorer import RECORD
from ladle.pipeline import LatentDiffusion
from ladle.storage.kinds import PREFIX_CLASSIFIER, SCORER, TOKEN_DIFFUSION
from ladle.storage.parts import ModelParts, count_parameters
from ladle.storage.run_folder import run_folder
from ladle.training.optimiser import TrainingConfig

CLASSIFIER_SHARE = 0.1  # of a guided system's minutes, for its classifier
Log = Callable[[str], None]
Draws = dict[str, Any]  # arguments of `generate` with a value for each text


class AutoregressiveSystem:
    """A GPT-2. digest: differs between two trainings. minutes: of the training, trials included."""

    def __init__(self, folder: Path):
        self.folder, self.model = folder, AutoregressiveModel.from_pretrained(folder)
        self.digest = weights_digest(folder)
        self.minutes = float(self.model.info.get("minutes", 0))
        self.num_parameters = self.model.num_parameters

    def passes(self, settings: Mapping[str, Any]) -> int:
        """One pass per token, with all settings."""
        return 1

    def draw(self, draws: Draws, settings: Mapping[str, Any], batch_size: int) -> list[str]:
        """As `AutoregressiveModel.generate`."""
        _check(settings, ("top_p", "temperature"), "the rival")
        return self.model.generate(**draws, batch_size=batch_size, **settings)

    def likelihood(self, rows: Sequence[Row]) -> LikelihoodReport:
        """The exact value, given the conditions that the model knows."""
        return exact_likelihood(self.model, [row["text"] for row in rows], **known_conditions(rows, self.model.config))


class GuidedSystem:
    """A GPT-2, steered towards labels by a classifier of prefixes. Weights, parameters and minutes are of both."""

    def __init__(self, language_model: Path, classifier: Path):
        self.folder = classifier
        model = AutoregressiveModel.from_pretrained(language_model)
        steers = PrefixClassifier.from_pretrained(classifier)
        self.model = GuidedModel(model, steers)
        self.digest = weights_digest(language_model) + weights_digest(classifier)
        self.minutes = float(model.info.get("minutes", 0)) + float(steers.info.get("minutes", 0))
        self.num_parameters = self.model.num_parameters

    def passes(self, settings: Mapping[str, Any]) -> int:
        """One pass of the language model per token, with all settings."""
        return 1

    def draw(self, draws: Draws, settings: Mapping[str, Any], batch_size: int) -> list[str]:
        """As `GuidedModel.generate`."""
        _check(settings, ("strength", "candidates", "top_p", "temperature"), "a guided system")
        return self.model.generate(**draws, batch_size=batch_size, **settings)

    def likelihood(self, rows: Sequence[Row]) -> None:
        """None: the weights that it gives to tokens do not sum to 1 over texts."""


class TokenDiffusionSystem:
    """Diffusion over the vectors of tokens. `digest` and `minutes` are as in `AutoregressiveSystem`."""

    def __init__(self, folder: Path):
        self.folder, self.model = folder, TokenDiffusionModel.from_pretrained(folder)
        self.digest = weights_digest(folder)
        self.minutes = float(self.model.info.get("minutes", 0))
        self.num_parameters = self.model.num_parameters

    def passes(self, settings: Mapping[str, Any]) -> int:
        """One pass per step."""
        return int(settings.get("num_steps", NUM_STEPS))

    def draw(self, draws: Draws, settings: Mapping[str, Any], batch_size: int) -> list[str]:
        """As `TokenDiffusionModel.generate`."""
        _check(settings, ("num_steps", "sampler", "temperature", "guidance_scale", "bf16"), "a token diffusion")
        return self.model.generate(**draws, batch_size=batch_size, **settings)

    def likelihood(self, rows: Sequence[Row]) -> LikelihoodReport:
        """A bound, given the conditions that the model knows."""
        return token_likelihood(self.model, [row["text"] for row in rows], **known_conditions(rows, self.model.config))


Rival = AutoregressiveSystem | GuidedSystem | TokenDiffusionSystem


@dataclass(frozen=True)
class Training:
    """What a system is trained with. seed: of the training; added to a recipe's own. For rivals, ladle: the folder of
    the Ladle system that gives tokenizer and size; of: the language model that a guided system steers (None: its
    own)."""

    system: SystemConfig
    splits: Splits
    folder: Path
    minutes: float
    ladle: Path | None
    log: Log
    seed: int
    of: Path | None = None

    @property
    def like(self) -> ModelParts:
        """The parts of the Ladle system."""
        assert self.ladle is not None
        return LatentDiffusion.from_pretrained(self.ladle).parts


def trained_autoregressive(training: Training) -> AutoregressiveSystem:
    """A model in `folder`/final, trained where there is none. Raises UserError: settings that cannot be read."""
    if training.system.model is not None:
        return AutoregressiveSystem(rival_folder(training.system.model) or Path(training.system.model))
    _train_language_model(training, training.splits, training.folder, training.minutes)
    return AutoregressiveSystem(training.folder / "final")


def trained_token_diffusion(training: Training) -> TokenDiffusionSystem:
    """A model in `folder`/final, trained where there is none. Raises UserError: settings that cannot be read."""
    system, folder = training.system, training.folder
    if system.model is not None:
        return TokenDiffusionSystem(rival_folder(system.model, TOKEN_DIFFUSION_RECORD) or Path(system.model))
    if not (folder / "final" / TOKEN_DIFFUSION_RECORD).is_file():
        parts, given = training.like, dict(system.config)
        backbone = parts.autoencoder.backbone
        sizes = dict.fromkeys(("max_tokens", "max_source_tokens"), backbone.max_tokens)
        conditions = {"labels": _labels(training.splits), "source": any("source" in r for r in training.splits.train)}
        config = TokenDiffusionConfig.parse({**sizes, **conditions, **given}, "config")
        if "width" not in given.get("network", {}):
            config = token_config_of_size(count_parameters(parts, frozen=False), backbone.tokenizer, config)
        settings = _settings(training, training.minutes)
        with run_folder(folder, final=TOKEN_DIFFUSION):
            train_token_diffusion(
                config, backbone.tokenizer, training.splits.train, training.splits.valid, folder, settings,
                system.learning_rates or LEARNING_RATES, system.schedules or tuple(SCHEDULES), log=training.log,
            )  # fmt: skip
    return TokenDiffusionSystem(folder / "final")


def trained_guided(training: Training) -> GuidedSystem:
    """The language model `of`, or the one that the system names, or one trained in `folder`/language-model, with a
    classifier trained in `folder`/classifier. Raises UserError: as `trained_autoregressive`."""
    system, splits, folder, of = training.system, training.splits, training.folder, training.of
    own = _classifier_minutes(system, training.minutes)
    if system.model is not None:
        of = rival_folder(system.model) or Path(system.model)
    if of is None:
        of = folder / "language-model" / "final"
        # It never sees a label, so it is not trained with any either.
        train, valid = ([Row(text=row["text"]) for row in rows] for rows in (splits.train, splits.valid))
        _train_language_model(training, Splits(train, valid, []), of.parent, training.minutes - own)
    final = folder / "classifier" / "final"
    if not (final / CLASSIFIER_RECORD).is_file():
        with run_folder(final.parent, final=PREFIX_CLASSIFIER):
            settings = classifier_settings(minutes=own, seed=training.seed)
            model = AutoregressiveModel.from_pretrained(of)
            train_prefix_classifier(model, splits.train, splits.valid, final.parent, settings, log=training.log)
    return GuidedSystem(of, final)


# kind -> trains it, or finds it trained
RIVALS: dict[str, Callable[[Training], Rival]] = {
    "autoregressive": trained_autoregressive,
    "token_diffusion": trained_token_diffusion,
    "guided": trained_guided,
}


def check_guided(suite: SuiteConfig, splits: Splits, minutes: float) -> None:
    """Raises UserError: a guided system whose classifier cannot be trained, for want of labels or of minutes."""
    for name, system in suite.systems.items():
        if system.kind != "guided":
            continue
        labels, whole = labels_of(splits.train), system.minutes or minutes
        if unknown := sorted({row["label"] for row in splits.test if "label" in row} - {*labels}):
            raise UserError(f"systems.{name}: no training row has the label '{unknown[0]}' of a test row")
        if system.of is None and system.model is None and _classifier_minutes(system, whole) >= whole:
            given = f"classifier_minutes is {system.classifier_minutes:g}, of {whole:g} for the whole system"
            raise UserError(f"systems.{name}: {given}; give it fewer")


def _train_language_model(training: Training, splits: Splits, folder: Path, minutes: float) -> None:
    if (folder / "final" / RECORD).is_file():
        return
    parts, system = training.like, training.system
    backbone = parts.autoencoder.backbone
    sizes = config_of_size(count_parameters(parts, frozen=False), len(backbone.tokenizer), backbone.max_tokens)
    given = {"max_source_tokens": backbone.max_tokens, **system.config}
    config = AutoregressiveConfig.parse({**sizes.model_dump(), **given}, "config")
    settings = _settings(training, minutes)
    more = {} if system.learning_rates is None else {"learning_rates": system.learning_rates}
    with run_folder(folder, final=SCORER):
        train_autoregressive(
            config, backbone.tokenizer, splits.train, splits.valid, folder, settings, log=training.log, **more
        )


def _settings(training: Training, minutes: float) -> TrainingConfig:
    settings, tokens = autoregressive_settings(minutes=minutes, seed=training.seed), training.system.batch_tokens
    return settings if tokens is None else settings.model_copy(update={"max_tokens": tokens})


def _classifier_minutes(system: SystemConfig, minutes: float) -> float:
    return system.classifier_minutes or CLASSIFIER_SHARE * minutes


def _labels(splits: Splits) -> list[str]:
    return sorted({row["label"] for row in splits.train if "label" in row})


def _check(settings: Mapping[str, Any], known: Collection[str], whose: str) -> None:
    for key in settings:
        if key not in known:
            raise UserError(f"unknown setting '{key}' of {whose}: {nearest(key, list(known))}")
