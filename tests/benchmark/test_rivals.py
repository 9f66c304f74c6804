"""What a suite says of a rival reaches its training."""

from pathlib import Path
from typing import Any

import pytest

from ladle.baselines.token_diffusion import TokenDiffusionModel
from ladle.benchmark import rivals
from ladle.benchmark.rivals import RIVALS, Training
from ladle.benchmark.suite import SystemConfig
from ladle.data.rows import Row
from ladle.data.splits import Splits
from ladle.pipeline import LatentDiffusion
from ladle.storage.parts import count_parameters
from tiny import SENTENCES

ROWS = [Row(text=text) for text in SENTENCES[:8]]


class Asked(Exception):
    pass


def asked(monkeypatch: pytest.MonkeyPatch, name: str, system: SystemConfig, training: dict[str, Any]) -> list[Any]:
    """What `rivals.NAME` is called with."""
    found: list[Any] = []

    def instead(*given: Any, **named: Any) -> None:
        found.extend([given, named])
        raise Asked

    monkeypatch.setattr(rivals, name, instead)
    with pytest.raises(Asked):
        RIVALS[system.kind](Training(system, Splits(ROWS, ROWS[:2], []), minutes=2.0, log=print, seed=3, **training))
    return found


def test_a_token_diffusion_has_the_size_of_like_unless_the_suite_gives_a_width(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the batches, rates and schedules of the suite."""
    given = {"learning_rates": (1e-3,), "schedules": ("cosine",), "batch_tokens": 99}
    whole = count_parameters(LatentDiffusion.from_pretrained(model_folder).parts, frozen=False)
    sizes = []
    for network in ({"dropout": 0.0}, {"dropout": 0.0, "width": 32, "num_layers": 2, "num_heads": 1}):
        system = SystemConfig(kind="token_diffusion", config={"network": network}, **given)
        arguments, _ = asked(monkeypatch, "train_token_diffusion", system, {"folder": tmp_path, "ladle": model_folder})
        config, tokenizer, *_, settings, rates, schedules = arguments
        sizes.append(TokenDiffusionModel(config, tokenizer).num_parameters)
        assert config.network.dropout == 0
        assert (rates, schedules) == ((1e-3,), ("cosine",))
        assert (settings.max_tokens, settings.minutes, settings.seed) == (99, 2.0, 3)
    assert config.network.width == 32
    assert sizes[0] != sizes[1]
    assert abs(sizes[0] / whole - 1) < abs(sizes[1] / whole - 1)


def test_an_autoregressive_rival_has_the_batches_and_rates_of_the_suite(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own where the suite says nothing."""
    where = {"folder": tmp_path, "ladle": model_folder}
    own = SystemConfig(kind="autoregressive", batch_tokens=99, learning_rates=(1e-3,))
    arguments, named = asked(monkeypatch, "train_autoregressive", own, where)
    assert (arguments[-1].max_tokens, named["learning_rates"]) == (99, (1e-3,))
    arguments, named = asked(monkeypatch, "train_autoregressive", SystemConfig(kind="autoregressive"), where)
    assert arguments[-1].max_tokens == rivals.autoregressive_settings(minutes=2.0).max_tokens
    assert "learning_rates" not in named
