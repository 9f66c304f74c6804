"""The compared systems. Each trains on the suite's rows and draws texts for the same seeds and conditions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle.benchmark.rivals import RIVALS, Draws, Rival, Training
from ladle.benchmark.suite import SuiteConfig
from ladle.data.rows import Row
from ladle.errors import UserError
from ladle.evaluation.likelihood_report import LikelihoodReport
from ladle.evaluation.overlap import CorpusScore
from ladle.pipeline import LatentDiffusion
from ladle.storage.names import resolve_model
from ladle.storage.parts import count_parameters
from ladle.training.recipe import Recipe, merged, parse_recipe, read_recipe
from ladle.training.run import train

Condition = tuple[str | None, str | None]  # label, source


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

    def likelihood(self, rows: Sequence[Row]) -> LikelihoodReport:
        """A bound, given the conditions that the model knows."""
        known = self.model.conditions
        label = [row.get("label") for row in rows] if known.labels else None
        source = [row.get("source") for row in rows] if known.source is not None else None
        return self.model.likelihood([row["text"] for row in rows], label=label, source=source)

    def reconstruction(self, texts: Sequence[str]) -> float:
        """BLEU (0 to 100) of `texts` through the autoencoder. No sample can be better than this."""
        return float(CorpusScore(self.model.reconstruct(texts, wording=False), [[text] for text in texts]).score)


System = LadleSystem | Rival


def trained(name: str, suite: SuiteConfig, training: Training) -> System:
    """The system `name` of `suite`, trained as `training` says. Finished training is not repeated.

    Raises:
        UserError: a bad recipe, or a folder of another recipe.
    """
    system = training.system
    if system.kind != "ladle":
        return RIVALS[system.kind](training)
    if system.model is not None:
        return LadleSystem(resolve_model(system.model))
    recipe = recipe_of(name, suite, training.minutes, training.seed)
    return LadleSystem(train(recipe, training.folder, log=training.log))


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
