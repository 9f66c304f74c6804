"""A set read in portions: each row in its turn, none on both sides, a resumed run equal to an unbroken one."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from ladle.autoencoder.encoding import store_latents, store_tokens
from ladle.autoencoder.reconstruction import ReconstructionConfig
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.data.row_portions import PerPortion, Portions
from ladle.data.rows import Row
from ladle.data.splits import DataConfig, Splits, load_splits
from ladle.diffusion.loss import DenoisingConfig, DenoisingLoss
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.storage.model_folder import load_parts
from ladle.training.optimiser import TrainingConfig
from ladle.training.recipe import Recipe
from ladle.training.run import train
from ladle.training.stages.autoencoder import AutoencoderStage
from ladle.training.stages.decoder import DecoderStage
from ladle.training.stages.diffusion import DiffusionStage
from ladle.training.stages.joint import JointConfig, JointStage
from row_files import message_of, put_rows

ROWS = [Row(text=text, label=tiny.LABELS[i % 2], source=text.split()[1]) for i, text in enumerate(tiny.SENTENCES)]
HALF = len(ROWS) // 2
SETTINGS = TrainingConfig(steps=1, max_tokens=200)


# ---------------------------------------------------------------------------------------------------- portions


@given(st.integers(1, 40), st.integers(1, 12), st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_every_epoch_has_its_portion_in_whatever_order_they_are_asked_for(count, size, epochs) -> None:
    """A resumed run asks for its epoch first; a stage that follows begins at 0 again."""
    portions = Portions(lambda: iter(range(count)), size)
    expected = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    for epoch in epochs:
        assert portions(epoch) == expected[epoch % len(expected)]
        assert portions(epoch) is portions(epoch)


def test_no_more_is_read_than_a_portion_asks_for() -> None:
    """Of a set without an end too; and what fits into one portion is read once."""
    read: list[int] = []

    def endless() -> Iterator[int]:
        for number in range(10**9):
            read.append(number)
            yield number

    portions = Portions(endless, 5)
    assert portions(1) == [5, 6, 7, 8, 9] and len(read) == 10
    opened: list[int] = []
    small = Portions(lambda: opened.append(1) or iter("ab"), 5)
    assert small(0) is small(1) is small(7) and len(opened) == 1


def test_things_are_made_once_a_portion() -> None:
    portions = Portions(lambda: iter("abcd"), 2)
    made = PerPortion(portions, "".join)
    assert made(0) is made(0) and [made(epoch) for epoch in range(4)] == ["ab", "cd", "ab", "cd"]


# ---------------------------------------------------------------------------------------------------- rows


def all_rows(splits: Splits, count: int) -> list[Row]:
    return [row for epoch in range(count) for row in splits.of_epoch(epoch)]


@pytest.mark.parametrize("with_source", [False, True])
def test_no_source_or_text_is_on_both_sides_of_any_portion(tmp_path: Path, with_source: bool) -> None:
    """Files one after another; what is held out stays so in portions that come later, and in another run."""
    key = "source" if with_source else "text"
    rows = [{"text": f"text {i % 300}"} | ({"source": f"s{i % 40}"} if with_source else {}) for i in range(600)]
    for number, start in enumerate((0, 250)):
        put_rows(tmp_path / f"train-{number}.jsonl", rows[start : [250, 600][number]])
    config = DataConfig(path=str(tmp_path), rows_in_memory=100, valid_fraction=0.2)
    splits = load_splits(config)
    assert len(splits.train) == 100 and 5 < len(splits.valid) < 60
    trained = all_rows(splits, 6)
    held_out = {row[key] for row in splits.valid}
    assert held_out.isdisjoint(row[key] for row in trained)
    every = {row[key] for row in rows}
    assert len({row[key] for row in trained}) > 0.6 * len(every)
    assert load_splits(config).valid == splits.valid and load_splits(config).train == splits.train
    assert splits.notes[-1] == "train: 100 rows at a time, the next portion in each epoch (rows_in_memory)"


def test_given_held_out_rows_leave_all_others_to_train_on(tmp_path: Path) -> None:
    put_rows(tmp_path / "train.jsonl", ROWS)
    put_rows(tmp_path / "valid.jsonl", [{"text": "v"}] * 9)
    put_rows(tmp_path / "test.jsonl", [{"text": "t"}])
    splits = load_splits(DataConfig(path=str(tmp_path), rows_in_memory=20, max_valid_rows=5))
    assert all_rows(splits, -(-len(ROWS) // 20)) == ROWS
    assert len(splits.valid) == 5 and len(splits.test) == 1


def test_what_cannot_be_read_twice_or_chosen_from_is_refused(tmp_path: Path) -> None:
    path = str(put_rows(tmp_path / "a.jsonl", [{"text": "one"}]))
    assert "reads the data more than once" in message_of(load_splits, DataConfig(path="-", rows_in_memory=5))
    assert "give one" in message_of(load_splits, DataConfig(path=path, rows_in_memory=5, max_rows=2))
    config = DataConfig(rows_in_memory=5, valid_fraction=0.5)
    held_out = next(text for text in map(str, range(99)) if not _kept(config, text))
    assert "all rows are held out" in message_of(load_splits, config, [held_out])


def _kept(config: DataConfig, text: str) -> bool:
    try:
        return bool(load_splits(config, [text]).train)
    except UserError:
        return False


# ---------------------------------------------------------------------------------------------------- stages


def portion(epoch: int) -> list[Row]:
    return halves[epoch % 2]


halves = [ROWS[:HALF], ROWS[HALF:]]


def made_stages() -> dict[str, Any]:
    """Each stage over two portions."""
    autoencoder = tiny.tiny_autoencoder()
    diffusion = tiny.tiny_diffusion(autoencoder)
    denoising, objective = DenoisingLoss(diffusion, DenoisingConfig()), ReconstructionConfig()
    reader = SourceReader(autoencoder, diffusion.condition.config)
    sampling = SamplingOptions(num_inference_steps=2)

    def store(rows: Any) -> Any:
        texts = [row["text"] for row in rows]
        return store_latents(autoencoder, texts), ConditionStore.of(reader, rows)

    latents_of = PerPortion(portion, store)
    tokens_of = PerPortion(portion, lambda rows: store_tokens(autoencoder, [row["text"] for row in rows]))

    def both_of(epoch: int) -> Any:
        return tokens_of(epoch), *latents_of(epoch)

    return {
        "autoencoder": AutoencoderStage(autoencoder, portion, ROWS[:5], SETTINGS, objective, False),
        "diffusion": DiffusionStage(denoising, autoencoder, latents_of, latents_of(0), SETTINGS, sampling),
        "joint": JointStage(reader, denoising, portion, ROWS[:5], SETTINGS, JointConfig(), objective, sampling),
        "decoder": DecoderStage(autoencoder, diffusion, both_of, both_of(0), SETTINGS, objective, drop_prob=0.1),
    }


@pytest.mark.parametrize("name", ["autoencoder", "diffusion", "joint", "decoder"])
def test_a_stage_loads_the_rows_of_the_epoch(name: str) -> None:
    stage = made_stages()[name]

    def loaded(epoch: int) -> float:
        batches = stage.batches(epoch)
        assert sorted(row for rows in batches for row in rows) == list(range(len(portion(epoch))))
        batch = stage.load(list(range(len(portion(epoch)))))
        batch = batch[0] if name == "decoder" else batch
        tensors = batch.z0 if name == "diffusion" else (batch.tokens if name == "joint" else batch)["input_ids"]
        return float(tensors.double().square().sum())

    epochs = [loaded(epoch) for epoch in (0, 1, 2)]
    assert epochs[0] == epochs[2] != epochs[1]


# ---------------------------------------------------------------------------------------------------- a whole run


def made_recipe(path: str, rows_in_memory: int = 16) -> Recipe:
    return Recipe.parse(
        {
            "name": "made",
            "start": "nothing",
            "data": {"path": path, "valid_fraction": 0.1, "rows_in_memory": rows_in_memory},
            "autoencoder": {
                "max_tokens": 24,
                "backbone": {"vocab_size": 320, "width": 32, "num_encoder_layers": 1, "num_decoder_layers": 1},
                "bottleneck": {"latent_dim": 8, "num_layers": 1},
            },
            "diffusion": {"denoiser": {"width": 32, "num_layers": 2, "num_skips": 1}},
            "sampling": {"num_inference_steps": 2},
            "training": {"steps": 42, "precision": "fp32", "save_every_seconds": 0, "validate_every": 0}
            | {"sample_every": 0, "optimiser": {"max_tokens": 200}},
        }
    )


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    parts = load_parts(run / "final")
    assert parts.diffusion is not None
    return parts.diffusion.state_dict() | parts.autoencoder.state_dict()


def test_a_run_over_portions_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: Any) -> None:
    """In the middle of a portion that is not the first; equal to the last bit."""
    made = made_recipe(str(put_rows(tmp_path / "rows.jsonl", ROWS)))
    train(made, tmp_path / "whole", log=lambda line: None)
    batches = DiffusionStage.batches
    load = DiffusionStage.load
    epochs: list[int] = []

    def recorded(self: Any, epoch: int) -> Any:
        epochs.append(epoch)
        return batches(self, epoch)

    def interrupted(self: Any, rows: list[int]) -> Any:
        if epochs[-1] == 2:
            signal.raise_signal(signal.SIGINT)
        return load(self, rows)

    monkeypatch.setattr(DiffusionStage, "batches", recorded)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DiffusionStage, "load", interrupted)
        train(made, tmp_path / "pieces", log=lambda line: None)
    before = len(epochs)
    assert list(dict.fromkeys(epochs)) == [0, 1, 2]
    train(made, tmp_path / "pieces", log=lambda line: None)
    assert 1 not in epochs[before:] and epochs[-1] > 2
    whole, pieces = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "pieces")
    assert whole.keys() == pieces.keys() and all(torch.equal(whole[name], pieces[name]) for name in whole)
    assert load_parts(tmp_path / "pieces" / "final").info["data"][0]["rows at a time"] == 16


def test_rows_of_labels_that_the_first_portion_lacks_are_left_out(tmp_path: Path) -> None:
    """Said with their number; where none is left, what to do is said."""
    rows = [row | {"label": "late"} if i > HALF and i % 3 == 0 else row for i, row in enumerate(ROWS)]
    lines: list[str] = []
    train(made_recipe(str(put_rows(tmp_path / "some.jsonl", rows)), HALF), tmp_path / "some", log=lines.append)
    assert any("the first portion does not have their label" in line for line in lines)
    assert any("label is column 'label': 2 labels: " in line for line in lines)
    rows = [row | {"label": "late"} if i > HALF else row for i, row in enumerate(ROWS)]
    made = made_recipe(str(put_rows(tmp_path / "all.jsonl", rows)), 16)
    with pytest.raises(UserError, match="shuffle the file"):
        train(made, tmp_path / "all", log=lambda line: None)
