"""A model folder that is damaged, malformed or dangerous is refused in one line that names the file."""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ladle.errors import UserError
from ladle.storage.model_folder import load_parts
from ladle.storage.record import PICKLES, hash_files
from model_checks import error_of

PART_FOLDERS = ["backbone", "bottleneck", "parallel_decoder", "denoiser", "condition"]


def edit_record(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rehash(folder: Path) -> None:
    """Make model.json agree with the files as they are now, as somebody who builds a bad folder on purpose would."""
    files = {name: value for name, value in hash_files(folder).items() if name not in ("model.json", "README.md")}
    edit_record(folder, files=files)


def edit_tensors(path: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("part", PART_FOLDERS)
def test_missing_or_truncated_weights_are_named(part: str, model_folder: Path) -> None:
    """A copy that broke off, at any place of the file."""
    path = model_folder / part / "model.safetensors"
    whole = path.read_bytes()
    for size in (0, 5, 60, len(whole) - 4):
        path.write_bytes(whole[:size])
        assert f"{path} is cut short or damaged" in error_of(model_folder)
    path.unlink()
    assert f"{path} is missing" in error_of(model_folder)


@pytest.mark.parametrize("part", PART_FOLDERS)
def test_tensors_that_do_not_fit_are_named(part: str, model_folder: Path) -> None:
    """Wrong shape, missing, unexpected: each says file and tensor, even where the hashes were made to agree."""
    path = model_folder / part / "model.safetensors"
    whole = path.read_bytes()
    name = max(load_file(path))

    def wrong_shape(tensors: dict[str, Tensor]) -> None:
        tensors[name] = torch.zeros(3, 5, 7)

    def unexpected(tensors: dict[str, Tensor]) -> None:
        tensors["extra.weight"] = torch.zeros(2)

    cases: Mapping[str, Callable[[dict[str, Tensor]], Any]] = {
        f"{path}: tensor '{name}' has shape [3, 5, 7], but the model in model.json needs": wrong_shape,
        f"{path}: tensor '{name}' is missing": lambda tensors: tensors.pop(name),
        f"{path}: holds a tensor 'extra.weight' that the model in model.json does not have": unexpected,
    }
    for expected, damage in cases.items():
        path.write_bytes(whole)
        edit_tensors(path, damage)
        assert expected in error_of(model_folder)
        rehash(model_folder)
        assert expected in error_of(model_folder)


@pytest.mark.parametrize("part", [*PART_FOLDERS, "tokenizer"])
def test_a_file_that_is_not_the_one_saved_is_refused(part: str, model_folder: Path) -> None:
    """One flipped bit of a weight, one edited entry of the vocabulary: right in form, wrong in meaning."""
    path = model_folder / part / ("tokenizer.json" if part == "tokenizer" else "model.safetensors")
    if part == "tokenizer":
        values = json.loads(path.read_text())
        vocabulary = values["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        path.write_text(json.dumps(values))
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert f"{path} has changed since it was saved" in error_of(model_folder)


def test_line_ends_that_git_changed_do_not_matter(model_folder: Path) -> None:
    """A checkout on Windows writes text files with CRLF."""
    for path in model_folder.rglob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    load_parts(model_folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "model.json:1: malformed JSON"),
        ('{"format": 1,\n "name": "x",\n "ladle": ', "model.json:3: malformed JSON"),
        ("[1, 2]", "no format number"),
        ("{}", "no format number"),
        ('{"format": "1"}', "no format number"),
        ('{"format": true}', "no format number"),
        ('{"format": 3, "anything": 3}', "format 3 is newer than this ladle, which reads format 2; upgrade ladle"),
        ('{"format": 1, "anything": 3}', "format: must be 2 (given: 1)"),
        ('{"format": 2}', "Field required"),
    ],
)
def test_a_malformed_model_json_is_named(text: str, expected: str, model_folder: Path) -> None:
    """Every way in which the one page of a model can be wrong ends in one line with its path."""
    (model_folder / "model.json").write_text(text)
    message = error_of(model_folder)
    assert str(model_folder / "model.json") in message and expected in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"diffussion": None}, "unknown key 'diffussion': did you mean 'diffusion'?"),
        ({"dtype": "int8"}, "dtype"),
        ({"sampling": {"sampler": "dpmpp_2n"}}, "did you mean 'dpmpp_2m'?"),
        ({"sampling": {"num_inference_steps": 0}}, "num_inference_steps"),
        ({"files": {"../../etc/passwd": "0"}}, "is not inside the model folder"),
        ({"max_latents": -1}, "cannot build a model from it"),
        ({"fixed_length": True}, "unknown key 'fixed_length'"),
        (
            {"condition": {"labels": ["bad", "good"], "source": {"num_layers": 0, "max_tokens": 24}}},
            "condition/model.safetensors: holds a tensor 'condition.layers.0.",
        ),
        (
            {"max_latents": 9},
            "tensor 'denoiser.num_latents.weight' has shape [9, 32], but the model in model.json needs [10, 32]",
        ),
    ],
)
def test_settings_that_make_no_model_are_named(changes: dict[str, Any], expected: str, model_folder: Path) -> None:
    """model.json is edited by hand sometimes."""
    edit_record(model_folder, **changes)
    assert expected in error_of(model_folder)


