"""Makes a plan from a recipe and its rows: where the training starts, which conditions there are, which stages run.

The plan is made before any training. The run folder's recipe.toml describes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ladle.autoencoder.backbone import LanguageBackboneConfig, PretrainedBackboneConfig
from ladle.conditioning.config import ConditionConfig
from ladle.data.columns import MAX_CLASSES
from ladle.data.rows import Row
from ladle.data.splits import Splits
from ladle.diffusion.model import DenoiserConfig, DiffusionConfig
from ladle.diffusion.perceptron import PerceptronConfig
from ladle.errors import UserError
from ladle.training.optimiser import TrainingConfig
from ladle.training.recipe import Recipe, StageTraining, TrainingPlanConfig
from ladle.training.warm_start import Start, choose_start

STAGES = ("autoencoder", "diffusion", "joint", "decoder")
DEFAULT_MINUTES = 15.0
# (share of the budget from nothing, and where the training begins from a trained model), see `StageTraining.share`.
SHARES = MappingProxyType(
    {"autoencoder": (0.4, 0.12), "diffusion": (0.6, 0.6), "joint": (0.0, 0.0), "decoder": (0.4, 0.18)}
)
# Of plan latents the decoder reads every level from the start, so it needs no stage of its own.
PLAN_SHARES = MappingProxyType({"autoencoder": 0.75, "diffusion": 0.25, "joint": 0.0, "decoder": 0.0})
PLAN_VALIDATED = 0.1  # of the stage, at least
PLAN_PATIENCE = 3  # validations: on few texts the decoder has learnt all it can long before its minutes are over
# Muon learns several times faster from nothing; what was trained before should move little (benchmarks/LOG.md).
STAGE_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "autoencoder": {"optimizer": "muon", "lr": 3e-3, "cooldown": 0.2, "max_tokens": 4096},
    "trained autoencoder": {"optimizer": "adamw", "lr": 2e-3, "cooldown": 0.2, "max_tokens": 4096},
    "diffusion": {"optimizer": "muon", "lr": 1e-3, "cooldown": 0.5, "max_tokens": 8192},
    "joint": {"optimizer": "muon", "lr": 1e-3, "cooldown": 0.5, "max_tokens": 4096},
    "decoder": {"optimizer": "adamw", "lr": 5e-4, "cooldown": 0.2, "max_tokens": 4096},
    "plan decoder": {"optimizer": "muon", "lr": 1e-3, "cooldown": 0.4, "max_tokens": 4096},
    "trained plan decoder": {"optimizer": "muon", "lr": 8e-4, "cooldown": 0.6, "max_tokens": 2048},
    "plan prior": {"optimizer": "adamw", "lr": 1e-3, "cooldown": 0.4, "max_tokens": 16384},
})  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a training will do.

    recipe: the given recipe, with the final start and sizes. start: the model to start from. condition: labels,
    attributes and source of the data. stages: the settings of each stage that runs, in order. measures_shift: whether
    the shift of the noise schedule is measured on the latents, because neither the recipe nor a trained denoiser gives
    it. with_diffusion: whether the result has a diffusion model. notes: messages for the user.
    """

    recipe: Recipe
    start: Start
    condition: ConditionConfig
    stages: Mapping[str, TrainingConfig]
    measures_shift: bool
    with_diffusion: bool
    notes: Sequence[str]


