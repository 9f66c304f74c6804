"""What a run depends on. A run folder is not continued with other values."""

from pathlib import Path
from typing import Any

from ladle.autoencoder.plan_loss import PlanDecodingConfig
from ladle.autoencoder.reconstruction import ReconstructionConfig
from ladle.config import Config
from ladle.data.files import known_json
from ladle.data.splits import Splits
from ladle.diffusion.loss import DenoisingConfig
from ladle.diffusion.model import DiffusionConfig
from ladle.training.plan import DEFAULT_MINUTES, Plan, is_plan
from ladle.training.recipe import Recipe
from ladle.training.stages.joint import JointConfig
from ladle.training.state import check_identity


def check_budget(recipe: Recipe, output: Path) -> None:
    """Refuse to continue a run with another budget or seed, before the data are read. Raises UserError."""
    old, new = known_json(output / "config.json").get("training"), recipe.training.model_dump()
    if isinstance(old, dict) and any(output.glob("state/*/state.json")):  # else the stages compare all
        for budget in (old, new):
            budget["minutes"] = budget.get("minutes") or (None if budget.get("steps") else DEFAULT_MINUTES)
        keys = sorted(old.keys() & {"minutes", "steps", "seed"})
        stored, given = ({f"training.{key}": budget[key] for key in keys} for budget in (old, new))
        check_identity(output, stored, given)


def stage_identity(
    plan: Plan, splits: Splits, rows: str, stage: str, diffusion: DiffusionConfig | None
) -> dict[str, Any]:
    """The values, besides its own settings, that a stage depends on. rows: a fingerprint of the training rows.
    diffusion: not needed by the autoencoder."""
    recipe, training = plan.recipe, plan.recipe.training
    identity: dict[str, Any] = {
        "start": recipe.start,
        "data.rows": rows,
        "autoencoder": recipe.autoencoder,
        "training.autoencoder": _objective(
            training.autoencoder, PlanDecodingConfig if is_plan(recipe) else ReconstructionConfig
        ),
        "training.backbone": training.backbone,
        "data.rows_in_memory": recipe.data.rows_in_memory if splits.portions else None,
        "own_vocabulary": recipe.own_vocabulary,
    }
    if stage == "autoencoder" and is_plan(recipe):  # its decoder reads the conditions
        identity |= {"source": recipe.source, "training.diffusion.drop_prob": training.diffusion.drop_prob}
    if stage != "autoencoder":
        identity |= {
            "diffusion": diffusion, "source": recipe.source,
            "training.diffusion": _objective(training.diffusion, DenoisingConfig),
        }  # fmt: skip
    if stage == "joint" or (stage == "decoder" and "joint" in plan.stages):
        identity["training.joint"] = _objective(training.joint, JointConfig)
    if stage == "decoder":
        identity["training.decoder.times"] = list(training.decoder.times)
        identity["guidance_scale"] = recipe.sampling.guidance_scale
    return identity


def _objective(stage: Config, objective: type[Config]) -> Config:
    """The settings of a stage's loss, without budget and optimiser. A config knows the defaults of settings that
    an older state does not have."""
    return objective.model_validate(stage.model_dump(include=set(objective.model_fields)))
