"""`train`: every stage of a tiny model from a file to a model folder, in one go or in pieces."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import memorised
import tiny
from ladle.conditioning.encoder import LABEL_STD, RawCondition
from ladle.data.stores import count_cut
from ladle.errors import UserError
from ladle.health.recovery import advised_shift
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import load_parts, save_parts
from ladle.training.recipe import Recipe, load_recipe
from ladle.training.run import train
from ladle.training.warm_start import start_from
from runs import steps_done, weights

ROWS = [
    {"text": text, "label": tiny.LABELS[i % 2], "source": f"{text.split()[1]} {text.split()[2]}"}
    for i, text in enumerate(tiny.SENTENCES)
]
SIZES = {
    "max_tokens": 24,
    "backbone": {"vocab_size": 320, "width": 32, "num_encoder_layers": 1, "num_decoder_layers": 1},
    "bottleneck": {"latent_dim": 8, "num_layers": 1},
}


def write(path: Path, rows: list[dict[str, str]], *columns: str) -> str:
    path.write_text("".join(json.dumps({key: row[key] for key in columns if key in row}) + "\n" for row in rows))
    return str(path)


def written_at(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def recipe(path: str, **settings: Any) -> Recipe:
    """A tiny model from nothing, six steps or so to a stage."""
    training = {
        "optimiser": {"max_tokens": 400},
        "steps": 14,
        "precision": "fp32",
        "save_every_seconds": 1000,
        "validate_every": 0,
        "sample_every": 0,
    }
    values: dict[str, Any] = {
        "name": "made",
        "start": "nothing",
        "data": {"path": path, "valid_fraction": 0.1},
        "autoencoder": SIZES,
        "diffusion": {"denoiser": {"width": 32, "num_layers": 2, "num_skips": 1}},
        "sampling": {"num_inference_steps": 2},
    } | settings
    values["training"] = training | values.get("training", {})
    return Recipe.parse(values)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, list[str]]:
    """A whole run on texts with labels: its folder, its recipe, what it said."""
    folder = tmp_path_factory.mktemp("labelled")
    made = recipe(write(folder / "rows.jsonl", ROWS, "text", "label"), training={"sample_every": 0.5})
    lines: list[str] = []
    assert train(made, folder / "run", log=lines.append) == folder / "run" / "final"
    return folder / "run", made, lines


# ------------------------------------------------------------------------------------------------ a whole run


def test_a_file_with_labels_becomes_a_model_that_samples_each(labelled: tuple[Path, Recipe, list[str]]) -> None:
    """From nothing, every stage: the model folder loads and takes its labels by name."""
    run, _, _ = labelled
    model = LatentDiffusion.from_pretrained(run)
    assert model.labels == tiny.LABELS
    assert not model.takes_source
    assert len(model.generate(4, label="good")) == 4
    assert len(model.reconstruct(["the old cat"])) == 1
    assert steps_done(run) == {"autoencoder": 4, "diffusion": 6, "decoder": 4}


def test_a_run_folder_says_how_it_was_made(labelled: tuple[Path, Recipe, list[str]]) -> None:
    """The resolved recipe reads back, the versions, the metrics and samples of each stage, the data in the card."""
    run, made, lines = labelled
    assert load_recipe(run / "recipe.toml") == made
    assert Recipe.parse(json.loads((run / "config.json").read_text())) == made
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    stages = {json.loads(line)["stage"] for line in (run / "metrics.jsonl").read_text().splitlines()}
    assert stages == {"autoencoder", "diffusion", "decoder"}
    assert {path.name.split("-")[0] for path in (run / "samples").iterdir()} == {"autoencoder", "diffusion"}
    info = load_parts(run).info
    assert set(info["minutes"]) == {"autoencoder", "diffusion", "decoder"}
    assert info["data"][0]["name"] == "rows.jsonl"
    assert any("label is column 'label': 2 labels: " in line for line in lines)
    right = r"the label classifier is right on \d of [45] held-out texts \(\d+\.0%; by chance: 50\.0%\)"
    assert any(re.fullmatch(right, line) for line in lines)
    assert any(re.fullmatch(r"4\d training texts, [45] held-out texts", line) for line in lines)


def test_the_finished_model_has_normalised_latents(labelled: tuple[Path, Recipe, list[str]]) -> None:
    """Fitted on the training texts, and saved."""
    z0 = LatentDiffusion.from_pretrained(labelled[0]).encode(tiny.SENTENCES)
    chosen = z0.values[z0.mask]
    torch.testing.assert_close(chosen.mean(0), torch.zeros(8), atol=0.2, rtol=0)
    torch.testing.assert_close(chosen.std(0), torch.ones(8), atol=0.2, rtol=0)


def test_the_same_call_on_a_finished_run_trains_nothing(labelled: tuple[Path, Recipe, list[str]]) -> None:
    """No text is encoded again, and the model's files are not written again."""
    run, made, _ = labelled
    before, lines = written_at(run / "final"), []
    assert train(made, run, log=lines.append) == run / "final"
    assert sum("already trained" in line for line in lines) == 3
    assert not any("encoding the texts" in line or "parameters" in line for line in lines)
    assert written_at(run / "final") == before


