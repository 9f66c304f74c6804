"""Finds the folder of a model by its name: an existing path, then a shipped name, then a hub id."""

import os
import re
from importlib import resources
from pathlib import Path

from ladle.config import nearest
from ladle.errors import UserError, first_line
from ladle.hub import reaching_hub
from ladle.storage.folders import recover_folder

SHIPPED = Path(str(resources.files("ladle"))) / "models"
RECORD = "model.json"  # a folder with this file is a model folder
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ("*.safetensors", "*.json", "*.md")  # all that a model folder holds; no pickle is ever fetched


def shipped_models() -> dict[str, Path]:
    """Names and folders of the models that come with Ladle."""
    return {record.parent.name: record.parent for record in sorted(SHIPPED.glob(f"*/{RECORD}"))}


def resolve_model(name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The folder of a model. For a run folder it is the finished model in it (`final/`).

    Args:
        name_or_path: a path; else the name of a shipped model; else a hub id `owner/name`, which is downloaded. A
            folder without a model (such as a data folder) does not hide a shipped model of the same name.
        revision: branch, tag or commit of a model on the hub; None: its main branch.

    Raises:
        UserError: no such model (with the nearest shipped name), a failed download, or a revision for a model that is
            not on the hub.
    """
    folder = _local_model(os.fspath(name_or_path))
    if folder is None:
        return _download(os.fspath(name_or_path), revision)
    if revision is not None:
        raise UserError(f"revision '{revision}' is given for {folder}, but only models on the hub have revisions")
    return folder


def _local_model(name: str) -> Path | None:
    """The folder of a model on this machine; None for a hub id."""
    if not name.strip():
        raise UserError(f"no model given; give a folder, a hub id or a shipped model ({shipped_names()})")
    path, known = Path(name), shipped_models()
    for folder in (path, path / "final"):
        recover_folder(folder)
        if (folder / RECORD).is_file():
            return folder
    if name in known:
        return known[name]
    for run in (path, path.parent) if path.name == "final" else (path,):
        if (run / "state").is_dir():
            raise UserError(f"the training in {run} is not finished: run the same `ladle train` command again")
    if path.is_dir():
        raise UserError(f"{path} is not a model folder: it has no {RECORD}; give a folder that `ladle train` made")
    if path.exists():
        raise UserError(f"{path} is a file; give a model folder, a hub id or a shipped model")
    if HUB_ID.fullmatch(name):
        return None
    hint = nearest(name, list(known)) if known else "this installation ships no models"
    raise UserError(f"no model '{name}': it is neither a folder nor a shipped model; {hint}")


def shipped_names() -> str:
    """The names of the shipped models, for a message."""
    return ", ".join(shipped_models()) or "none in this installation"


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with reaching_hub(hub_id) as online:
        try:
            return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(HUB_FILES)))
        except Exception as error:  # of many kinds: no such repository, no space, none stored on this machine
            reason = first_line(error) if online else "the hub cannot be reached"
            raise UserError(f"no model '{hub_id}': no folder, and loading it from the hub failed: {reason}") from None
