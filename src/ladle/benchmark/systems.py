"""The compared systems. Each trains on the suite's rows and draws texts for the same seeds and conditions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.baselines.fitting import autoregressive_settings, config_of_size, train_autoregressive
from ladle.baselines.guided import RECORD as CLASSIFIER_RECORD
from ladle.baselines.guided import GuidedModel, PrefixClassifier
from ladle.baselines.guided_fitting import classifier_settings, labels_of, train_prefix_classifier
from ladle.benchmark.suite import SuiteConfig, SystemConfig
from ladle.config import nearest
from ladle.data.rows import Row
from ladle.data.splits import Splits
from ladle.errors import UserError
from ladle.evaluation.mauve import weights_digest
from ladle.evaluation.overlap import CorpusScore
from ladle.evaluation.scorer import RECORD
from ladle.pipeline import LatentDiffusion
from ladle.storage.names import resolve_model
from ladle.storage.parts import count_parameters
from ladle.storage.run_folder import run_folder
from ladle.storage.writing import PREFIX_CLASSIFIER, SCORER
from ladle.training.recipe import Recipe, merged, parse_recipe, read_recipe
from ladle.training.run import train

CLASSIFIER_SHARE = 0.1  # of a guided system's minutes, for its classifier
Log = Callable[[str], None]
Condition = tuple[str | None, str | None]  # label, source
Draws = dict[str, Any]  # arguments of `generate` with a value for each text


def draws_for(conditions: Sequence[Condition], first_seed: int) -> Draws:
    """One text to draw for each condition, with seeds that count up from `first_seed`: `seeds`, `label`, `source`."""
    labels, sources = zip(*conditions, strict=True)
    return {"seeds": range(first_seed, first_seed + len(conditions)), "label": labels, "source": sources}


class LadleSystem:
    """A latent diffusion model.

    digest: differs between two trainings. minutes: training time of all stages, as the model folder records it.
    """

    def __init__(self, folder: Path):
        self.folder, self.model = folder, LatentDiffusion.from_pretrained(folder)
        self.digest = self.model.digest or ""
        self.minutes = float(sum(self.model.parts.info.get("minutes", {}).values()))
        self.num_parameters = count_parameters(self.model.parts)

    def passes(self, settings: Mapping[str, Any]) -> int:
        """Network passes per text: steps times candidates. It tells which of equally good settings is cheapest."""
        sampling = self.model.parts.sampling.override(**settings)
        return sampling.num_inference_steps * sampling.candidates

    def draw(self, draws: Draws, settings: Mapping[str, Any], batch_size: int) -> list[str]:
        """One text a seed. As `LatentDiffusion.generate`, by any name of `SamplingOptions`."""
        return self.model.generate(**draws, batch_size=batch_size, **settings)

    def reconstruction(self, texts: Sequence[str]) -> float:
        """BLEU (0 to 100) of `texts` through the autoencoder. No sample can be better than this."""
        return float(CorpusScore(self.model.reconstruct(texts, wording=False), [[text] for text in texts]).score)


class AutoregressiveSystem:
    """The rival. `digest` and `minutes` (trials included) are as in `LadleSystem`."""

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
        for key in settings:
            if key not in ("top_p", "temperature"):
                raise UserError(f"unknown setting '{key}' of the rival: {nearest(key, ['top_p', 'temperature'])}")
        return self.model.generate(**draws, batch_size=batch_size, **settings)


class GuidedSystem:
    """The rival, steered towards labels by a classifier of prefixes. Weights, parameters and minutes are of both."""

    def __init__(self, language_model: Path, classifier: Path):
        self.folder = classifier
        model, steers = (
            AutoregressiveModel.from_pretrained(language_model),
            PrefixClassifier.from_pretrained(classifier),
        )
        self.model = GuidedModel(model, steers)
        self.digest = weights_digest(language_model) + weights_digest(classifier)
        self.minutes = float(model.info.get("minutes", 0)) + float(steers.info.get("minutes", 0))
        self.num_parameters = self.model.num_parameters

    def passes(self, settings: Mapping[str, Any]) -> int:
        """One pass of the language model per token, with all settings."""
        return 1

    def draw(self, draws: Draws, settings: Mapping[str, Any], batch_size: int) -> list[str]:
        """As `GuidedModel.generate`."""
        known = ["strength", "candidates", "top_p", "temperature"]
        for key in settings:
            if key not in known:
                raise UserError(f"unknown setting '{key}' of a guided system: {nearest(key, known)}")
        return self.model.generate(**draws, batch_size=batch_size, **settings)


System = LadleSystem | AutoregressiveSystem | GuidedSystem


def trained(
    name: str,
    suite: SuiteConfig,
    splits: Splits,
    folder: Path,
    minutes: float,
    ladle: Path | None,
    log: Log,
    seed: int,
    of: Path | None = None,
) -> System:
    """The system `name`, trained under `folder`. Finished training is not repeated.

    Args:
        minutes: budget of training, if the system sets none.
        ladle: the model folder of the Ladle system that gives a rival its tokenizer and size.
        seed: random seed of the training; added to the recipe's own.
        of: the language model that a guided system steers; None: its own.

    Raises:
        UserError: a bad recipe, or a folder of another recipe.
    """
    system = suite.systems[name]
    minutes = system.minutes or minutes
    if system.kind == "guided":
        return _trained_guided(system, splits, folder, minutes, ladle, log, seed, of)
    if system.model is not None:
        rival = _rival_folder(system.model)
        return AutoregressiveSystem(rival) if rival else LadleSystem(resolve_model(system.model))
    if system.kind == "ladle":
        return LadleSystem(train(recipe_of(name, suite, minutes, seed), folder, log=log))
    assert ladle is not None
    if not (folder / "final" / RECORD).is_file():
        _train_rival(system, splits, folder, minutes, ladle, log, seed)
    return AutoregressiveSystem(folder / "final")


def recipe_of(name: str, suite: SuiteConfig, minutes: float, seed: int = 0) -> Recipe:
    """The recipe of the Ladle system `name`.

    Raises:
        UserError: a bad recipe, or one that names its own data.
    """
    system = suite.systems[name]
    for where, recipe in (("recipe", suite.recipe), (f"systems.{name}.recipe", system.recipe)):
        for key in recipe.keys() & {"data", "name"}:
            raise UserError(f"{where}.{key}: the suite gives a system its data and its name; remove this key")
    common = merged(suite.recipe, read_recipe(system.recipe_file) if system.recipe_file else {})
    values = merged(common, system.recipe)
    training = {key: value for key, value in values.get("training", {}).items() if key != "minutes"}
    budget = {} if "steps" in training else {"minutes": minutes}  # a budget in steps is the same on any machine
    values["training"] = training | budget | {"seed": training.get("seed", 0) + seed}
    values |= {"name": name, "data": suite.data.model_dump()}
    return parse_recipe(values, f"systems.{name}.recipe")


def _train_rival(
    system: SystemConfig, splits: Splits, folder: Path, minutes: float, ladle: Path, log: Log, seed: int
) -> None:
    parts = LatentDiffusion.from_pretrained(ladle).parts
    backbone = parts.autoencoder.backbone
    sizes = config_of_size(count_parameters(parts, frozen=False), len(backbone.tokenizer), backbone.max_tokens)
    given = {"max_source_tokens": backbone.max_tokens, **system.config}
    config = AutoregressiveConfig.parse({**sizes.model_dump(), **given}, "config")
    settings = autoregressive_settings(minutes=minutes, seed=seed)
    with run_folder(folder, final=SCORER):
        train_autoregressive(
            config, backbone.tokenizer, splits.train, splits.valid, folder, settings, system.learning_rates, log
        )


def _rival_folder(name: str) -> Path | None:
    """The folder of an autoregressive model, from its own or its run's; None where there is none."""
    return next((folder for folder in (Path(name), Path(name) / "final") if (folder / RECORD).is_file()), None)


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