def test_missing_pieces_are_named(model_folder: Path, tmp_path: Path) -> None:
    """Files other than weights, and the page itself."""
    for name in ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "backbone/config.json"):
        path = model_folder / name
        whole = path.read_bytes()
        path.unlink()
        assert f"{path} is missing" in error_of(model_folder)
        path.write_bytes(whole)
    (model_folder / "model.json").unlink()
    assert f"{model_folder} is not a model folder: it has no model.json" in error_of(model_folder)
    (tmp_path / "empty").mkdir()
    assert "empty is not a model folder: it has no model.json" in error_of(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer/tokenizer.json", '{"version": "1.0", "model": {'),
        ("tokenizer/tokenizer.json", "{}"),
        ("tokenizer/tokenizer_config.json", "nothing"),
        ("backbone/config.json", '{"model_type": "no_such_type"}'),
        ("backbone/config.json", '{"model_type": "bert"}'),
        ("backbone/config.json", "{"),
        ("backbone/generation_config.json", "{"),
    ],
)
def test_files_that_transformers_cannot_read_are_named(name: str, text: str, model_folder: Path) -> None:
    """Even where the hashes agree: another program may have made the folder."""
    (model_folder / name).write_text(text)
    rehash(model_folder)
    message = error_of(model_folder)
    assert str(model_folder / name.split("/")[0]) in message and "cannot be read" in message


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.write_text, (self.target, "unpickled")


@pytest.mark.parametrize("ending", [*sorted(PICKLES), ".BIN"])
def test_a_folder_with_a_pickle_is_refused_unread(ending: str, model_folder: Path, tmp_path: Path) -> None:
    """Loading a model of a stranger's runs nothing of the stranger's."""
    path = model_folder / "backbone" / f"pytorch_model{ending}"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    assert f"{path} may run code when it is read, so the model is refused" in error_of(model_folder)
    (model_folder / "backbone" / "model.safetensors").write_bytes(path.read_bytes())  # under a name that is read
    path.unlink()
    assert "model.safetensors is cut short or damaged" in error_of(model_folder)
    assert not (tmp_path / "boom").exists()


def test_code_that_a_folder_brings_along_is_not_run(model_folder: Path, tmp_path: Path) -> None:
    """transformers can load classes from a model's folder ("auto_map"); ours never does."""
    code = f"import pathlib\npathlib.Path({str(tmp_path / 'boom')!r}).touch()\nclass Thing: pass\n"
    for part, file, keys in [
        ("backbone", "config.json", ("AutoConfig", "AutoModelForSeq2SeqLM")),
        ("tokenizer", "tokenizer_config.json", ("AutoTokenizer",)),
    ]:
        (model_folder / part / "thing.py").write_text(code)
        path = model_folder / part / file
        auto_map = {key: ["thing.Thing", None] if key == "AutoTokenizer" else "thing.Thing" for key in keys}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    rehash(model_folder)
    loaded = load_parts(model_folder).autoencoder.backbone  # by transformers' own classes
    assert type(loaded.model).__module__.startswith("transformers.")
    assert type(loaded.tokenizer).__module__.startswith("transformers.")
    path = model_folder / "backbone" / "config.json"  # of a type that transformers knows not
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "thing"}))
    rehash(model_folder)
    with pytest.raises(UserError, match="cannot be read"):
        load_parts(model_folder)
    assert not (tmp_path / "boom").exists()
