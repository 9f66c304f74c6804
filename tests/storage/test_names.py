"""From a model's name to its folder: path, shipped name, hub id, in this order."""

import shutil
from pathlib import Path

import pytest

from ladle.errors import UserError
from ladle.storage.model_folder import load_parts
from ladle.storage.names import resolve_model


def test_a_path_comes_before_a_shipped_name(
    shipped: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The order of the design; a folder of data that happens to have a model's name does not hide the model."""
    monkeypatch.chdir(tmp_path)
    assert resolve_model("base-en") == shipped / "base-en"
    (tmp_path / "base-en").mkdir()
    assert resolve_model("base-en") == shipped / "base-en"
    model_folder.rename(tmp_path / "base-en")
    assert resolve_model("base-en") == Path("base-en")
    assert resolve_model(str(shipped / "base-en")) == shipped / "base-en"
    assert load_parts("base-en").name == "tiny"


def test_a_run_stands_for_its_finished_model(model_folder: Path, tmp_path: Path) -> None:
    """`--model runs/reviews` is what a user types after `--output runs/reviews`."""
    (tmp_path / "run").mkdir()
    model_folder.rename(tmp_path / "run" / "final")
    assert resolve_model(tmp_path / "run") == tmp_path / "run" / "final"
    put = tmp_path / "run" / "final" / ".ladle-put" / "files"  # killed while the model was put in place
    put.mkdir(parents=True)
    (tmp_path / "run" / "final" / "model.json").rename(put / "model.json")
    assert resolve_model(tmp_path / "run") == tmp_path / "run" / "final"


def test_an_unfinished_training_is_told_from_a_folder_without_a_model(tmp_path: Path) -> None:
    """The remedy is to go on, not to look for another folder."""
    (tmp_path / "state").mkdir()
    for name in (tmp_path, tmp_path / "final"):
        with pytest.raises(UserError, match=f"in {tmp_path} is not finished: run the same `ladle train` command again"):
            resolve_model(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base-em", "no model 'base-em': it is neither a folder nor a shipped model; did you mean 'base-en'?"),
        ("zzz", "allowed: base-en"),
        ("", "shipped model (base-en)"),
        ("./nowhere/at/all", "no model './nowhere/at/all'"),
        ("file.txt", "file.txt is a file"),
        ("data", "data is not a model folder: it has no model.json"),
    ],
)
def test_an_unknown_model_names_the_nearest(
    name: str, expected: str, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in a model's name costs one more try, not a look into the manual."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError) as caught:
        resolve_model(name)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_hub_id_is_looked_up_in_the_hub_cache(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model downloaded once loads offline; one never seen is an error in one line."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UserError) as caught:
        resolve_model("somebody/stories")
    assert "no model 'somebody/stories'" in str(caught.value) and "\n" not in str(caught.value)
    cached = tmp_path / "hub" / "models--somebody--stories"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(model_folder, cached / "snapshots" / ("0" * 40))
    assert load_parts("somebody/stories").name == "tiny"


def test_a_hub_out_of_reach_is_said_without_error_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own line speaks of sockets."""

    def fail(*given: object, **options: object) -> None:
        raise OSError("Got: ConnectError: [Errno -2] Name or service not known\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match="loading it from the hub failed: the hub cannot be reached$"):
        resolve_model("somebody/stories")


def test_a_revision_is_of_a_model_on_the_hub(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag names its own snapshot; for a folder there is nothing that it could mean."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "models--somebody--stories"
    (cached / "refs").mkdir(parents=True)
    for name, commit in (("main", "0" * 40), ("v1", "1" * 40)):
        (cached / "refs" / name).write_text(commit)
        shutil.copytree(model_folder, cached / "snapshots" / commit)
    assert resolve_model("somebody/stories").name == "0" * 40
    assert resolve_model("somebody/stories", revision="v1").name == "1" * 40
    with pytest.raises(UserError, match="no model 'somebody/stories'"):
        resolve_model("somebody/stories", revision="v2")
    for name in (str(model_folder), "base-en"):
        with pytest.raises(UserError, match="revision 'v1' is given for .*, but only models on the hub have revisions"):
            resolve_model(name, revision="v1")
