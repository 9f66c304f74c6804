"""A recipe: everything that one trained model depends on, in one TOML file."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ladle.autoencoder.autoencoder import AutoencoderConfig
from ladle.conditioning.config import ConditionConfig
from ladle.config import Config
from ladle.data.files import read_toml
from ladle.data.splits import DataConfig
from ladle.diffusion.model import DiffusionConfig
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.training.optimiser import Optimisation, TrainingConfig
from ladle.training.stages.joint import JointConfig

STAGES = ("autoencoder", "diffusion", "joint", "decoder")
EXCLUSIVE = {"training.minutes": "steps", "training.steps": "minutes"}
HUB_KEYS = ("id", "subset", "text", "label", "source", "target")


class StageTraining(Optimisation):
    """How one stage is trained; budget from `TrainingPlan` by `share`, unless `steps` or `minutes` are given here.
    start_share: in place of a share that is not given, where the autoencoder was trained before; None: the same."""

    share: float = Field(ge=0)
    start_share: float | None = Field(None, ge=0)
    steps: int | None = Field(None, ge=0)
    minutes: float | None = Field(None, ge=0)
    lr: float | None = Field(gt=0)
    optimizer: Literal["adamw", "muon"] | None = "adamw"
    max_tokens: int = Field(ge=1)

    def budget_share(self, started: bool) -> float:
        """The stage's part of the budget, relative to the others'. started: the autoencoder was trained before."""
        given = {"share", "start_share"} & self.model_fields_set == {"share"}
        return self.share if given or not started or self.start_share is None else self.start_share


class AutoencoderTraining(StageTraining):
    """optimizer: Muon from nothing, where it is several times faster (after 90 seconds on 5,000 sentences 91 % of the
    tokens are right, by AdamW 33 %); AdamW where it starts from a trained autoencoder or a pre-trained backbone, which
    should move little (benchmarks/LOG.md). lr: what suits that optimizer. start_share: one that was trained before has
    only its vocabulary to learn.
    """

    share: float = Field(0.4, ge=0)
    start_share: float | None = Field(0.12, ge=0)
    optimizer: Literal["adamw", "muon"] | None = None
    lr: float | None = Field(None, gt=0)
    max_tokens: int = Field(4096, ge=1)

    def chosen(self, from_nothing: bool) -> dict[str, Any]:
        """optimizer and lr, those that are not given as they suit the start."""
        optimizer = self.optimizer or ("muon" if from_nothing else "adamw")
        return {"optimizer": optimizer, "lr": self.lr or (3e-3 if optimizer == "muon" else 2e-3)}


class DiffusionTraining(StageTraining):
    """About 250 E2E texts to a batch. Muon against AdamW at equal time: benchmarks/LOG.md."""

    share: float = Field(0.6, ge=0)
    optimizer: Literal["adamw", "muon"] | None = "muon"
    cooldown: float = Field(0.5, gt=0, le=1)
    lr: float = Field(1e-3, gt=0)
    max_tokens: int = Field(8192, ge=1)


class JointTraining(StageTraining):
    """Autoencoder and denoiser together (`ladle.training.stages.joint`): not unless it is given a share or a budget, and then
    in place of the diffusion stage or after it, as that one's share says."""

    share: float = Field(0.0, ge=0)
    optimizer: Literal["adamw", "muon"] | None = "muon"
    cooldown: float = Field(0.5, gt=0, le=1)
    lr: float = Field(1e-3, gt=0)
    max_tokens: int = Field(4096, ge=1)


