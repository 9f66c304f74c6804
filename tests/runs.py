"""A tiny training from the shell or from Python, and what is in a folder before and after."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import tiny
from ladle.training.recipe import Recipe

ROWS = [{"text": text, "label": tiny.LABELS[number % 2]} for number, text in enumerate(tiny.SENTENCES)]
SETTINGS: dict[str, Any] = {
    "name": "made",
    "start": "nothing",
    "autoencoder": {
        "max_tokens": 24,
        "backbone": {"vocab_size": 300, "width": 32, "num_encoder_layers": 1, "num_decoder_layers": 1},
        "bottleneck": {"latent_dim": 8, "num_layers": 1},
    },
    "diffusion": {"denoiser": {"width": 32, "num_layers": 2, "num_skips": 1}, "schedule": {"shift": 2.0}},
    "training": {
        "optimiser": {"max_tokens": 400},
        "steps": 6,
        "precision": "fp32",
        "validate_every": 0,
        "sample_every": 0,
    },
    "sampling": {"num_inference_steps": 2},
}

# Of a Ladle system in a suite, which gives it its name and data.
SUITE_RECIPE: dict[str, Any] = {
    "start": "nothing",
    "autoencoder": {
        "backbone": {"width": 32, "vocab_size": 300, "num_encoder_layers": 1, "num_decoder_layers": 1},
        "max_tokens": 24,
        "bottleneck": {"latent_dim": 8},
    },
    "diffusion": {"denoiser": {"width": 32, "num_layers": 2}, "schedule": {"shift": 2.0}},
    "training": {"steps": 6, "precision": "fp32"},
}


def recipe(data: Path | None = None, **settings: Any) -> Recipe:
    """A tiny model from nothing, two steps or so to a stage."""
    values = {"data": {"path": None if data is None else str(data), "valid_fraction": 0.1}} | SETTINGS | settings
    return Recipe.parse({**values, "training": SETTINGS["training"] | settings.get("training", {})})


def write_rows(path: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    """A JSON Lines file of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def quiet(line: str) -> None:
    """A log that nobody reads."""


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The time and the bytes of every file under `folder`."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All weights of the finished model."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted((run / "final").rglob("*.safetensors")):
        found |= {f"{path.parent.name}/{name}": tensor for name, tensor in load_file(path).items()}
    return found


def steps_done(run: Path) -> dict[str, int]:
    states = {path.parent.name: json.loads(path.read_text()) for path in (run / "state").glob("*/state.json")}
    return {name: state["position"]["step"] for name, state in states.items() if state.get("done")}