def make_plan(recipe: Recipe, splits: Splits, last_stage: str = STAGES[-1]) -> Plan:
    """Make the plan. `last_stage`: the stages after it do not run.

    Raises:
        UserError: no such model to start from, more labels or values of an attribute than a model can have.
    """
    start = choose_start(recipe, splits.train)
    resolved = recipe.model_copy(update={"start": start.name, "own_vocabulary": start.own_vocabulary})
    notes = list(start.notes)
    gives_shift = _gives_shift(recipe)
    if start.denoiser is not None and not gives_shift:  # its shift was measured on its latents
        resolved = resolved.model_copy(
            update={"diffusion": with_shift(recipe.diffusion, start.denoiser.config.schedule.shift)}
        )
    given = recipe.autoencoder.model_fields_set if "autoencoder" in recipe.model_fields_set else set[str]()
    if start.parts is not None and (start.keeps_autoencoder or not given - {"max_tokens"}):
        config = start.autoencoder.config
        if start.autoencoder.sentence_encoder is not None and "max_tokens" in given:
            config = config.model_copy(update={"max_tokens": recipe.autoencoder.max_tokens})
        resolved = resolved.model_copy(update={"autoencoder": config})
        if start.keeps_autoencoder and any(
            getattr(recipe.autoencoder, name) != getattr(config, name) for name in given
        ):
            notes.append(f"the autoencoder of '{start.name}' is not changed; the recipe's [autoencoder] is not used")
    if is_plan(resolved):
        resolved = _for_plans(recipe, resolved, start, _has_sources(splits.train))
    _check_kinds(resolved)
    wanted = STAGES[: STAGES.index(last_stage) + 1]
    with_diffusion = "diffusion" in wanted
    # (the decoder of a plan reads the conditions too)
    conditioned = with_diffusion or is_plan(resolved)
    condition, found = _condition(resolved, splits.train) if conditioned else (ConditionConfig(), [])
    notes += found
    measures_shift = with_diffusion and start.denoiser is None and not gives_shift and not is_plan(resolved)
    stages = _stages(resolved, start, wanted)
    for name in wanted:
        if name not in stages and getattr(recipe.training, name).model_dump(exclude={"share"}, exclude_defaults=True):
            notes.append(f"the stage '{name}' does not run; the recipe's [training.{name}] is not used")
    return Plan(resolved, start, condition, stages, measures_shift, with_diffusion, notes)


def is_plan(recipe: Recipe) -> bool:
    """Whether the latents are plans."""
    return recipe.autoencoder.bottleneck.kind == "plan"


def _check_kinds(recipe: Recipe) -> None:
    """Raises UserError: parts that do not go together."""
    autoencoder, perceptron = recipe.autoencoder, recipe.diffusion.denoiser.kind == "perceptron"
    if isinstance(autoencoder.backbone, LanguageBackboneConfig) and not is_plan(recipe):
        raise UserError('autoencoder.backbone.kind "language" reads plans; give autoencoder.bottleneck.kind = "plan"')
    if perceptron and autoencoder.bottleneck.kind == "aligned":
        raise UserError('diffusion.denoiser.kind "perceptron" needs latents of one number, such as plans; give another')
    if perceptron and recipe.source.plain:
        raise UserError('source.plain: a denoiser of kind "perceptron" would not read the source; leave it out')


def _for_plans(given: Recipe, recipe: Recipe, start: Start, with_sources: bool) -> Recipe:
    """The recipe with what suits plan latents where `given` does not say otherwise: a perceptron as denoiser, no shift
    of the schedule, sources read as plans, words drawn by the decoder, with sources from an early plan.

    Raises UserError: a stage that plan latents do not have.
    """
    for name in ("joint", "decoder"):
        if getattr(recipe.training, name).share:
            raise UserError(f"training.{name}.share: plan latents have no stage '{name}'; leave it out")
    chosen = given.diffusion.model_fields_set if "diffusion" in given.model_fields_set else set()
    network: DenoiserConfig = PerceptronConfig(kind="perceptron")
    updates: dict[str, Any] = {} if "denoiser" in chosen else {"denoiser": network}
    if start.denoiser is not None:  # (it is used as it was trained)
        own = start.denoiser.config
        updates |= {name: getattr(own, name) for name in ("denoiser", "prediction", "self_condition")}
    elif not _gives_shift(given):
        updates["schedule"] = recipe.diffusion.schedule.model_copy(update={"shift": 1.0})
    source = recipe.source if recipe.source.encoder else recipe.source.model_copy(update={"memory": "latents"})
    diffusion = recipe.diffusion.model_copy(update=updates)
    sampling = given.plan_sampling(with_sources)
    return recipe.model_copy(update={"diffusion": diffusion, "source": source, "sampling": sampling})


def in_steps(recipe: Recipe) -> bool:
    """Whether the budget is in steps, so that the result is the same on a slower machine."""
    return recipe.training.steps is not None