class DecoderTraining(StageTraining):
    """A fine-tuning: short, at a low learning rate. times: the diffusion times whose estimates the decoder learns to
    read; both `stop_time`s should be among them. It overfits small sets long before the denoiser does, so the best
    weights are kept, and it ends when two validations in a row bring no better ones. start_share: one that has read
    much text before is at its best after a minute or two, and what is left does more for diffusion."""

    share: float = Field(0.4, ge=0)
    start_share: float | None = Field(0.18, ge=0)
    lr: float = Field(5e-4, gt=0)
    max_tokens: int = Field(4096, ge=1)
    keep_best: str | None = "autoregressive_loss"
    patience: int | None = Field(2, ge=1)
    times: tuple[float, float] = (0.4, 0.8)

    @field_validator("times")
    @classmethod
    def _rising(cls, times: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= times[0] <= times[1] <= 1:
            raise ValueError("two diffusion times are needed, 0 <= first <= second <= 1")
        return times


class TrainingPlan(Config):
    """The budget of all stages, in `minutes` or in `steps`, and what they have in common.

    calibrate: where `diffusion.schedule.shift` is not given and the denoiser begins from nothing, take the shift that
    `inspect --health` advises for the trained autoencoder, if that gives enough back to tell.
    """

    minutes: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    seed: int = Field(0, ge=0, lt=2**32)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    num_threads: int | None = Field(None, ge=1)
    calibrate: bool = True
    save_every_seconds: float = Field(45, ge=0)
    validate_every: float = Field(0.2, ge=0)
    sample_every: float = Field(0.25, ge=0)
    trackers: tuple[str, ...] = ()
    autoencoder: AutoencoderTraining = AutoencoderTraining()
    diffusion: DiffusionTraining = DiffusionTraining()
    joint: JointTraining = JointTraining()
    decoder: DecoderTraining = DecoderTraining()

    def stage(
        self, name: str, stages: tuple[str, ...], started: bool = False, pretrained: bool = False
    ) -> TrainingConfig | None:
        """The settings of one stage where `stages` are to run; None where its budget is 0. started: the autoencoder is
        not from nothing. pretrained: its backbone is not, but the rest of it is."""
        plan: StageTraining = getattr(self, name)
        shares = {other: getattr(self, other).budget_share(started) for other in stages}
        total = sum(shares.values())
        steps, minutes = plan.steps, plan.minutes
        if steps is None and minutes is None:
            share = shares[name] / total if total else 0.0
            if self.steps is not None:
                steps = round(self.steps * share)
            else:
                minutes = (self.minutes or DEFAULT_MINUTES) * share
        if steps is not None:
            minutes = None
        if not (steps or minutes):
            return None
        of_all = TrainingPlan.model_fields.keys() & TrainingConfig.model_fields.keys() - {"steps", "minutes"}
        common = {key: getattr(self, key) for key in of_all}
        own = plan.model_dump(include=set(TrainingConfig.model_fields) - {"steps", "minutes"})
        if name == "autoencoder":
            own |= self.autoencoder.chosen(from_nothing=not (started or pretrained))
        return TrainingConfig.parse({**common, **own, "steps": steps, "minutes": minutes}, f"training.{name}")


DEFAULT_MINUTES = 15.0
# Of a model whose decoder is adapted to the prior's estimates (benchmarks/LOG.md); where it is not, no early stop.
SAMPLING = {
    "guidance_scale": 2.5, "conditional": {"stop_time": 0.6}, "unconditional": {"stop_time": 0.6}, "candidates": 4,
    "temperature": 0.8, "top_p": 0.9,
}  # fmt: skip


class Recipe(Config):
    """One trained model.

    start: the model to begin with: a shipped name, a model folder, "nothing", or "auto": `prior-en`, with a vocabulary
    of its own where the text is much (`training.starting.OWN_CHARACTERS`), and nothing where `autoencoder` asks for
    other sizes than it has. Its autoencoder is used, and its denoiser where `diffusion` asks for one of the same sizes
    and prediction. Not read where `autoencoder.backbone.pretrained` names a pre-trained encoder-decoder.
    own_vocabulary: give that autoencoder a vocabulary from the data (`ladle.autoencoder.transfer`) and train it on, as
    `autoencoder` says; else it is fixed (but for stage `joint`, if that has a share of the training). condition: labels
    and source are found in the data; what is set here is the rest. card: licence, attribution, language and description
    for the model card.
    """

    name: str = "model"
    start: str = "auto"
    own_vocabulary: bool = False
    data: DataConfig = DataConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    condition: ConditionConfig = ConditionConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    joint: JointConfig = JointConfig()
    sampling: SamplingOptions = SamplingOptions()
    training: TrainingPlan = TrainingPlan()
    card: dict[str, Any] = {}


def in_steps(recipe: Recipe) -> bool:
    """Whether no stage's budget is a time, so that the training comes out the same on a slower machine."""
    given = recipe.start not in ("auto", "nothing") and not recipe.own_vocabulary
    fixed = given and recipe.autoencoder.backbone.pretrained is None
    plans = [recipe.training.stage(name, STAGES, started=given) for name in STAGES[1 if fixed else 0 :]]
    return all(plan.steps for plan in plans if plan is not None)


def load_recipe(path: str | Path | None = None, data: str | None = None, sets: list[str] | None = None) -> Recipe:
    """Read a recipe (the defaults when None), put `data` in place of its data and apply `sets`.

    Args:
        path: a TOML file.
        data: a file or folder, or None.
        sets: "key.key=value" items; values are TOML values, bare words are strings.

    Raises:
        UserError: no such file, not TOML, an unknown key (with the nearest valid one), a value out of range, no data.
    """
    values: dict[str, Any] = {}
    where = "recipe"
    if path is not None:
        where, values = str(path), read_recipe(path)
    if data is not None:
        # Column names of a public set on the hub say nothing about the user's file.
        given = values.get("data", {})
        if not isinstance(given, dict):
            raise UserError(f"{where}: data is {given!r}, it has to be a group of settings: [data]")
        dropped = HUB_KEYS if given.get("id") else ()
        values["data"] = {k: v for k, v in given.items() if k not in dropped} | {"path": data}
        values.setdefault("name", Path(data).name.split(".")[0] or "model")
    for item in sets or []:
        _set(values, item)
    recipe = parse_recipe(values, where)
    if recipe.data.path is None and recipe.data.id is None:
        raise UserError("no data: give --data FILE, or a recipe with data.path or data.id")
    return recipe


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The settings of a recipe file, unchecked. `extends` in it names another, beside it: what that one says holds
    where this one says nothing.

    Raises:
        UserError: no such file, not TOML, recipes that extend each other in a circle.
    """
    return _extended(Path(path), ())


def _extended(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    values = read_toml(path, "recipe", "give a .toml file, or --data FILE alone")
    name = values.pop("extends", None)
    if name is None:
        return values
    if not isinstance(name, str):
        raise UserError(f"{path}: extends is {name!r}, it has to be the name of another recipe")
    extending = (*extending, path.resolve())
    other = path.parent / name
    if other.resolve() in extending:
        raise UserError(f"{path}: extends '{name}', which extends this one")
    return merged(_extended(other, extending), values)


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Settings of `new` over those of `old`, group by group."""
    both = {k: merged(old[k], v) for k, v in new.items() if isinstance(v, dict) and isinstance(old.get(k), dict)}
    return old | new | both


def parse_recipe(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Nested settings as a recipe, with the defaults of `ladle train` for how its model is sampled.

    Raises:
        UserError: as `Recipe.parse`.
    """
    sampling = values.get("sampling", {})
    return Recipe.parse(
        {**values, "sampling": merged(SAMPLING, sampling) if isinstance(sampling, dict) else sampling}, where
    )


def _set(values: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {item}: give KEY=VALUE, as in training.minutes=60")
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {item}: '{parent}' is a value, not a group of settings")
    if key.strip() in EXCLUSIVE:
        values.pop(EXCLUSIVE[key.strip()], None)  # the budget given last, in place of the recipe's
    try:
        values[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[last] = text


def to_toml(values: dict[str, Any], prefix: str = "") -> str:
    """Nested settings as TOML; None (which TOML lacks) is left out."""
    lines = [f"{_toml_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
             if value is not None and not isinstance(value, dict)]  # fmt: skip
    text = "\n".join(lines)
    for key, value in values.items():
        if isinstance(value, dict) and value:
            name = prefix + _toml_key(key)
            text += f"\n\n[{name}]\n" + to_toml(value, f"{name}.")
    return text + ("" if prefix else "\n")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
