"""The stored sentence encoder of a plan model on disk: in 8 bits, and shared with a shipped model."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import ladle
import runs
import tiny
from ladle.autoencoder.sentence_encoder import StoredSentenceEncoder
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.storage import encoders
from ladle.storage.description import describe
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts, count_parameters
from ladle.storage.record import encoder_digest, model_digest, read_record
from ladle.storage.tensors import from_eight_bits, in_eight_bits
from ladle.training.run import train
from ladle.version import __version__
from model_checks import assert_same_tensors, error_of
from plan_runs import SIZES, rows, settings

WEIGHTS_8 = Path("sentence_encoder", "model_int8.safetensors")


def with_encoder(folder: Path, name: str = "plan", **options: Any) -> ModelParts:
    """A tiny plan autoencoder whose plans come from a random BERT, 24 wide, in `folder`."""
    given = str(tiny.bert_folder(folder, **options))
    return ModelParts(name, tiny.tiny_plan_autoencoder(num_latents=3, sentence_encoder=given))


def weights_of(parts: ModelParts) -> dict[str, Tensor]:
    """The tensors of the stored encoder's model."""
    encoder = parts.autoencoder.sentence_encoder
    assert isinstance(encoder, StoredSentenceEncoder)
    found: dict[str, Tensor] = encoder.model.state_dict()
    return found


# ------------------------------------------------------------------------------------------------ 8 bits


