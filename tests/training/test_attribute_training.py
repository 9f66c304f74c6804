"""Tables with further columns: trained, saved, resumed, sampled from Python and from the command line."""

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import plan_runs
import runs
import tiny
from ladle.conditioning.encoder import LABEL_STD, RawCondition
from ladle.data.splits import DataConfig, load_splits
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.storage.card import model_card
from ladle.storage.description import describe
from ladle.training.plan import make_plan
from ladle.training.run import train
from ladle.training.stages.plan_decoder import PlanDecoderStage
from ladle.training.warm_start import start_from

Run = Callable[..., tuple[int, str, str]]

ANIMALS = ("bee", "cat", "cow", "dog", "fox", "hen", "owl")
NAMES = ["animal", "when"]
DATA = {"attributes": NAMES, "valid_fraction": 0.1}


def a_row(number: int, text: str) -> dict[str, Any]:
    """The animal of the text, and whether it has a time; every fifth row does not know its time."""
    animal = next(animal for animal in ANIMALS if f" {animal} " in text)
    when = None if number % 5 == 0 else "1.0" if "noon" in text else 2
    return {"text": text, "animal": animal, "when": when, "note": text.upper()}


ROWS = [a_row(number, text) for number, text in enumerate(tiny.SENTENCES)]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of a tiny plan model with two attributes, and what it said."""
    run, lines = tmp_path_factory.mktemp("attributes") / "run", list[str]()
    train(plan_runs.recipe(data=DATA), run, log=lines.append, data=ROWS)
    return run, lines


@pytest.fixture(scope="module")
def model(plan: tuple[Path, list[str]]) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(plan[0])


# ------------------------------------------------------------------------------------------------ rows


def test_attributes_are_read_in_one_spelling_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    """As labels are: 1.0 and "1" are one value, an empty cell is none."""
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0].keys())
        writer.writeheader()
        writer.writerows(ROWS)
    for data in (ROWS, str(path)):
        splits = load_splits(DataConfig(attributes=NAMES, text="text"), data)
        row = next(row for row in splits.train if row["text"] == ROWS[3]["text"])
        assert row["attributes"] == {"animal": "cat", "when": "1"}
        assert {len(row["attributes"]) for row in splits.train} == {1, 2}
        told = [line for line in splits.taken if "attribute is column" in line]
        assert len(told) == 2 and "7 values: " in told[0] and "without a value" in told[1]
    assert "attributes" not in load_splits(DataConfig(text="text"), ROWS).train[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"attributes": ["animl"]}, "has no column 'animl': did you mean 'animal'?"),
        ({"attributes": ["animal", "animal"]}, "the column 'animal' is named as attribute twice; name it once"),
        ({"attributes": ["animal"], "label": "animal"}, "'animal' is named as label and as attribute"),
        ({"attributes": ["text"], "text": "text"}, "'text' is named as text and as attribute"),
        ({"attributes": ["note"]}, "'note' cannot be an attribute: it holds free text ('THE OLD CAT SAT ON A MAT. 0')"),
        ({"attributes": ["seed"]}, "an attribute cannot have the name 'seed'"),
        ({"attributes": ["many"]}, "the attribute 'many' has 230 different values; at most 200 are allowed"),
        ({"attributes": ["none"]}, "no training row has a value of the attribute 'none'"),
        ({"attributes": ["list"]}, "'list' is [1], not one value"),
    ],
)
def test_a_column_that_cannot_be_an_attribute_is_refused_in_one_line(columns: dict[str, Any], message: str) -> None:
    """Before anything is trained, with what is wrong and what to do."""
    extra = [{"seed": n, "many": f"v{n}", "none": None, "list": [1]} for n in range(250)]
    rows = [ROWS[n % len(ROWS)] | own for n, own in enumerate(extra)]
    rows = [row | {"text": f"{row['text']} {n}", "note": f"{row['note']} {n}"} for n, row in enumerate(rows)]
    recipe = plan_runs.recipe(data=DATA | {"valid_fraction": 0.08} | columns)
    with pytest.raises(UserError) as caught:
        make_plan(recipe, load_splits(recipe.data, rows))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_attribute_may_have_the_name_of_a_usual_column_of_another_thing() -> None:
    """What is named as an attribute is not taken for the text by its name or by its words."""
    rows = [{"a": row["text"], "target": row["animal"] + " of the farm and of the wood"} for row in ROWS]
    splits = load_splits(DataConfig(attributes=["target"]), rows)
    assert splits.columns.text == "a" and splits.train[0]["attributes"].keys() == {"target"}


def test_values_that_only_held_out_rows_have_are_not_given(tmp_path: Path) -> None:
    """A rare value must not end a training: the row is used without it."""
    rare = [{"text": "a rare animal ran.", "animal": "yak", "when": "2"}]
    run = train(plan_runs.recipe(data=DATA), tmp_path / "run", log=runs.quiet, data={"train": ROWS, "valid": rare})
    assert LatentDiffusion.from_pretrained(run).attributes["animal"] == ANIMALS


# ------------------------------------------------------------------------------------------------ a whole run


def test_a_table_becomes_a_model_that_knows_its_attributes(
    plan: tuple[Path, list[str]], model: LatentDiffusion
) -> None:
    """Conditions, a memory vector each for the decoder, judges, a card and a description that say so."""
    assert model.attributes == {"animal": ANIMALS, "when": ("1", "2")} and model.labels == ()
    assert len(model.autoencoder.condition.attributes) == 2
    assert model.parts.judges.keys() == {"animal", "when"}
    assert any("the animal classifier is right on" in line for line in plan[1])
    assert "when (1, 2)" in model_card(model.parts) and "--attribute" in model_card(model.parts)
    assert "when (1, 2)" in describe(str(plan[0] / "final"))


def test_texts_are_drawn_by_any_of_the_attributes(model: LatentDiffusion, tmp_path: Path) -> None:
    """One value for all, one for each with gaps, none at all; the same again after saving."""
    asked: dict[str, Any] = {"animal": "cat", "when": ["1", 2, None, 1.0]}
    samples = model.generate(seeds=range(4), attributes=asked, return_samples=True, guidance_scale=3.0)
    assert [sample.attributes for sample in samples] == [
        {"animal": "cat", "when": "1"},
        {"animal": "cat", "when": "2"},
        {"animal": "cat"},
        {"animal": "cat", "when": "1"},
    ]
    assert len(model.generate(2)) == 2
    model.save_pretrained(tmp_path / "copy")
    again = LatentDiffusion.from_pretrained(tmp_path / "copy")
    texts = [sample.text for sample in samples]
    assert again.generate(seeds=range(4), attributes=asked, guidance_scale=3.0) == texts
    alone = again.generate(seeds=[1], attributes={"animal": "cat", "when": "2"}, guidance_scale=3.0)
    assert alone == texts[1:2]  # whatever the batch
    torch.testing.assert_close(again.classify(texts, attribute="when"), model.classify(texts, attribute="when"))


def test_each_attribute_changes_the_latents_of_its_own_rows(model: LatentDiffusion) -> None:
    """The other rows of the batch, and the same seeds without the attribute, are left as they were."""
    with torch.no_grad():
        for table in model.diffusion.condition.attributes:
            table.weight *= 20
        model.diffusion.denoiser.output.weight.normal_(std=0.2)

    def latents(**attributes: Any) -> torch.Tensor:
        drawn = model.generate(seeds=[1, 2, 3], attributes=attributes, return_samples=True)
        return torch.stack([sample.latents for sample in drawn])

    whole = latents(animal="cat", when=["1", "1", "1"])
    moved = (latents(animal="cat", when=["1", "2", "1"]) - whole).abs().amax((1, 2))
    assert moved[1] > 1e-3 and moved[[0, 2]].max() < 1e-5
    moved = (latents(animal=["cat", "cat", None], when="1") - whole).abs().amax((1, 2))
    assert moved[2] > 1e-3 and moved[:2].max() < 1e-5


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"attributes": {"animl": "cat"}}, "unknown attribute 'animl': did you mean 'animal'?"),
        ({"attributes": {"animal": "catt"}}, "unknown animal 'catt': did you mean 'cat'?"),
        ({"attributes": {"animal": ["cat", "dog", "cow"]}}, "num_samples 2, animal 3"),
        ({"attributes": {"animal": ["cat", {}]}}, "{} is not a value of animal"),
        ({"attributes": "cat"}, "attributes are 'cat'; give a mapping such as {'food': 'Italian'}"),
        ({"guidance_scales": {"animals": 2}}, "guidance of 'animals': did you mean 'animal'?"),
        (
            {"guidance_scales": {"when": 2}, "attributes": {"animal": "cat"}},
            "guidance of 'when' needs a when that it applies to; give one, or leave it out",
        ),
        ({"choose": "label", "candidates": 2}, "choose='label' needs a label, an attribute"),
    ],
)
def test_what_the_model_does_not_know_is_refused(model: LatentDiffusion, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        model.generate(2, **asked)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_judges_tell_attributes_and_choose_among_candidates(model: LatentDiffusion) -> None:
    """By words where there is a judge, else by the denoiser; the model has no label to tell."""
    texts = ["the old cat ran to the sea.", "the mad bee sat on a mat."]
    shares = model.classify(texts, attribute="animal")
    assert [ANIMALS[i] for i in shares.argmax(1)] == ["cat", "bee"]
    other = model.classify(texts, attribute="animal", by="denoiser")
    torch.testing.assert_close(other.sum(1), torch.ones(2))
    assert other.shape == shares.shape and not torch.allclose(other, shares)
    with pytest.raises(UserError, match="trained without labels, so it cannot classify; use attribute='animal'"):
        model.classify(texts)
    with pytest.raises(UserError, match="unknown attribute 'wen': did you mean 'when'"):
        model.classify(texts, attribute="wen")
    asked: dict[str, Any] = {"attributes": {"animal": "cat", "when": "1"}, "choose": "label", "label_confidence": 1.0}
    (kept,) = model.generate(seeds=[5], candidates=3, return_samples=True, **asked)
    values = {"animal": ANIMALS.index("cat"), "when": 0}
    share = min(float(model.classify(kept.text, attribute=k)[0, i]) for k, i in values.items())
    assert kept.score == pytest.approx(share if kept.text.strip() else 0.0, abs=1e-6)
    (kept,) = model.generate(
        seeds=[5], candidates=3, return_samples=True, guidance_scales={"animal": -1.0, "when": 0}, **asked
    )
    share = 1 - float(model.classify(kept.text, attribute="animal")[0, values["animal"]])
    assert kept.score == pytest.approx(share if kept.text.strip() else 0.0, abs=1e-6)


def test_a_condition_to_avoid_guides_the_plan_and_is_not_told_to_the_decoder(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that is told of it writes it. With nothing else to obey, a text is drawn as one without a condition."""
    seen: list[list[list[int]]] = []
    forward = type(model.autoencoder.condition).forward

    def noting(self: Any, raw: RawCondition, *rest: Any) -> Any:
        seen.append(raw.attribute_ids.tolist())
        return forward(self, raw, *rest)

    monkeypatch.setattr(type(model.autoencoder.condition), "forward", noting)
    asked = {"animal": "cat", "when": "1"}
    for scales, told in (({}, [1, 0]), ({"animal": 2.0}, [1, 0]), ({"animal": -1.0}, [-1, 0]), ({"when": 0}, [1, -1])):
        model.generate(seeds=[3], attributes=asked, guidance_scales=scales)
        assert seen.pop() == [told], scales
    both = {"unconditional": {"stop_time": 0.5}, "conditional": {"stop_time": 0.1}, "return_samples": True}
    (bound,) = model.generate(seeds=[3], attributes=asked, guidance_scales={"animal": -1.0}, **both)
    (free,) = model.generate(seeds=[3], attributes={"animal": "cat"}, guidance_scales={"animal": -1.0}, **both)
    (plain,) = model.generate(seeds=[3], **both)
    assert free.log_snr == plain.log_snr and bound.log_snr != plain.log_snr
    assert not torch.allclose(free.latents, plain.latents)
    mixed = model.generate(
        seeds=[3, 3], attributes={"animal": "cat", "when": ["1", None]}, guidance_scales={"animal": -1.0}, **both
    )
    assert [sample.log_snr for sample in mixed] == [bound.log_snr, free.log_snr]  # each stops at its own time