@pytest.mark.parametrize("what", ["removed", "cut", "another sampler"])
def test_a_finished_run_makes_its_model_again_where_it_is_not_what_the_call_asks_for(
    labelled: tuple[Path, Recipe, list[str]], tmp_path: Path, what: str
) -> None:
    """Without training: the stages' weights are there."""
    run, made, _ = labelled
    shutil.copytree(run, tmp_path / "run")
    final, lines = tmp_path / "run" / "final", []
    if what == "removed":
        shutil.rmtree(final)
    elif what == "cut":
        (final / "denoiser" / "model.safetensors").write_bytes(b"")
    else:
        made = made.model_copy(update={"sampling": made.sampling.model_copy(update={"num_inference_steps": 7})})
    train(made, tmp_path / "run", log=lines.append)
    assert sum("already trained" in line for line in lines) == 3
    assert not any("parameters" in line for line in lines)
    torch.testing.assert_close(weights(tmp_path / "run"), weights(run), atol=0, rtol=0)
    assert load_parts(final).sampling == load_parts(run).sampling.override(
        **({"num_inference_steps": 7} if what == "another sampler" else {})
    )


def test_another_recipe_does_not_go_on_in_the_same_folder(labelled: tuple[Path, Recipe, list[str]]) -> None:
    """Neither other settings nor other data are mixed into a run."""
    run, made, _ = labelled
    masked = made.training.autoencoder.model_copy(update={"token_mask_prob": 0.1})
    wider = made.model_copy(update={"training": made.training.model_copy(update={"autoencoder": masked})})
    fewer = made.model_copy(update={"data": made.data.model_copy(update={"max_rows": 20})})
    for other, key in ((wider, "training.autoencoder.token_mask_prob"), (fewer, "data.rows")):
        with pytest.raises(UserError, match=f"was started with {key}"):
            train(other, run, log=quiet)
    longer = recipe("nowhere.jsonl", training={"steps": 15})  # another budget: refused before the data are read
    with pytest.raises(UserError, match=r"run was started with training.steps = 14, but now 15 is given; give the"):
        train(longer, run, log=quiet)


def test_texts_are_conditioned_on_their_sources(tmp_path: Path) -> None:
    """A source column is found; the model takes sources, and samples without one too."""
    data = write(tmp_path / "rows.jsonl", [*ROWS, {"text": "a cat."}], "text", "source")
    lines: list[str] = []
    train(recipe(data, source={"memory": "latents"}), tmp_path / "run", log=lines.append)
    assert "texts are conditioned on their source" in lines
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert model.takes_source
    assert len(model.generate(source=["cat sat", None, "owl hid"])) == 3


