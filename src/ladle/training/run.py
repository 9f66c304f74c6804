"""`ladle train`: makes a plan, runs its stages (or resumes or skips them, by the run folder), and writes the model."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ladle.data.files import known_json
from ladle.data.rows import counted
from ladle.data.splits import Data, load_splits
from ladle.errors import UserError
from ladle.evaluation.judge import fit_own
from ladle.layers import usual_defaults
from ladle.storage.model_folder import save_parts
from ladle.storage.parts import ModelParts
from ladle.storage.run_folder import environment, run_folder
from ladle.storage.writing import atomic_json, atomic_text
from ladle.training.assembly import STAGE_BUILDERS, Assembly
from ladle.training.expectation import expected
from ladle.training.finished import FinishedRun
from ladle.training.identity import check_budget, stage_identity
from ladle.training.loop import already_trained, state_folder, train_stage
from ladle.training.plan import DEFAULT_MINUTES, STAGES, Plan, is_plan, make_plan
from ladle.training.processes import is_main, main_first, set_up, several
from ladle.training.progress import Log, say
from ladle.training.recipe import Recipe, parse_recipe, to_toml
from ladle.training.sharding import check_sharding
from ladle.training.state import Position
from ladle.training.trackers import check_trackers
from ladle.training.warm_start import BASE

FEW_ROWS = 100
FEW_STEPS = 20  # after so few the texts are still those of the start


@usual_defaults()
def train(
    recipe: Recipe | Mapping[str, Any] | None,
    output: str | Path,
    stage: str = "all",
    log: Log = say,
    *,
    data: Data | None = None,
) -> Path:
    """Train the model of `recipe` under `output`, and return the model folder, `output`/final. A repeated call
    continues after an interruption.

        ladle.train(None, "runs/reviews", data=["A text.", "Another one."])

    Of several processes (torchrun) only the first writes files and messages. All of them must see the folder `output`.

    Args:
        recipe: from `load_recipe`, or a mapping with the same settings; None for the defaults of `ladle train`.
        output: the run folder: recipe.toml, config.json, environment.json, metrics.jsonl, samples/, state/, final/.
        stage: `all`, or the last stage to train: `autoencoder`, `diffusion`, `joint`, `decoder`.
        log: receives messages for the user.
        data: rows in memory, instead of the recipe's data: texts, dicts, a `datasets.Dataset`, or one of these for each
            of train, valid and test.

    Raises:
        UserError: bad data; a run folder of another recipe, or in use by another process; a folder with things of
            the user's own that have the names above; an input that would be written over. Nothing is changed then.
        LadleError: the folder cannot be written.
    """
    if stage not in ("all", *STAGES):
        raise UserError(f"unknown stage '{stage}'; allowed are all, {', '.join(STAGES)}")
    recipe = recipe if isinstance(recipe, Recipe) else parse_recipe(recipe or {})
    if several():
        set_up()
    check_sharding()
    check_trackers(recipe.training.trackers)
    log = log if is_main() else lambda line: None
    output, start = Path(output), recipe.start
    inputs = [*(data.values() if isinstance(data, Mapping) else [data]), start, Path(start) / "final"]
    inputs += [recipe.data.path, recipe.data.valid_path, recipe.data.test_path, recipe.autoencoder.backbone.pretrained]
    with run_folder(output, inputs) if is_main() else nullcontext():
        return _train(recipe, output, stage, log, data)


def _train(recipe: Recipe, output: Path, stage: str, log: Log, data: Data | None) -> Path:
    check_budget(recipe, output)
    splits = load_splits(recipe.data, data)
    for line in (*splits.taken, *splits.notes):  # before anything else is done
        log(line)
    different = len({row["text"] for row in splits.train})
    if different < 2 and not splits.portions:
        times = f", {len(splits.train):,} times" if len(splits.train) > 1 else ""
        raise UserError(
            f"there is one training text{times}; give two different ones at least, and hundreds to learn a language"
        )
    plan = make_plan(recipe, splits, STAGES[-1] if stage == "all" else stage)
    counts = f"{counted(len(splits.train), 'training text')}, {counted(len(splits.valid), 'held-out text')}"
    for note in (counts, *plan.notes):
        log(note)
    if plan.start.name == BASE and plan.start.keeps_autoencoder:
        training = plan.recipe.training
        log(expected(len(splits.train), None if training.steps else training.minutes or DEFAULT_MINUTES))
    if different < FEW_ROWS:
        few, same = "these are few texts to learn from", f"only {different:,} of the texts are different"
        what = few if len(splits.train) < FEW_ROWS else same
        why = "a long training learns them by heart; a shorter one is set by --minutes (training.minutes)"
        log(f"warning: {what}; {why}")
    assembly = Assembly(plan, splits, output, log)
    record, states = FinishedRun(output, plan, splits, assembly.rows_digest), {}
    with main_first():  # (it mends what a killed run left)
        for name, settings in plan.stages.items():
            known = stage_identity(plan, splits, assembly.rows_digest, name, plan.recipe.diffusion)
            later = ("model.", "data.batches", *("diffusion.schedule.shift",) * plan.measures_shift)
            states[name] = state_folder(name, settings, output, known).read(later)
        finished = record.is_whole(states)
    if finished:
        for name, state in states.items():
            log(already_trained(name, Position(**(state or {})["position"])))
        if is_main():
            _describe(plan, output)
        return output / "final"
    assembly.reader  # noqa: B018 (a source encoder that cannot be loaded is reported before any training)
    if is_main():
        _describe(plan, output)
    minutes: dict[str, float] = {}
    for name, settings in plan.stages.items():
        built = STAGE_BUILDERS[name](assembly, settings)
        config = assembly.diffusion.config if name != "autoencoder" else None
        identity = stage_identity(plan, splits, assembly.rows_digest, name, config)
        result = train_stage(built, settings, output, identity=identity, log=log)
        minutes[name] = round(result.seconds / 60, 2)
        if settings.minutes is not None and result.step < FEW_STEPS:
            made = f"{name} made only {counted(result.step, 'step')} in its time"
            log(f"warning: {made}, so the model has hardly learnt your texts; give more --minutes (training.minutes)")
    parts = _model(assembly, minutes)
    with main_first():
        if is_main():
            save_parts(parts, output / "final")
            record.write({name: known_json(output / "state" / name / "state.json") for name in plan.stages})
    return output / "final"


def _model(assembly: Assembly, minutes: dict[str, float]) -> ModelParts:
    """The trained model, as it is saved."""
    recipe, splits = assembly.recipe, assembly.splits
    source = recipe.data.id or Path(recipe.data.path or "rows in memory").name
    what = "rows at a time" if splits.portions else "rows"
    data = [{"name": source, what: len(splits.train), "held out": len(splits.valid)}]
    info = {
        "data": data,
        "columns": splits.columns.given(),
        "start": assembly.plan.start.name,
        "minutes": minutes,
        **recipe.card,
    }
    # A decoder that has not learnt to read the denoiser's estimates gets none.
    learnt = "decoder" in minutes or is_plan(recipe)
    sampling = recipe.sampling if learnt else recipe.sampling.to_the_end()
    parts = ModelParts(recipe.name, assembly.finished_autoencoder, None, sampling, info)
    parts.source_encoder = assembly.reader.encoder
    if assembly.plan.with_diffusion:
        parts.diffusion = assembly.diffusion.eval()
        parts.judge = fit_own(splits.train, splits.valid)  # which of several candidates has the label
        for name in assembly.plan.condition.attributes:
            judge = fit_own(splits.train, splits.valid, name)
            parts.judges |= {} if judge is None else {name: judge}
    for name, judge in parts.every_judge.items():
        if real := judge.real:
            right, count = round(real["value"] * real["n"]), counted(real["n"], "held-out text")
            shares = f"{real['value']:.1%}; by chance: {1 / len(judge.labels):.1%}"
            assembly.log(f"the {name} classifier is right on {right:,} of {count} ({shares})")
    return parts


def _describe(plan: Plan, output: Path) -> None:
    """recipe.toml, config.json and environment.json of a run folder."""
    config = plan.recipe.model_dump(mode="json")
    if plan.measures_shift:  # what is measured is in state/shift.json, and the same recipe measures it again
        given = "schedule" in plan.recipe.diffusion.model_fields_set
        group, name = (config["diffusion"]["schedule"], "shift") if given else (config["diffusion"], "schedule")
        del group[name]
    atomic_json(output / "config.json", config)
    atomic_text(output / "recipe.toml", to_toml(config))
    atomic_json(output / "environment.json", environment())