# ------------------------------------------------------------------------------------------------ trainings


def test_an_interrupted_run_ends_as_the_unbroken_one(
    tmp_path: Path, plan: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conditions are dropped anew at each step: the same ones after a break."""
    steps, loss = [], PlanDecoderStage.loss

    def interrupted(stage: PlanDecoderStage, batch: Any) -> Any:
        steps.append(0)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(stage, batch)

    monkeypatch.setattr(PlanDecoderStage, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(plan_runs.recipe(data=DATA), tmp_path / "run", log=runs.quiet, data=ROWS)
    train(plan_runs.recipe(data=DATA), tmp_path / "run", log=runs.quiet, data=ROWS)
    assert len(steps) == 6  # no step was done twice
    ours, theirs = runs.weights(tmp_path / "run"), runs.weights(plan[0])
    assert ours.keys() == theirs.keys() and any("attributes" in name for name in ours)
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []
    other = [row | {"when": "3"} if row["when"] == 2 else row for row in ROWS]
    with pytest.raises(UserError, match=r"data\.rows"):
        train(plan_runs.recipe(data=DATA), tmp_path / "run", log=runs.quiet, data=other)


@pytest.mark.parametrize("stages", ["diffusion", "joint"])
def test_aligned_latents_take_attributes_beside_labels(stages: str, tmp_path: Path) -> None:
    """An older model's latents: the length model reads attributes too, and so does the joint stage."""
    rows = [row | {"label": tiny.LABELS[n % 2]} for n, row in enumerate(ROWS)]
    training = {"joint": {"share": 1.0}, "diffusion": {"share": 0.0}} if stages == "joint" else {}
    recipe = runs.recipe(training=training).model_copy(update={"data": DataConfig.parse(DATA)})
    model = LatentDiffusion.from_pretrained(train(recipe, tmp_path / "run", log=runs.quiet, data=rows))
    assert model.attributes.keys() == {"animal", "when"} and model.labels == tiny.LABELS
    assert model.diffusion.length.num_values == [7, 2]
    assert len(model.generate(2, label="bad", attributes={"when": ["1", None]}, guidance_scales={"label": 3})) == 2


def test_a_start_without_attributes_gets_them_and_its_estimates_begin_as_they_were() -> None:
    """As labels do: no value adds nothing at first, two values differ. Those that the start has are taken by name."""
    autoencoder = tiny.tiny_autoencoder()
    prior = tiny.tiny_diffusion(autoencoder, labels=(), source=False)
    attributes = {"b": ("x", "y"), "a": ("u", "v", "w")}
    diffusion = tiny.tiny_diffusion(autoencoder, labels=(), source=False, attributes=attributes, seed=1)
    start_from(prior, diffusion)
    zt, mask = torch.randn(1, 4, autoencoder.latent_dim).repeat(2, 1, 1), torch.ones(2, 4, dtype=torch.bool)
    level = prior.schedule.level(torch.tensor(0.5))
    found, expected = (
        own.denoise(mask, own.condition.encode(RawCondition(), 2))(zt, level) for own in (diffusion, prior)
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    raw = RawCondition(attribute_ids=torch.tensor([[0, -1], [1, -1]]))
    vector = diffusion.condition.encode(raw, 2).vector
    assert float((vector[0] - vector[1]).detach().square().mean().sqrt()) > LABEL_STD / 2
    more = tiny.tiny_diffusion(
        autoencoder, labels=(), source=False, attributes={"b": ("x", "y"), "a": ("u",), "0": ("1", "2")}, seed=2
    )
    start_from(diffusion, more)
    tables, known = more.condition.attributes, diffusion.condition.attributes
    torch.testing.assert_close(tables[2].weight, known[1].weight)  # b, now behind 0 and a
    assert not tables[0].weight[-1].any() and tables[0].weight[:2].abs().min() > 0
    assert not tables[1].weight[-1].any() and tables[1].weight.shape == (2, 32)


# ------------------------------------------------------------------------------------------------ the command line


def test_a_table_is_trained_on_and_sampled_from_by_command(run: Run, tmp_path: Path) -> None:
    """`--attribute` names columns in `train`, and values in `sample`; written rows hold them."""
    data, output = runs.write_rows(tmp_path / "farm.jsonl", ROWS), tmp_path / "run"
    sets = [f"--set={key}={json.dumps(value)}" for key, value in flat(plan_runs.settings()) if key != "start"]
    code, out, err = run(
        "train",
        "--data",
        data,
        "--output",
        output,
        "--from-scratch",
        "--attribute",
        "animal",
        "--attribute",
        "when",
        *sets,
    )
    assert code == 0, err
    assert "farm.jsonl: attribute is column 'animal': 7 values: " in err
    model = ("sample", "--model", output / "final", "--seed", 1)
    turn = ("--attribute", "animal=cat", "--attribute", "animal=dog", "--attribute", "when=1.0")
    code, out, err = run(*model, "-n", 3, *turn, "--guidance", "animal=3", "--guidance", "when=-1")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["seed"], row["animal"], row["when"]) for row in rows] == [
        (1, "cat", "1"), (2, "dog", "1"), (3, "cat", "1"),
    ]  # fmt: skip
    assert {json.dumps(row["guidance"]) for row in rows} == {'{"animal": 3.0, "when": -1.0}'}
    loaded = LatentDiffusion.from_pretrained(output)
    texts = loaded.generate(
        seeds=[1, 2, 3],
        attributes={"animal": ["cat", "dog", "cat"], "when": 1},
        guidance_scales={"animal": 3, "when": -1},
    )
    assert [row["text"] for row in rows] == texts
    for words, message in (
        (["--attribute", "animal"], "--attribute animal: give NAME=VALUE, such as food=Italian"),
        (["--attribute", "animal=catt"], "unknown animal 'catt': did you mean 'cat'?"),
        (["--attribute", "wen=1"], "unknown attribute 'wen': did you mean 'when'?"),
        (["--guidance", "2"], "--guidance 2: give NAME=VALUE, such as food=2 (--guidance-scale takes"),
        (["--guidance", "animal=much"], "--guidance animal=much: 'much' is not a number"),
        (["--guidance", "animal=2"], "guidance of 'animal' needs a animal that it applies to"),
        (["--attribute-column", "when"], "--attribute-column names a column of a file; give it with --source FILE"),
        (["--guidance-from", "0.2", "--guidance-to", "0.5"], "guidance_to = 0.5 is above"),
    ):
        code, _, err = run(*model, *words)
        assert code == 2 and message in err and err.count("\n") == 1, (words, err)


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as (dotted key, value)."""
    return [
        found
        for key, value in values.items()
        for found in (flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)])
    ]


def test_columns_of_a_file_of_sources_give_attributes_where_they_are_asked_for(run: Run, tmp_path: Path) -> None:
    """As `--label-column` gives labels; a row without a value has none, and others come from `--attribute`."""
    parts = tiny.tiny_plan_parts(labels=(), attributes={"animal": ANIMALS, "when": ("1", "2")})
    LatentDiffusion(parts).save_pretrained(tmp_path / "model")
    rows = [{"source": "an old one", "when": 1.0, "animal": "yak"}, {"source": "another one", "when": None}]
    asked = ("sample", "--model", tmp_path / "model", "--source", runs.write_rows(tmp_path / "s.jsonl", rows), "-n", 1)
    code, out, err = run(*asked, "--attribute-column", "when", "--attribute", "animal=hen", "--guidance", "when=2")
    assert code == 0, err
    drawn = [json.loads(line) for line in out.splitlines()]
    assert [(row["source"], row.get("when"), row["animal"]) for row in drawn] == [
        ("an old one", "1", "hen"), ("another one", None, "hen"),
    ]  # fmt: skip
    code, out, _ = run(*asked)
    assert code == 0 and "when" not in json.loads(out.splitlines()[0])
    for name, message in (
        ("animal", "unknown animal 'yak': "),
        ("wen", "s.jsonl has no column 'wen': did you mean 'when'"),
    ):
        code, _, err = run(*asked, "--attribute-column", name)
        assert code == 2 and message in err


def test_judges_of_a_damaged_folder_are_one_line(
    plan: tuple[Path, list[str]], model: LatentDiffusion, tmp_path: Path
) -> None:
    """Judges are numbered as the attributes are; one alone may be there."""
    LatentDiffusion(replace(model.parts, judges={"when": model.parts.judges["when"]})).save_pretrained(tmp_path / "one")
    assert {path.name for path in (tmp_path / "one" / "judges").iterdir()} == {"1"}
    assert LatentDiffusion.from_pretrained(tmp_path / "one").parts.judges.keys() == {"when"}
    (tmp_path / "one" / "judges" / "1" / "judge.json").write_text("{")
    with pytest.raises(UserError, match="copy"):
        LatentDiffusion.from_pretrained(tmp_path / "one")