def test_sources_may_be_read_by_another_model(tmp_path: Path) -> None:
    """A name that is none is told before the autoencoder trains; the model folder carries the encoder."""
    data = write(tmp_path / "rows.jsonl", ROWS, "text", "source")
    bert = tiny.bert_folder(tmp_path / "bert")
    with pytest.raises(UserError, match="cannot load the source encoder"):
        train(recipe(data, source={"encoder": str(tmp_path)}), tmp_path / "other", log=quiet)
    assert steps_done(tmp_path / "other") == {}
    lines: list[str] = []
    train(recipe(data, source={"encoder": str(bert)}), tmp_path / "run", log=lines.append)
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    kept = load_file(tmp_path / "run/final/source_encoder/model.safetensors")
    given = load_file(bert / "model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in given.items() if name in kept)
    assert len(model.generate(source=["cat sat", None])) == 2


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_pretrained_families_train_sample_save_and_load(family: str, tmp_path: Path) -> None:
    """From a folder as transformers saves it; what is frozen is in the model folder as it was."""
    folder = tiny.PRETRAINED[family](tmp_path / family)
    made = recipe(
        write(tmp_path / "rows.jsonl", ROWS, "text", "label", "source"),
        start="base-en",  # not read: a pre-trained backbone takes its place
        autoencoder={"max_tokens": 24, "backbone": {"pretrained": str(folder)}, "bottleneck": {"latent_dim": 8}},
    )
    train(made, tmp_path / "run", log=quiet)
    assert steps_done(tmp_path / "run") == {"autoencoder": 4, "diffusion": 6, "decoder": 4}
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    for decoder in ("autoregressive", "parallel"):
        assert len(model.generate(3, label="bad", source="cat sat", decoder=decoder)) == 3
    given, kept = (
        load_file(folder / "model.safetensors"),
        load_file(tmp_path / "run" / "final/backbone/model.safetensors"),
    )
    assert all(torch.equal(tensor, given[name]) for name, tensor in kept.items() if name in given)
    assert len(set(kept) & set(given)) > 10
    model.save_pretrained(tmp_path / "copy")
    assert LatentDiffusion.from_pretrained(tmp_path / "copy").generate(4, seed=0) == model.generate(4, seed=0)


def test_rows_in_memory_train_as_a_file_of_them_does(tmp_path: Path) -> None:
    """Dicts, a data set of the library `datasets`, texts alone; without any rows it is said what to name."""
    from datasets import Dataset

    made = recipe(write(tmp_path / "rows.jsonl", ROWS, "text", "label"), training={"steps": 7})
    train(made, tmp_path / "file", log=quiet)
    rows = [{"text": row["text"], "label": row["label"]} for row in ROWS]
    nameless = made.model_copy(update={"data": made.data.model_copy(update={"path": None})})
    for name, data in (("dicts", rows), ("dataset", Dataset.from_list(rows))):
        train(nameless, tmp_path / name, log=quiet, data=data)
        torch.testing.assert_close(weights(tmp_path / name), weights(tmp_path / "file"), atol=0, rtol=0)
    train(nameless, tmp_path / "texts", log=quiet, data=[row["text"] for row in ROWS])
    assert LatentDiffusion.from_pretrained(tmp_path / "texts").labels == ()
    for without in (nameless, None):
        with pytest.raises(UserError, match="no data; name a file or a folder"):
            train(without, tmp_path / "none", log=quiet)
    assert not (tmp_path / "none").exists()


# ------------------------------------------------------------------------------------------------ in pieces


def at(run: Path, stage: str) -> int:
    """The step that the state of a stage on disk has; 0 when there is none."""
    try:
        state = json.loads((run / "state" / stage / "state.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return 0
    return 0 if state.get("done") else state["position"]["step"]


def go(made: Recipe, run: Path) -> None:
    torch.set_num_threads(1)
    train(made, run, log=quiet)


def test_killed_twice_it_ends_as_the_unbroken_run(tmp_path: Path) -> None:
    """kill -9 in the autoencoder's stage and in the diffusion's, and the same call again: equal steps and weights."""
    processes = multiprocessing.get_context("forkserver")  # imports torch once, then forks in no time
    processes.set_forkserver_preload(["accelerate", "accelerate.utils", "transformers", "ladle.training.run"])
    data = write(tmp_path / "rows.jsonl", ROWS, "text", "label", "source")
    shares = {"autoencoder": 60, "diffusion": 100, "decoder": 5}
    training = {"save_every_seconds": 0, "steps": 165, "optimiser": {"max_tokens": 200}}
    training |= {stage: {"share": steps} for stage, steps in shares.items()}
    made = recipe(data, training=training)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    unbroken = processes.Process(target=go, args=(made, whole))
    unbroken.start()
    for stage in ("autoencoder", "diffusion"):
        process = processes.Process(target=go, args=(made, broken))
        process.start()
        deadline = time.monotonic() + 300
        while not at(broken, stage) and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"it ended before it could be killed in the stage {stage}"
    assert not (broken / "final").exists()
    last = processes.Process(target=go, args=(made, broken))
    last.start()
    for process in (last, unbroken):
        process.join(300)
        assert process.exitcode == 0
    assert steps_done(broken) == steps_done(whole) == {"autoencoder": 60, "diffusion": 100, "decoder": 5}
    torch.testing.assert_close(weights(broken), weights(whole), atol=0, rtol=0)


def test_a_run_stops_after_the_stage_that_was_asked_for_and_goes_on_later(tmp_path: Path) -> None:
    """`stage="autoencoder"` leaves an autoencoder with fitted latents; the next call trains the rest on it."""
    made = recipe(write(tmp_path / "rows.jsonl", ROWS, "text"))
    train(made, tmp_path / "run", stage="autoencoder", log=quiet)
    parts = load_parts(tmp_path / "run")
    assert parts.diffusion is None
    assert steps_done(tmp_path / "run") == {"autoencoder": 4}
    latents = LatentDiffusion(parts).encode(tiny.SENTENCES)
    torch.testing.assert_close(latents.values[latents.mask].std(0), torch.ones(8), atol=0.2, rtol=0)
    train(made, tmp_path / "run", stage="diffusion", log=quiet)
    assert steps_done(tmp_path / "run") == {"autoencoder": 4, "diffusion": 6}
    stopped = weights(tmp_path / "run")
    for name, tensor in parts.autoencoder.bottleneck.state_dict().items():
        torch.testing.assert_close(stopped[f"bottleneck/bottleneck.{name}"], tensor)
    assert LatentDiffusion.from_pretrained(tmp_path / "run").generate(2)


def test_a_given_autoencoder_keeps_its_encoder(labelled: tuple[Path, Recipe, list[str]], tmp_path: Path) -> None:
    """start = a model folder: no autoencoder stage, the same latents but for the normaliser, an adapted decoder."""
    made = recipe(write(tmp_path / "rows.jsonl", ROWS[::2], "text"), start=str(labelled[0]), training={"steps": 10})
    lines: list[str] = []
    train(made, tmp_path / "run", log=lines.append)
    assert steps_done(tmp_path / "run") == {"diffusion": 8, "decoder": 2}
    assert f"starting from the autoencoder and the denoiser of '{labelled[0]}'" in lines
    given, new = load_parts(labelled[0]).autoencoder, load_parts(tmp_path / "run").autoencoder
    states = [a.backbone.encode(**tiny.tokens(a)) for a in (given, new)]
    torch.testing.assert_close(*states, atol=0, rtol=0)
    assert torch.equal(given.bottleneck.down.weight, new.bottleneck.down.weight)
    decoders = [a.backbone.model.get_decoder().layers[0].fc1.weight for a in (given, new)]
    assert not torch.equal(*decoders)
    assert torch.equal(given.normaliser.mean, new.normaliser.mean)  # its denoiser, kept too, knows these latents


def test_a_given_autoencoder_takes_settings_of_training_but_no_sizes(
    labelled: tuple[Path, Recipe, list[str]], tmp_path: Path
) -> None:
    """What can be followed is; what cannot is said, and not written down as if it had been."""
    asked = SIZES | {"bottleneck": {"latent_dim": 4}}
    data = write(tmp_path / "rows.jsonl", ROWS[::2], "text")
    lines: list[str] = []
    training = {"steps": 10, "autoencoder": {"parallel_loss_scale": 0.0}}
    train(recipe(data, start=str(labelled[0]), autoencoder=asked, training=training), tmp_path / "run",
          log=lines.append)  # fmt: skip
    said = f"the autoencoder of '{labelled[0]}' is not changed; the recipe's [autoencoder] is not used"
    assert said in lines
    given, new = load_parts(labelled[0]).autoencoder, load_parts(tmp_path / "run").autoencoder
    assert new.config == given.config
    assert json.loads((tmp_path / "run" / "config.json").read_text())["autoencoder"] == new.config.model_dump()
    assert given.parallel_decoder is not None and new.parallel_decoder is not None
    for old, now in zip(given.parallel_decoder.parameters(), new.parallel_decoder.parameters(), strict=True):
        assert torch.equal(old, now)  # its loss is off, so it stays


def test_a_given_model_can_learn_a_vocabulary_of_ones_own(
    labelled: tuple[Path, Recipe, list[str]], tmp_path: Path
) -> None:
    """own_vocabulary: another tokenizer, the given weights trained on by every stage, the denoiser among them."""
    other = [{"text": f"{row['text'][:-1]} in bright weather."} for row in ROWS]
    changes: dict[str, Any] = {"start": str(labelled[0]), "own_vocabulary": True, "training": {"steps": 10}}
    made = recipe(write(tmp_path / "rows.jsonl", other, "text"), **changes)
    lines: list[str] = []
    train(made, tmp_path / "run", log=lines.append)
    assert steps_done(tmp_path / "run") == {"autoencoder": 1, "diffusion": 7, "decoder": 2}  # most for diffusion
    assert f"starting from the autoencoder and the denoiser of '{labelled[0]}'" in lines
    given, new = load_parts(labelled[0]), load_parts(tmp_path / "run")
    vocabularies = [parts.autoencoder.backbone.tokenizer.get_vocab() for parts in (given, new)]
    assert "Ġweather" in vocabularies[1]
    assert "Ġweather" not in vocabularies[0]
    moved = (given.autoencoder.bottleneck.down.weight - new.autoencoder.bottleneck.down.weight).detach().abs()
    assert 0 < float(moved.max()) < 0.1  # trained on, and not begun again
    one, another = (dict(parts.diffusion.denoiser.named_parameters()) for parts in (given, new) if parts.diffusion)
    assert all(float((one[name] - another[name]).detach().abs().max()) < 0.1 for name in one)
    assert LatentDiffusion.from_pretrained(tmp_path / "run").generate(2)
    with pytest.raises(UserError, match="own_vocabulary"):  # the folder goes on as it began
        train(made.model_copy(update={"own_vocabulary": False}), tmp_path / "run", log=quiet)


def test_a_vocabulary_of_ones_own_wants_the_given_sizes(
    labelled: tuple[Path, Recipe, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for, that is said in one line; where Ladle chooses, it begins from nothing and says why."""
    data = write(tmp_path / "rows.jsonl", ROWS, "text")
    for part, change, reason in (
        ("backbone", {"width": 64}, "its width is 32, but autoencoder.backbone.width is 64"),
        ("bottleneck", {"latent_dim": 4}, "its bottleneck differs from the settings in autoencoder.bottleneck"),
    ):
        sizes = SIZES | {part: SIZES[part] | change}
        made = recipe(data, start=str(labelled[0]), own_vocabulary=True, autoencoder=sizes)
        with pytest.raises(UserError, match=f"cannot start from this model: {reason}"):
            train(made, tmp_path / "refused", log=quiet)
        monkeypatch.setattr("ladle.training.warm_start.BASE", str(labelled[0] / "final"))
        lines: list[str] = []
        train(recipe(data, start="auto", autoencoder=sizes), tmp_path / part, stage="autoencoder", log=lines.append)
        assert any(line.startswith("starting from nothing") and reason in line for line in lines)


# ------------------------------------------------------------------------------------------------ data as they are


def test_too_many_labels_are_said_before_anything_is_trained(tmp_path: Path) -> None:
    """A column of ids taken for labels: not after an hour of the autoencoder's stage."""
    rows = [{"text": f"text {i}", "label": f"id {i}"} for i in range(300)]
    with pytest.raises(
        UserError, match=r"2\d\d different values; at most 200 are allowed; name another column with --label"
    ):
        train(recipe(write(tmp_path / "rows.jsonl", rows, "text", "label")), tmp_path / "run", log=quiet)
    assert not (tmp_path / "run" / "state").exists()


def test_texts_and_sources_that_are_cut_are_counted(tmp_path: Path) -> None:
    """How many, of how many, and at what length; a source also where the denoiser reads less of it."""
    long = {"text": "the old cat " * 20, "source": "the red fox " * 20, "label": "good"}
    middle = {"text": "a cat", "source": "the red fox ran to the sea, 1 2 3 4 5 6", "label": "bad"}
    valid = write(tmp_path / "valid.jsonl", ROWS[:3], "text", "source")
    data = {"path": write(tmp_path / "rows.jsonl", [*ROWS, long, middle], "text", "source"), "valid_path": valid}
    lines: list[str] = []
    train(recipe("", data=data, source={"max_tokens": 8}), tmp_path / "run", stage="diffusion", log=lines.append)
    assert "1 of 51 texts are longer than 24 tokens and were cut" in lines
    assert "2 of 51 sources are longer than 8 tokens and were cut" in lines


def test_no_text_is_missed_when_cut_ones_are_counted() -> None:
    """Only texts long enough to be in doubt are tokenized; here each length around the limit, in rare bytes."""
    autoencoder = tiny.tiny_autoencoder()
    texts = ["ÿ" * n for n in range(1, 20)] + ["q" * n for n in range(15, 35)]
    tokenizer = autoencoder.backbone.tokenizer
    true = sum(len(ids) > tiny.MAX_TOKENS for ids in tokenizer(texts)["input_ids"])
    assert 0 < true < len(texts)
    assert count_cut(tokenizer, texts, tiny.MAX_TOKENS) == true
    assert count_cut(tokenizer, [], tiny.MAX_TOKENS) == 0


def test_a_label_or_source_that_only_some_rows_have_is_no_obstacle(tmp_path: Path) -> None:
    """A rare label may be in held-out rows alone, and held-out rows may have no source at all."""
    train_rows = [*ROWS[:20], {"text": "a cat."}]
    valid = write(tmp_path / "valid.jsonl", [{"text": "no.", "label": "rare"}, ROWS[3]], "text", "label")
    data = {"path": write(tmp_path / "rows.jsonl", train_rows, "text", "label", "source"), "valid_path": valid}
    train(recipe("", data=data), tmp_path / "run", log=quiet)
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert model.labels == tiny.LABELS
    assert len(model.generate(2, label="good", source="cat sat")) == 2


def test_few_texts_without_held_out_rows_train(tmp_path: Path) -> None:
    """What is looked at are training rows then."""
    data = {"path": write(tmp_path / "rows.jsonl", ROWS[:5], "text"), "valid_fraction": 0.0}
    made = recipe("", data=data, autoencoder=SIZES | {"bottleneck": {"kind": "perceiver", "latent_dim": 8}})
    lines: list[str] = []
    train(made.model_dump(exclude_unset=True), tmp_path / "run", log=lines.append)  # (a mapping is a recipe too)
    assert "5 training texts, 0 held-out texts" in lines
    assert any(
        line.startswith("warning: these are few texts to learn from; a long training learns them by heart")
        for line in lines
    )
    assert len(LatentDiffusion.from_pretrained(tmp_path / "run").generate(2)) == 2


@pytest.mark.parametrize("count", [1, 40])
def test_one_text_is_no_data_however_often_it_stands_there(tmp_path: Path, count: int) -> None:
    data = {"path": write(tmp_path / "rows.jsonl", ROWS[:1] * count, "text")}
    times = ", [0-9]+ times" if count > 1 else ""
    with pytest.raises(UserError, match=f"there is one training text{times}; give two different ones at least"):
        train(recipe("", data=data), tmp_path / "run", log=quiet)
    assert not (tmp_path / "run" / "state").exists()


def test_few_different_texts_are_few(tmp_path: Path) -> None:
    data = {"path": write(tmp_path / "rows.jsonl", ROWS[:2] * 60, "text"), "valid_fraction": 0.0}
    lines: list[str] = []
    train(recipe("", data=data), tmp_path / "run", log=lines.append)
    assert any(line.startswith("warning: only 2 of the texts are different; a long training") for line in lines)


def test_a_stage_that_had_time_for_a_few_steps_only_says_so(tmp_path: Path) -> None:
    """A loaded machine may make one step in the user's minutes."""
    data = {"path": write(tmp_path / "rows.jsonl", ROWS, "text")}
    short = {"steps": None, "minutes": 1e-4}
    lines: list[str] = []
    train(recipe("", data=data, training=short), tmp_path / "run", log=lines.append)
    said = [line for line in lines if "made only" in line]
    expected = r"warning: \w+ made only \d+ steps? in its time, so the model has hardly learnt your texts; give more .*"
    assert said and all(re.fullmatch(expected, line) for line in said)


def test_a_wrong_mapping_is_told_as_a_wrong_recipe_file_is(tmp_path: Path) -> None:
    """One line, with the nearest key."""
    with pytest.raises(UserError, match=r"^recipe: unknown key 'trainig': did you mean 'training'\?$"):
        train({"trainig": {"steps": 3}}, tmp_path / "run", data=["a"])


def test_a_denoiser_starts_from_the_model_it_is_given(tmp_path: Path, labelled: tuple[Path, Recipe, list[str]]) -> None:
    """Fine-tuning: the model's latents and denoiser, other labels. Of other sizes, the denoiser is new."""
    first = LatentDiffusion.from_pretrained(labelled[0])
    data = write(tmp_path / "rows.jsonl", [row | {"label": "new"} for row in ROWS[:30]] + ROWS[30:], "text", "label")
    given: dict[str, Any] = {"start": str(labelled[0] / "final"), "training": {"steps": 1, "optimiser": {"lr": 1e-9}}}
    lines: list[str] = []
    train(recipe(data, **given), tmp_path / "run", stage="diffusion", log=lines.append)
    assert any("starting from the autoencoder and the denoiser of" in line for line in lines)
    second = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert second.labels == ("bad", "good", "new")
    known, kept = first.diffusion.denoiser.state_dict(), second.diffusion.denoiser.state_dict()
    for name, tensor in known.items():
        torch.testing.assert_close(kept[name], tensor, rtol=0, atol=1e-5, msg=name)
    fresh = tiny.tiny_diffusion(first.autoencoder, seed=3).denoiser.state_dict()
    assert any((fresh[name] - tensor).abs().max() > 0.01 for name, tensor in known.items() if name in fresh)
    assert torch.equal(first.autoencoder.normaliser.mean, second.autoencoder.normaliser.mean)

    lines.clear()
    other = recipe(data, **given, diffusion={"denoiser": {"width": 16, "num_layers": 2, "num_skips": 1}})
    train(other, tmp_path / "other", stage="diffusion", log=lines.append)
    assert any("differs in sizes or prediction: starting without it" in line for line in lines)


def test_only_an_adapted_decoder_is_given_early_estimates(tmp_path: Path) -> None:
    """Without the decoder stage the sampler has to go on to the end, whatever the recipe says."""
    data = write(tmp_path / "rows.jsonl", ROWS, "text")
    made = recipe(data, sampling={"conditional": {"stop_time": 0.5, "noise_scale": 0.8},
                                   "unconditional": {"stop_time": 0.4}})  # fmt: skip
    for stage, stops in (("diffusion", (0.0, 0.0)), ("all", (0.5, 0.4))):
        sampling = load_parts(train(made, tmp_path / "run", stage=stage, log=quiet)).sampling
        assert (sampling.conditional.stop_time, sampling.unconditional.stop_time) == stops
        assert sampling.conditional.noise_scale == 0.8


def test_a_source_that_a_prior_does_not_know_begins_by_adding_nothing_and_labels_begin_apart() -> None:
    """An unconditional prior, then labels and sources: before the first step the estimates without a label are the
    prior's, whatever the source; the vectors of two labels differ, or a short training hardly hears them."""
    autoencoder = tiny.tiny_autoencoder()
    prior = tiny.tiny_diffusion(autoencoder, labels=(), source=False)
    diffusion = tiny.tiny_diffusion(autoencoder, seed=1)
    start_from(prior, diffusion)
    source = {"source": torch.randn(2, 3, autoencoder.backbone.width), "source_mask": torch.ones(2, 3) > 0}
    zt, mask = torch.randn(1, 4, autoencoder.latent_dim).repeat(2, 1, 1), torch.ones(2, 4, dtype=torch.bool)
    level = prior.schedule.level(torch.tensor(0.5))
    expected = prior.denoise(mask, prior.condition.encode(RawCondition(), 2))(zt, level)
    for raw in (RawCondition(torch.tensor([-1, -1]), **source), RawCondition()):
        found = diffusion.denoise(mask, diffusion.condition.encode(raw, 2))(zt, level)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    vector = diffusion.condition.encode(RawCondition(torch.tensor([0, 1])), 2).vector
    assert vector is not None
    assert float((vector[0] - vector[1]).detach().square().mean().sqrt()) > LABEL_STD / 2


def test_texts_in_another_language_get_a_vocabulary_of_their_own(
    tmp_path: Path, labelled: tuple[Path, Recipe, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was chosen is said and written down, so that the run goes on as it began."""
    data = write(tmp_path / "rows.jsonl", ROWS, "text")
    monkeypatch.setattr("ladle.training.warm_start.BASE", str(labelled[0] / "final"))
    for limit, own, line in ((0.01, True, "it gets a new vocabulary"), (9.0, False, "starting from the autoencoder")):
        monkeypatch.setattr("ladle.training.warm_start.OTHER_LANGUAGE", limit)
        lines: list[str] = []
        train(recipe(data, start="auto"), tmp_path / str(limit), stage="autoencoder", log=lines.append)
        assert any(line in said for said in lines)
        config = json.loads((tmp_path / str(limit) / "config.json").read_text())
        assert (config["start"], config["own_vocabulary"]) == (str(labelled[0] / "final"), own)


def test_everything_is_trained_in_one_stage(tmp_path: Path) -> None:
    """In place of the diffusion stage: resumed to the same weights, a model that samples, the decoder adapted after."""
    data = write(tmp_path / "rows.jsonl", ROWS, "text", "label", "source")
    training = {
        "steps": 10, "diffusion": {"share": 0}, "decoder": {"share": 0.3}, "autoencoder": {"share": 0.2},
        "joint": {"share": 0.5, "reference_scale": 0.1, "stop_collapsed": False},
    }  # fmt: skip
    made = recipe(data, training=training)
    train(made, tmp_path / "run", log=quiet)
    assert steps_done(tmp_path / "run") == {"autoencoder": 2, "joint": 5, "decoder": 3}
    parts = load_parts(tmp_path / "run")
    assert set(parts.info["minutes"]) == {"autoencoder", "joint", "decoder"}
    learnt = load_file(tmp_path / "run" / "state" / "joint" / "ema.safetensors")
    for name, figures in parts.autoencoder.normaliser.state_dict().items():  # the denoiser's units are the latents'
        assert torch.equal(figures, learnt[f"autoencoder.normaliser.{name}"]), name
    assert len(LatentDiffusion.from_pretrained(tmp_path / "run").generate(2, label="good", source="the cat")) == 2
    for stage in ("autoencoder", "joint", "all"):
        train(made, tmp_path / "parts", stage=stage, log=quiet)
    one, other = weights(tmp_path / "run"), weights(tmp_path / "parts")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_lengths_are_taken_over_where_the_conditions_are_the_same() -> None:
    """So that a model can be given a longer decoder stage alone."""
    autoencoder = tiny.tiny_autoencoder()
    prior, same, other = (tiny.tiny_diffusion(autoencoder, seed=seed) for seed in (0, 1, 2))
    free = tiny.tiny_diffusion(autoencoder, labels=(), source=False)
    for model in (prior, free):
        assert model.length is not None
        model.length.fit_base(torch.tensor([2, 2, 3]))
    start_from(prior, same)
    start_from(free, other)
    assert prior.length is not None and same.length is not None and other.length is not None
    assert torch.equal(same.length.base, prior.length.base)
    assert not torch.equal(other.length.base, prior.length.base)


def test_the_shift_is_measured_where_none_is_given(tmp_path: Path, labelled: tuple[Path, Recipe, list[str]]) -> None:
    """What `inspect --health` would advise, once a run; a shift of one's own and a given denoiser's stay."""
    rows = write(tmp_path / "rows.jsonl", [{"text": text} for text in memorised.EIGHT], "text")
    save_parts(replace(memorised.memorised_parts(), diffusion=None), tmp_path / "start")
    lines: list[str] = []
    known: dict[str, Any] = {"start": str(tmp_path / "start"), "training": {"autoencoder": {"optimiser": {"lr": 1e-5}}}}
    train(recipe(rows, **known), tmp_path / "run", log=lines.append)
    parts = load_parts(tmp_path / "run")
    assert parts.diffusion is not None
    shift = parts.diffusion.config.schedule.shift
    said = [line for line in lines if "the noise schedule's shift is" in line]
    assert len(said) == 1 and said[0].startswith(f"the noise schedule's shift is {shift:g}: half is lost at log-SNR ")
    noted = json.loads((tmp_path / "run" / "state" / "shift.json").read_text())
    assert noted["shift"] == shift == advised_shift(noted["half_log_snr"])
    assert "schedule" not in json.loads((tmp_path / "run" / "config.json").read_text())["diffusion"]  # it was not given
    lines.clear()
    train(recipe(rows, **known), tmp_path / "run", log=lines.append)
    assert not any("noise schedule" in line for line in lines)  # and it went on: the stages' settings are the same

    def of(**settings: Any) -> float:
        train(recipe(rows, **settings), tmp_path / "other", "diffusion", log=quiet)
        diffusion = load_parts(tmp_path / "other").diffusion
        shutil.rmtree(tmp_path / "other")
        assert diffusion is not None
        return diffusion.config.schedule.shift

    denoiser = {"width": 32, "num_layers": 2, "num_skips": 1}
    assert of(**known, diffusion={"denoiser": denoiser, "schedule": {"shift": 3.0}}) == 3
    assert of(start=str(labelled[0])) == 2


def test_the_shift_stays_where_the_autoencoder_has_learnt_too_little(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", ROWS, "text")
    lines: list[str] = []
    train(recipe(rows), tmp_path / "run", log=lines.append)
    assert "the noise schedule's shift is 2: too little is recovered to measure it" in lines
    diffusion = load_parts(tmp_path / "run").diffusion
    assert diffusion is not None and diffusion.config.schedule.shift == 2


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    """With those that there are; nothing is written."""
    with pytest.raises(
        UserError, match="unknown stage 'encoder'; allowed are all, autoencoder, diffusion, joint, decoder"
    ):
        train(Recipe(), tmp_path / "run", stage="encoder")
    assert not (tmp_path / "run").exists()
