"""Fixtures that several test files share. The builders themselves are in `tiny.py`."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import tiny
from ladle import cli
from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.diffusion.model import LatentDiffusionModel
from ladle.storage.model_folder import save_parts
from ladle.storage.parts import ModelParts

# A shell that starts the tests in the background makes them ignore Ctrl-C, and their child processes too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same cases in every run, so that a change is judged by what it changed. To look for new ones:
#   make test ARGS=--hypothesis-profile=search
settings.register_profile("same", derandomize=True)
settings.register_profile("search")
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, whichever tests its process ran before it."""
    torch.manual_seed(0)


@pytest.fixture(params=["aligned", "perceiver"])
def autoencoder(request: pytest.FixtureRequest) -> TextAutoencoder:
    """A tiny autoencoder of each bottleneck."""
    return tiny.tiny_autoencoder(request.param)


@pytest.fixture
def diffusion(autoencoder: TextAutoencoder) -> LatentDiffusionModel:
    """A tiny diffusion model with labels and a source over the latents of `autoencoder`."""
    return tiny.tiny_diffusion(autoencoder)


@pytest.fixture
def parts() -> ModelParts:
    """A whole tiny model with position-aligned latents."""
    return tiny.tiny_parts()


@pytest.fixture(scope="session")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_parts(tiny.tiny_parts(), folder)
    return folder


@pytest.fixture
def model_folder(_saved: Path, tmp_path: Path) -> Path:
    """A saved tiny model that the test may damage."""
    return Path(shutil.copytree(_saved, tmp_path / "model"))


@pytest.fixture(params=list(tiny.PRETRAINED))
def pretrained_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a tiny random BART, T5 or mT5 as transformers saves it."""
    build: Callable[[Path], Path] = tiny.PRETRAINED[request.param]
    return build(tmp_path / request.param)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped models, in which there is only `base-en`, an autoencoder in half precision."""
    monkeypatch.setattr("ladle.storage.names.SHIPPED", tmp_path / "models")
    save_parts(
        ModelParts("base-en", tiny.tiny_autoencoder(seed=1)), tmp_path / "models" / "base-en", dtype=torch.float16
    )
    return tmp_path / "models"


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.main([str(word) for word in words])
        return code, *capfd.readouterr()

    return call
