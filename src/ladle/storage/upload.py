"""Sends a model to the Hugging Face hub."""

import tempfile
from pathlib import Path
from typing import Any

from ladle.errors import LadleError, first_line
from ladle.storage.model_folder import save_parts
from ladle.storage.parts import ModelParts


def upload(parts: ModelParts, repo_id: str, **options: Any) -> str:
    """Upload the model folder and return its address. `options`: of `create_repo`.

    Raises LadleError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_parts(parts, folder)
        try:
            api.create_repo(repo_id, exist_ok=True, **options)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))
        except Exception as error:  # of many kinds: no network, no right to write there, no such name
            raise LadleError(f"cannot upload the model to '{repo_id}': {first_line(error)}") from error