def _classifier_minutes(system: SystemConfig, minutes: float) -> float:
    return system.classifier_minutes or CLASSIFIER_SHARE * minutes


def _trained_guided(
    system: SystemConfig,
    splits: Splits,
    folder: Path,
    minutes: float,
    ladle: Path | None,
    log: Log,
    seed: int,
    of: Path | None,
) -> GuidedSystem:
    """The language model `of`, or the one that `system` names, or one trained in `folder`/language-model, with a
    classifier trained in `folder`/classifier."""
    own = _classifier_minutes(system, minutes)
    if system.model is not None:
        of = _rival_folder(system.model) or Path(system.model)
    if of is None:
        assert ladle is not None
        of = folder / "language-model" / "final"
        if not (of / RECORD).is_file():
            # It never sees a label, so it is not trained with any either.
            plain_train, plain_valid = (
                [Row(text=row["text"]) for row in rows] for rows in (splits.train, splits.valid)
            )
            plain = Splits(plain_train, plain_valid, [])
            _train_rival(system, plain, of.parent, minutes - own, ladle, log, seed)
    final = folder / "classifier" / "final"
    if not (final / CLASSIFIER_RECORD).is_file():
        with run_folder(final.parent, final=PREFIX_CLASSIFIER):
            settings, model = classifier_settings(minutes=own, seed=seed), AutoregressiveModel.from_pretrained(of)
            train_prefix_classifier(model, splits.train, splits.valid, final.parent, settings, log=log)
    return GuidedSystem(of, final)