def test_matrices_are_stored_in_8_bits_and_come_back_within_half_a_step(tmp_path: Path) -> None:
    """Half a step is absmax / 254 of the row. Vectors are not touched."""
    parts = with_encoder(tmp_path / "bert")
    with torch.no_grad():
        weights_of(parts)["encoder.layer.0.output.dense.weight"][3] = 0.0  # (a row without any scale)
    save_parts(parts, tmp_path / "m", encoder_bits=8)
    written = load_file(tmp_path / "m" / WEIGHTS_8)
    before, after = weights_of(parts), weights_of(load_parts(tmp_path / "m"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if tensor.ndim == 2:
            assert written[name].dtype == torch.int8 and written[f"{name}.scale"].shape == tensor.shape[:1]
            assert (written[f"{name}.scale"] > 0).all()
            half = tensor.abs().amax(1, keepdim=True) / 254
            assert ((after[name] - tensor).abs() <= 1.0001 * half).all(), name
            assert not torch.equal(after[name], tensor)
        else:
            assert torch.equal(after[name], tensor), name
    ours, theirs = (
        one.autoencoder.sentence_encoder.embed(tiny.SENTENCES) for one in (parts, load_parts(tmp_path / "m"))
    )
    assert (ours * theirs).sum(1).min() > 0.99


def test_what_was_read_from_8_bits_is_written_in_the_same_8_bits(tmp_path: Path) -> None:
    """So an encoder that is shipped again keeps its digest."""
    save_parts(with_encoder(tmp_path / "bert"), tmp_path / "m", encoder_bits=8, dtype=torch.float16)
    save_parts(load_parts(tmp_path / "m"), tmp_path / "again", encoder_bits=8, dtype=torch.float16)
    assert (tmp_path / "m" / WEIGHTS_8).read_bytes() == (tmp_path / "again" / WEIGHTS_8).read_bytes()
    first = in_eight_bits({"matrix": torch.randn(20_000, 4)}, torch.float32)  # (so many rows that some would differ)
    again = in_eight_bits(from_eight_bits(first, tmp_path), torch.float32)
    assert all(torch.equal(first[name], again[name]) for name in ("matrix", "matrix.scale"))


def test_a_folder_in_8_bits_is_smaller_and_is_described_rightly(tmp_path: Path) -> None:
    """Also where it takes the place of another one. What a user saves is not in 8 bits."""
    parts = with_encoder(tmp_path / "bert")
    model = LatentDiffusion(parts)
    model.save_pretrained(tmp_path / "m", dtype="float16")
    assert "8 bits" not in describe(str(tmp_path / "m"))
    whole = (tmp_path / "m" / "sentence_encoder" / "model.safetensors").stat().st_size
    save_parts(parts, tmp_path / "m", dtype=torch.float16, encoder_bits=8)
    assert [path.name for path in sorted((tmp_path / "m" / "sentence_encoder").iterdir())] == [
        "config.json", WEIGHTS_8.name,
    ]  # fmt: skip
    assert (tmp_path / "m" / WEIGHTS_8).stat().st_size < 0.8 * whole
    assert "weights in float16 (the sentence encoder's in 8 bits)" in describe(str(tmp_path / "m"))
    loaded = load_parts(tmp_path / "m")
    assert count_parameters(loaded) == count_parameters(parts)
    save_parts(loaded, tmp_path / "float32")
    assert_same_tensors(load_parts(tmp_path / "float32").autoencoder, loaded.autoencoder)


DAMAGE: dict[str, Callable[[dict[str, Tensor], str], Any]] = {
    "the scales of tensor '{}' are missing": lambda t, name: t.pop(f"{name}.scale"),
    "tensor '{}' has shape [{r}, {c}] in 8 bits, which does not go with scales of shape [3] in torch.float32": (
        lambda t, name: t.update({f"{name}.scale": torch.ones(3)})
    ),
    "tensor '{}' has shape [{r}, {c}] in 8 bits, which does not go with scales of shape [{r}] in torch.float16": (
        lambda t, name: t.update({f"{name}.scale": t[f"{name}.scale"].half()})
    ),
    "tensor '{}' has shape [{r}, 2], but the model in model.json needs [{r}, {c}]": (
        lambda t, name: t.update({name: t[name][:, :2].contiguous()})
    ),
    "tensor '{}' is in torch.int16, but the model in model.json needs torch.float32": (
        lambda t, name: t.update({name: t[name].short(), f"{name}.scale": None})
    ),
    "holds a tensor '{}.scale' that the model in model.json does not have": (
        lambda t, name: t.update({name: t[name].float()})
    ),
    "tensor '{}' is missing": lambda t, name: t.update({name: None, f"{name}.scale": None}),
}


@pytest.mark.parametrize("expected", DAMAGE)
def test_damaged_8_bits_are_refused_in_one_line(expected: str, tmp_path: Path) -> None:
    """File and tensor are named."""
    save_parts(with_encoder(tmp_path / "bert"), tmp_path / "m", encoder_bits=8)
    path, name = tmp_path / "m" / WEIGHTS_8, "encoder.layer.0.output.dense.weight"
    tensors: dict[str, Any] = load_file(path)
    rows, columns = tensors[name].shape
    DAMAGE[expected](tensors, name)
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    assert f"{path}: {expected.format(name, r=rows, c=columns)}" in error_of(tmp_path / "m")


def test_weights_that_8_bits_cannot_hold_are_refused(tmp_path: Path) -> None:
    """An infinite weight would make its whole row 0."""
    parts = with_encoder(tmp_path / "bert")
    with torch.no_grad():
        weights_of(parts)["encoder.layer.0.output.dense.weight"][0, 0] = torch.inf
    with pytest.raises(UserError, match=r"'encoder.layer.0.output.dense.weight' are not all finite.*8 bits$"):
        save_parts(parts, tmp_path / "m", encoder_bits=8)
    assert not (tmp_path / "m").exists()


# ------------------------------------------------------------------------------------------------ a shared encoder


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped models: `base-en` with plan latents, whose encoder is in 8 bits, and `e2e` without any."""
    monkeypatch.setattr("ladle.storage.names.SHIPPED", tmp_path / "models")
    ship(tmp_path / "models", with_encoder(tmp_path / "bert"))
    save_parts(ModelParts("e2e", tiny.tiny_autoencoder()), tmp_path / "models" / "e2e")
    return tmp_path / "models"


def ship(models: Path, parts: ModelParts) -> None:
    """Write `parts` as the shipped base-en, as benchmarks/ship.py does."""
    save_parts(parts, models.parent / "given")
    command = ["ship.py", str(models.parent / "given"), "base-en"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        patch.setattr(ladle, "__file__", str(models.parent / "__init__.py"))
        runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "ship.py"), run_name="__main__")


def named(parts: ModelParts, name: str) -> ModelParts:
    parts.name = name
    return parts


def plans(model: ModelParts | Path | str) -> Tensor:
    parts = model if isinstance(model, ModelParts) else load_parts(model)
    return parts.autoencoder.encode_texts(tiny.SENTENCES).values


def test_a_model_made_from_a_shipped_one_finds_the_encoder_there(shipped: Path, tmp_path: Path) -> None:
    """Its folder holds none, whoever writes it, and all that tells of the folder says where the encoder is."""
    base = load_parts("base-en")
    assert (shipped / "base-en" / WEIGHTS_8).is_file()
    model = LatentDiffusion(named(load_parts("base-en"), "mine"))
    model.save_pretrained(tmp_path / "m", dtype="float16")
    loaded = LatentDiffusion.from_pretrained(tmp_path / "m")
    loaded.save_pretrained(tmp_path / "again", dtype="float16")
    for folder in (tmp_path / "m", tmp_path / "again"):
        assert not list(folder.glob("sentence_*"))
        record = read_record(folder)
        assert record.encoder is not None and record.encoder.name == "base-en"
        assert record.autoencoder.bottleneck.sentence_encoder == "base-en"
        assert torch.equal(plans(folder), plans(base))
        assert "Its sentence encoder is that of `base-en`" in (folder / "README.md").read_text()
        (line,) = [line for line in describe(str(folder)).splitlines() if line.startswith("sentence encoder")]
        assert line.split()[2:5] == ["BertModel,", "frozen,", "of"] and line.endswith("in base-en")
    assert count_parameters(loaded.parts) == count_parameters(base)
    (line,) = [line for line in describe("base-en").splitlines() if line.startswith("sentence encoder")]
    assert " of base-en" not in line and line.endswith("kB")
    assert "Its sentence encoder" not in (shipped / "base-en" / "README.md").read_text()


def test_the_shipped_model_itself_holds_its_encoder_wherever_it_is_written(shipped: Path, tmp_path: Path) -> None:
    """A copy of it loads without the package's. What is made from a copy whose encoder is another one, to the last bit,
    holds it too: a reference to the package's would be refused."""
    LatentDiffusion.from_pretrained("base-en").save_pretrained(tmp_path / "copy")
    before = plans("base-en")
    save_parts(named(load_parts(tmp_path / "copy"), "mine"), tmp_path / "m")
    assert torch.equal(plans(tmp_path / "m"), before)
    shutil.rmtree(shipped / "base-en")
    for folder in (tmp_path / "copy", tmp_path / "m"):
        assert (folder / "sentence_encoder" / "model.safetensors").is_file()
        assert torch.equal(plans(folder), before)


def test_another_encoder_than_the_one_it_was_made_with_is_refused(shipped: Path, tmp_path: Path) -> None:
    """By another encoder the plans would mean something else. A base-en with the same encoder is none."""
    save_parts(named(load_parts("base-en"), "mine"), tmp_path / "m")
    old = read_record(tmp_path / "m").encoder
    assert old is not None
    again = load_parts("base-en")
    torch.nn.init.normal_(again.autoencoder.backbone.embedding)
    ship(shipped, named(again, "base-en"))
    load_parts(tmp_path / "m")
    ship(shipped, with_encoder(tmp_path / "other", seed=1))
    new = encoder_digest(read_record(shipped / "base-en"))
    assert error_of(tmp_path / "m") == (
        f"{tmp_path / 'm' / 'model.json'}: the sentence encoder of 'base-en' has digest {new}, not {old.digest}; "
        f"install the ladle that made the model ({__version__})"
    )
    shutil.rmtree(shipped / "base-en")
    assert "there is no shipped model 'base-en' (shipped: e2e), whose sentence encoder" in error_of(tmp_path / "m")


def test_the_digest_of_a_model_knows_the_encoder_that_it_shares(shipped: Path, tmp_path: Path) -> None:
    """Latents of two encoders are of two models."""
    save_parts(named(load_parts("base-en"), "mine"), tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    before, record = model_digest(tmp_path / "m"), json.loads(path.read_text())
    record["encoder"]["digest"] = "0" * 16
    path.write_text(json.dumps(record))
    assert model_digest(tmp_path / "m") != before


def test_models_share_the_encoder_in_memory_and_move_by_themselves(shipped: Path) -> None:
    """A process that loads several models holds the weights once. Half precision of one is not that of another."""
    first, second = (LatentDiffusion.from_pretrained("base-en") for _ in range(2))
    ours, theirs = weights_of(first.parts), weights_of(second.parts)
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    before = plans(second.parts)
    first.to("cpu", "float16")
    assert {tensor.dtype for tensor in weights_of(first.parts).values()} == {torch.float16}
    assert torch.equal(plans(second.parts), before) and torch.equal(plans("base-en"), before)


def test_a_shared_encoder_leaves_the_random_generator_alone(shipped: Path) -> None:
    """Else a training would depend on what the process had loaded before it."""
    config = load_parts("base-en").autoencoder.config
    encoders._held.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert encoders.shipped_encoder(config) is not None
    assert torch.equal(torch.rand(4), expected)


def test_a_damaged_shipped_encoder_is_said_in_one_line(shipped: Path, tmp_path: Path) -> None:
    """The file in the package is named, not the model's."""
    save_parts(named(load_parts("base-en"), "mine"), tmp_path / "m")
    path = shipped / "base-en" / WEIGHTS_8
    tensors = load_file(path)
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, path)
    encoders._held.cache_clear()
    assert f"{path} has changed since it was saved" in error_of(tmp_path / "m")


def test_a_model_on_a_base_shares_the_encoder_too(shipped: Path, tmp_path: Path) -> None:
    """As prior-en, which stores only what differs from base-en."""
    parts = named(load_parts("base-en"), "prior-en")
    with torch.no_grad():
        parts.autoencoder.normaliser.mean += 0.5
    save_parts(parts, tmp_path / "m", base="base-en")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "README.md", "model.json", "autoencoder_changes.safetensors",
    }  # fmt: skip
    assert_same_tensors(load_parts(tmp_path / "m").autoencoder, parts.autoencoder)
    own = with_encoder(tmp_path / "other", seed=1)
    own.autoencoder.backbone.load_state_dict(parts.autoencoder.backbone.state_dict())
    save_parts(own, tmp_path / "own", base="base-en")
    changes = load_file(tmp_path / "own" / "autoencoder_changes.safetensors")
    assert changes and not any(name.startswith("sentence_encoder.") for name in changes)  # (it has its own folder)
    assert_same_tensors(load_parts(tmp_path / "own").autoencoder, own.autoencoder)


def made_by(encoder: str, **given: Any) -> dict[str, Any]:
    """Settings of a tiny training with plans of this encoder."""
    bottleneck = {"kind": "plan", "num_latents": 3, "latent_dim": 8, "sentence_encoder": encoder}
    return settings(**given, autoencoder=SIZES | {"bottleneck": bottleneck})


def test_a_training_from_nothing_uses_the_encoder_of_a_shipped_model(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that name in the working directory does not count. What is trained on goes on sharing it, with a
    vocabulary of its own too."""
    monkeypatch.chdir(tmp_path)
    tiny.bert_folder(tmp_path / "base-en", seed=5)
    train(made_by("base-en"), tmp_path / "run", log=runs.quiet, data=rows("both"))
    on: dict[str, Any] = {"start": str(tmp_path / "run"), "own_vocabulary": True}
    train(made_by("base-en", **on), tmp_path / "on", log=runs.quiet, data=rows("both"))
    encoder = load_parts(shipped / "base-en").autoencoder.sentence_encoder
    for name in ("run", "on"):
        assert not list((tmp_path / name).rglob("sentence_*"))
        model = load_parts(tmp_path / name)
        autoencoder = model.autoencoder
        raw = autoencoder.bottleneck.split(encoder.embed(tiny.SENTENCES))
        torch.testing.assert_close(autoencoder.normaliser.denormalise(plans(model)), raw, atol=1e-4, rtol=1e-4)
        assert len(LatentDiffusion(model).generate(2, seed=0, label="good", source="the old cat")) == 2
        assert_same_tensors(autoencoder.sentence_encoder, encoder)


def test_a_training_from_a_shipped_model_shares_its_encoder(shipped: Path, tmp_path: Path) -> None:
    """The usual way: `start = "base-en"`."""
    given = settings(start="base-en")
    del given["autoencoder"]
    train(given, tmp_path / "run", log=runs.quiet, data=rows("labels"))
    assert not list((tmp_path / "run" / "final").glob("sentence_*"))
    assert torch.equal(plans(tmp_path / "run"), plans("base-en"))


def test_a_start_with_a_new_vocabulary_keeps_its_own_encoder(tmp_path: Path) -> None:
    """The folder that the encoder came from may be gone."""
    folder = tiny.bert_folder(tmp_path / "bert")
    train(made_by(str(folder)), tmp_path / "run", log=runs.quiet, data=rows("neither"))
    folder.rename(tmp_path / "moved")
    on: dict[str, Any] = {"start": str(tmp_path / "run"), "own_vocabulary": True}
    train(made_by(str(folder), **on), tmp_path / "on", log=runs.quiet, data=rows("neither"))
    first, last = (load_parts(tmp_path / name).autoencoder.sentence_encoder for name in ("run", "on"))
    assert torch.equal(first.embed(tiny.SENTENCES), last.embed(tiny.SENTENCES))


def test_a_shipped_model_without_an_encoder_is_refused_as_one(shipped: Path, tmp_path: Path) -> None:
    """In one line, before anything is trained."""
    with pytest.raises(UserError) as caught:
        train(made_by("e2e"), tmp_path / "run", log=runs.quiet, data=rows("neither"))
    assert str(caught.value) == (
        "autoencoder.bottleneck.sentence_encoder: the shipped model 'e2e' has no sentence encoder; "
        "name another encoder (shipped: base-en)"
    )
    assert not (tmp_path / "run" / "state" / "autoencoder").exists()
