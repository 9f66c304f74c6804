"""`train` with plan latents: from rows to a model folder, in one go or in pieces, with any conditions."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
import tiny
from ladle.autoencoder.encoding import store_latents, store_tokens
from ladle.autoencoder.plan_loss import PlanDecodingConfig
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.data.row_portions import in_every_epoch
from ladle.data.rows import Row
from ladle.data.splits import DataConfig, load_splits
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import load_parts
from ladle.training.optimiser import TrainingConfig
from ladle.training.plan import make_plan
from ladle.training.run import train
from ladle.training.stages.plan_decoder import PlanDecoderStage
from plan_runs import COLUMNS, ROWS, SIZES, recipe, rows, settings
from runs import steps_done, weights

# ------------------------------------------------------------------------------------------------ a whole run


@pytest.mark.parametrize("columns", COLUMNS)
def test_rows_become_a_model_that_writes_with_and_without_its_conditions(columns: str, tmp_path: Path) -> None:
    """The two stages of plans, labels and sources for denoiser and decoder, a folder that loads with equal texts."""
    lines: list[str] = []
    train(recipe(training={"sample_every": 0.5}), tmp_path / "run", log=lines.append, data=rows(columns))
    assert steps_done(tmp_path / "run") == {"autoencoder": 6, "diffusion": 2}
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    with_labels, with_sources = columns in ("labels", "both"), columns in ("sources", "both")
    assert model.labels == (tiny.LABELS if with_labels else ())
    assert model.takes_source == with_sources
    assert (model.autoencoder.condition is None) == (columns == "neither")
    given: dict[str, Any] = {"label": ["good", None, "bad"]} if with_labels else {}
    given |= {"source": ["cat sat", None, None]} if with_sources else {}
    texts = model.generate(3, seed=0, **given)
    assert len(model.reconstruct(["the old cat"])) == 1
    model.save_pretrained(tmp_path / "copy")
    assert LatentDiffusion.from_pretrained(tmp_path / "copy").generate(3, seed=0, **given) == texts
    assert {path.name.split("-")[0] for path in (tmp_path / "run" / "samples").iterdir()} == {
        "autoencoder",
        "diffusion",
    }


def test_what_suits_plans_is_chosen_where_the_recipe_does_not_say_otherwise(tmp_path: Path) -> None:
    """A perceptron, no shift of the schedule (which is not measured), sources as plans, words drawn early."""
    given = settings()
    del given["diffusion"]
    lines: list[str] = []
    train(given, tmp_path / "run", log=lines.append, data=rows("sources"))
    parts = load_parts(tmp_path / "run")
    assert parts.diffusion is not None and parts.diffusion.condition.config.source is not None
    assert parts.diffusion.config.denoiser.kind == "perceptron"
    assert parts.diffusion.config.schedule.shift == 1.0
    assert not any("shift" in line for line in lines)
    assert parts.diffusion.condition.config.source.memory == "latents"
    sampling = parts.sampling
    assert (sampling.num_inference_steps, sampling.candidates, sampling.temperature) == (2, 1, 0.95)
    assert sampling.conditional.stop_time > 0 and sampling.unconditional.stop_time > 0


@pytest.mark.parametrize("columns", COLUMNS)
def test_only_with_sources_a_plan_is_handed_over_early(columns: str) -> None:
    """The decoder reads the source itself. What the recipe says counts; texts without a condition stay as they were."""
    splits = load_splits(DataConfig(), rows(columns))
    usual = make_plan(recipe(), splits).recipe.sampling
    assert usual.conditional.stop_time == (0.9 if columns in ("sources", "both") else 0.2)
    assert (usual.unconditional.stop_time, usual.temperature) == (0.2, 0.95)
    given = recipe(sampling={"conditional": {"stop_time": 0.4}})
    assert make_plan(given, splits).recipe.sampling.conditional.stop_time == 0.4


def test_the_recipe_decides_where_it_says_something(tmp_path: Path) -> None:
    """Another denoiser, another shift, another way to draw."""
    made = recipe(
        diffusion={"denoiser": {"width": 32, "num_layers": 2, "num_skips": 1}, "schedule": {"shift": 1.5}},
        sampling={"num_inference_steps": 3, "temperature": 0.5, "unconditional": {"stop_time": 0.0}},
    )
    train(made, tmp_path / "run", log=runs.quiet, data=rows("labels"))
    parts = load_parts(tmp_path / "run")
    assert parts.diffusion is not None
    assert (parts.diffusion.config.denoiser.kind, parts.diffusion.config.schedule.shift) == ("compact", 1.5)
    assert (parts.sampling.temperature, parts.sampling.unconditional.stop_time) == (0.5, 0.0)
    assert len(LatentDiffusion(parts).generate(2, label="good")) == 2


def test_only_the_decoder_is_trained_and_the_plans_stay(tmp_path: Path) -> None:
    """The sentence encoder is frozen and each text is encoded once, so its plan must be the same after the stage."""
    train(recipe(), tmp_path / "run", stage="autoencoder", log=runs.quiet, data=rows("neither"))
    first = load_parts(tmp_path / "run").autoencoder
    train(recipe(), tmp_path / "run", log=runs.quiet, data=rows("neither"))
    last = load_parts(tmp_path / "run").autoencoder
    torch.testing.assert_close(*(one.encode_texts(tiny.SENTENCES).values for one in (first, last)), atol=0, rtol=0)
    train(recipe(training={"steps": 40}), tmp_path / "longer", log=runs.quiet, data=rows("neither"))
    longer = load_parts(tmp_path / "longer").autoencoder
    torch.testing.assert_close(*(one.encode_texts(tiny.SENTENCES).values for one in (last, longer)), atol=0, rtol=0)
    embeddings = [one.backbone.embedding for one in (last, longer)]
    assert not torch.equal(*embeddings)


def test_the_decoder_learns_from_plan_and_conditions_and_nothing_else_learns() -> None:
    """Other labels or sources are another loss; what is dropped is not seen; the sentence encoder is frozen."""
    parts = tiny.tiny_plan_parts()
    assert parts.diffusion is not None
    given = [Row(**row) for row in ROWS[:16]]
    condition = ConditionStore.of(SourceReader(parts.autoencoder, parts.diffusion.condition.config), given)
    texts = [row["text"] for row in given]
    stored = store_tokens(parts.autoencoder, texts), store_latents(parts.autoencoder, texts), condition

    def losses(drop_prob: float) -> list[float]:
        settings, objective = TrainingConfig(steps=1, max_tokens=400), PlanDecodingConfig()
        stage = PlanDecoderStage(
            parts.autoencoder, in_every_epoch(stored), stored, settings, objective, drop_prob=drop_prob
        )
        batch = stage.load(list(range(16)))
        raw = batch.condition
        assert raw.label_ids is not None and raw.source_ids is not None
        conditions = (raw, replace(raw, label_ids=1 - raw.label_ids), replace(raw, source_ids=raw.source_ids.flip(0)))
        batches = [batch._replace(condition=condition) for condition in conditions]
        found = []
        for one in (*batches, batch._replace(z0=batch.z0.flip(0))):
            torch.manual_seed(0)
            found.append(stage.loss(one)[0].item())
        frozen = {name for name, p in stage.module.named_parameters() if not p.requires_grad}
        assert frozen == {name for name, _ in stage.module.named_parameters() if ".encoder." in name}
        return found

    assert len(set(losses(0.0))) == 4
    assert len(set(losses(1.0))) == 2  # the plan alone is seen


def test_held_out_texts_are_scored_at_three_levels(tmp_path: Path) -> None:
    """Nearly clean, in the middle, nearly pure noise; the one in the middle decides which weights are kept."""
    given = {"validate_every": 0.5, "autoencoder": {"share": 1.0}, "diffusion": {"share": 0.0}}
    train(recipe(training=given), tmp_path / "run", log=runs.quiet, data=rows("labels"))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [record["validation"] for record in records if "validation" in record]
    assert len(found) > 1
    assert all(losses.keys() == {"clean_loss", "autoregressive_loss", "noise_loss"} for losses in found)
    assert found[-1]["noise_loss"] < found[0]["noise_loss"]


# ------------------------------------------------------------------------------------------------ in pieces


def test_interrupted_and_resumed_it_ends_as_the_unbroken_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the decoder's stage, and the same call again: equal steps and weights, labels and sources included."""
    training = {"save_every_seconds": 1000, "steps": 16}
    made, data = recipe(training=training), rows("both")
    train(made, tmp_path / "whole", log=runs.quiet, data=data)
    calls, loss = [], PlanDecoderStage.loss

    def interrupted(stage: PlanDecoderStage, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) in (3, 9):
            os.kill(os.getpid(), signal.SIGINT)
        return loss(stage, batch)

    monkeypatch.setattr(PlanDecoderStage, "loss", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(made, tmp_path / "broken", log=runs.quiet, data=data)
        assert not (tmp_path / "broken" / "final").exists()
    train(made, tmp_path / "broken", log=runs.quiet, data=data)
    assert steps_done(tmp_path / "broken") == steps_done(tmp_path / "whole") == {"autoencoder": 12, "diffusion": 4}
    torch.testing.assert_close(weights(tmp_path / "broken"), weights(tmp_path / "whole"), atol=0, rtol=0)
    assert len(calls) == 12  # no step was done twice


def test_a_run_stops_after_the_decoder_and_goes_on_later_with_its_labels(tmp_path: Path) -> None:
    """`stage="autoencoder"` trains a decoder that reads the labels, as the whole run would have."""
    data = rows("both")
    train(recipe(), tmp_path / "whole", log=runs.quiet, data=data)
    train(recipe(), tmp_path / "run", stage="autoencoder", log=runs.quiet, data=data)
    parts = load_parts(tmp_path / "run")
    assert parts.diffusion is None and parts.autoencoder.condition is not None
    train(recipe(), tmp_path / "run", log=runs.quiet, data=data)
    assert steps_done(tmp_path / "run") == {"autoencoder": 6, "diffusion": 2}
    torch.testing.assert_close(weights(tmp_path / "run"), weights(tmp_path / "whole"), atol=0, rtol=0)


def test_a_finished_run_trains_nothing_and_another_goal_is_refused(tmp_path: Path) -> None:
    """Settings of the decoder's goal are what a run depends on."""
    data = rows("labels")
    train(recipe(), tmp_path / "run", log=runs.quiet, data=data)
    lines: list[str] = []
    train(recipe(), tmp_path / "run", log=lines.append, data=data)
    assert sum("already trained" in line for line in lines) == 2
    for stage, changed in (("autoencoder", {"clean_share": 0.5}), ("diffusion", {"drop_prob": 0.3})):
        other = recipe(training={stage: changed})
        with pytest.raises(UserError, match=f"was started with training.{stage}.{next(iter(changed))}"):
            train(other, tmp_path / "run", log=runs.quiet, data=data)


def test_a_given_plan_model_is_trained_on(tmp_path: Path) -> None:
    """start = a folder of plans: its encoder, plans and denoiser are kept, its decoder learns the new texts."""
    train(recipe(), tmp_path / "first", log=runs.quiet, data=rows("labels"))
    given = load_parts(tmp_path / "first").autoencoder
    for name, data in (("same", rows("labels")[::2]), ("other", rows("neither")[::2])):
        made = settings(start=str(tmp_path / "first"))
        del made["diffusion" if name == "same" else "autoencoder"]  # they are the start's
        lines: list[str] = []
        train(made, tmp_path / name, log=lines.append, data=data)
        assert steps_done(tmp_path / name) == {"autoencoder": 6, "diffusion": 2}
        new = load_parts(tmp_path / name).autoencoder
        torch.testing.assert_close(*(one.encode_texts(tiny.SENTENCES).values for one in (given, new)), atol=0, rtol=0)
        assert not torch.equal(given.backbone.embedding, new.backbone.embedding)
        assert (new.condition is None) == (name == "other")
        assert f"starting from the autoencoder and the denoiser of '{tmp_path / 'first'}'" in lines


def test_a_given_decoder_goes_on_reading_the_labels_that_it_knows(tmp_path: Path) -> None:
    """Equal labels keep their vectors; others begin anew. (Share 0: no training of the decoder in between.)"""
    train(recipe(), tmp_path / "first", log=runs.quiet, data=rows("labels"))
    given = load_parts(tmp_path / "first").autoencoder.condition
    renamed = [row | {"label": row["label"] + "!"} for row in rows("labels")]
    for name, data in (("same", rows("labels")), ("other", renamed)):
        made = recipe(start=str(tmp_path / "first"), training={"autoencoder": {"share": 0.0}})
        train(made, tmp_path / name, log=runs.quiet, data=data)
        assert steps_done(tmp_path / name).keys() == {"diffusion"}
        new = load_parts(tmp_path / name).autoencoder.condition
        assert torch.equal(new.label.weight, given.label.weight) == (name == "same")


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("stage", ["joint", "decoder"])
def test_a_stage_that_plans_do_not_have_is_refused_in_one_line(stage: str, tmp_path: Path) -> None:
    """Before anything is trained."""
    with pytest.raises(UserError) as caught:
        train(recipe(training={stage: {"share": 0.5}}), tmp_path / "run", log=runs.quiet, data=rows("neither"))
    assert str(caught.value) == f"training.{stage}.share: plan latents have no stage '{stage}'; leave it out"
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"bottleneck": {"num_latents": 3}},  # 3 x 8 is not the encoder's width
        {"backbone": {"num_encoder_layers": 0}},  # nothing makes plans
    ],
)
def test_plans_that_nothing_can_make_are_refused_in_one_line(wrong: dict[str, Any], tmp_path: Path) -> None:
    """Sizes that do not fit, and neither an encoder nor the name of a sentence encoder."""
    sizes = {
        name: SIZES[name] | wrong.get(name, {}) if isinstance(SIZES[name], dict) else SIZES[name] for name in SIZES
    }
    with pytest.raises(UserError) as caught:
        train(recipe(autoencoder=sizes), tmp_path / "run", log=runs.quiet, data=rows("neither"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"autoencoder": runs.SETTINGS["autoencoder"]}, 'diffusion.denoiser.kind "perceptron" needs latents of one'),
        (
            {"autoencoder": SIZES | {"bottleneck": {"latent_dim": 8}}},
            'autoencoder.backbone.kind "language" reads plans',
        ),
        ({"source": {"plain": True}}, "source.plain: a denoiser"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_in_one_line(
    wrong: dict[str, Any], line: str, tmp_path: Path
) -> None:
    """Before anything is trained, and not by an error of torch when the second stage begins."""
    with pytest.raises(UserError, match=f"^{line}"):
        train(recipe(**wrong), tmp_path / "run", log=runs.quiet, data=rows("sources"))
    assert not (tmp_path / "run" / "state").exists()
