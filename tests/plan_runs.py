"""Trainings of tiny models with plan latents, from rows in memory."""

from typing import Any

import runs
import tiny
from ladle.training.recipe import Recipe, parse_recipe

ROWS = [
    {"text": text, "label": tiny.LABELS[i % 2], "source": " ".join(text.split()[1:3])}
    for i, text in enumerate(tiny.SENTENCES)
]
COLUMNS = {"labels": ("text", "label"), "sources": ("text", "source"), "both": ("text", "label", "source"),
           "neither": ("text",)}  # fmt: skip
SIZES = tiny.PLAN_SIZES | {"backbone": tiny.PLAN_SIZES["backbone"] | {"vocab_size": 300}}


def rows(columns: str) -> list[dict[str, str]]:
    return [{name: row[name] for name in COLUMNS[columns]} for row in ROWS]


def settings(**given: Any) -> dict[str, Any]:
    """Six steps or so to a stage. A mapping, so that the sampling defaults of `ladle train` apply."""
    training = runs.SETTINGS["training"] | {"steps": 8} | given.pop("training", {})
    return {
        "name": "made",
        "start": "nothing",
        "data": {"valid_fraction": 0.1},
        "autoencoder": SIZES,
        "diffusion": {"denoiser": {"kind": "perceptron", "width": 32, "num_layers": 2}},
        "sampling": {"num_inference_steps": 2},
        "training": training,
    } | given


def recipe(**given: Any) -> Recipe:
    return parse_recipe(settings(**given))