def stage_settings(
    training: TrainingPlanConfig, name: str, *, from_nothing: bool, plans: bool = False, **budget: Any
) -> TrainingConfig:
    """All settings of the loop for one stage: the stage's own settings, else those of all stages, else the stage's
    defaults. from_nothing: whether the stage's module starts from random weights. budget: `steps` or `minutes`."""
    plan: StageTraining = getattr(training, name)
    given = {key: value for key, value in training.optimiser.model_dump().items() if value is not None} | plan.optimiser
    kind = name
    if plans:
        kind = "plan prior" if name == "diffusion" else "plan decoder" if from_nothing else "trained plan decoder"
    elif name == "autoencoder":
        optimizer = given.get("optimizer") or ("muon" if from_nothing else "adamw")
        kind = name if optimizer == "muon" else f"trained {name}"
    common = {key: getattr(training, key) for key in COMMON}
    values = {**common, **STAGE_DEFAULTS[kind], **given, **budget}
    if plans and name == "autoencoder":
        values |= {"keep_best": "autoregressive_loss", "patience": PLAN_PATIENCE}
        values["validate_every"] = min(values["validate_every"], PLAN_VALIDATED)
    if name == "decoder":
        values |= {"keep_best": "autoregressive_loss", "patience": training.decoder.patience}
    return TrainingConfig.parse(values, f"training.{name}")


COMMON = (TrainingPlanConfig.model_fields.keys() & TrainingConfig.model_fields.keys()) - {"steps", "minutes"}


def _stages(recipe: Recipe, start: Start, wanted: Sequence[str]) -> dict[str, TrainingConfig]:
    """Settings of the stages whose budget is not 0. The budget is divided among all stages, even those not run now."""
    training = recipe.training
    plans = is_plan(recipe)
    known = [name for name in STAGES if plans or not (name == "autoencoder" and start.keeps_autoencoder)]
    given = {name: getattr(training, name).share for name in known}
    usual = PLAN_SHARES if plans else {name: SHARES[name][start.parts is not None] for name in known}
    shares = {name: usual[name] if share is None else share for name, share in given.items()}
    total = sum(shares.values())
    from_nothing = start.parts is None and not isinstance(recipe.autoencoder.backbone, PretrainedBackboneConfig)
    found = {}
    for name in known:
        part = shares[name] / total if total else 0.0
        budget: dict[str, Any] = {"minutes": (training.minutes or DEFAULT_MINUTES) * part}
        if training.steps is not None:
            budget = {"steps": round(training.steps * part)}
        if name in wanted and any(budget.values()):
            found[name] = stage_settings(training, name, from_nothing=from_nothing, plans=plans, **budget)
    return found


def with_shift(config: DiffusionConfig, shift: float) -> DiffusionConfig:
    """The config with this shift of its noise schedule."""
    return config.model_copy(update={"schedule": config.schedule.model_copy(update={"shift": shift})})


def _gives_shift(recipe: Recipe) -> bool:
    schedule = recipe.diffusion.schedule
    given = "diffusion" in recipe.model_fields_set and "schedule" in recipe.diffusion.model_fields_set
    return given and "shift" in schedule.model_fields_set


def _has_sources(rows: Sequence[Row]) -> bool:
    return any("source" in row for row in rows)


def _condition(recipe: Recipe, rows: Sequence[Row]) -> tuple[ConditionConfig, list[str]]:
    """Labels, attributes and source of the data, and notes on them."""
    labels = sorted({row["label"] for row in rows if "label" in row})
    if len(labels) > MAX_CLASSES:
        what = f"the label column has {len(labels):,} different values; at most {MAX_CLASSES} are allowed"
        raise UserError(f'{what}; name another column with --label, or use no labels with --label ""')
    has_source = _has_sources(rows)
    notes = ["texts are conditioned on their source"] if has_source else []
    attributes = {name: _values(name, rows) for name in recipe.data.attributes}
    source = recipe.source if has_source else None
    return ConditionConfig(labels=tuple(labels), source=source, attributes=attributes), notes


def _values(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    """The values of an attribute in the training rows. UserError: none, or more than a model can have."""
    values = sorted({row["attributes"][name] for row in rows if name in row.get("attributes", {})})
    remedy = f"leave the attribute out, or name another column than '{name}'"
    if not values:
        raise UserError(f"no training row has a value of the attribute '{name}'; {remedy}")
    if len(values) > MAX_CLASSES:
        what = f"the attribute '{name}' has {len(values):,} different values; at most {MAX_CLASSES} are allowed"
        raise UserError(f"{what}; {remedy}")
    return tuple(values)
