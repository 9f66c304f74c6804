"""Trackers are told what metrics.jsonl is told, and a name that is none is said before the work."""

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.utils import LoggerType
from tiny_stage import TinyStage

from ladle.errors import UserError
from ladle.training.loop import TrainingConfig, train_stage
from ladle.training.trackers import check_trackers

TOLD: list[tuple[str, Any]] = []


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A tracker named `notebook`, registered as a user's own would be; what it is told."""
    from accelerate import tracking

    class Notebook(tracking.GeneralTracker):
        name = "notebook"
        requires_logging_directory = True
        tracker = None

        def __init__(self, project: str, logging_dir: str):
            super().__init__()
            TOLD.append(("made", (project, logging_dir)))

        def store_init_configuration(self, values: dict[str, Any]) -> None: ...

        def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
            TOLD.append(("row", (step, values)))

        def finish(self) -> None:
            TOLD.append(("finish", None))

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    TOLD.clear()
    return TOLD


def test_a_tracker_is_told_what_metrics_jsonl_is(tmp_path: Path, notebook: list[tuple[str, Any]]) -> None:
    config = TrainingConfig(steps=60, precision="fp32", validate_every=0.5, sample_every=0.5, trackers=("notebook",))
    train_stage(TinyStage(texts=["a b c d"]), config, tmp_path, log=lambda line: None)
    assert notebook[0] == ("made", ("ladle-diffusion", str(tmp_path / "trackers")))
    assert notebook[-1] == ("finish", None) and [what for what, _ in notebook].count("finish") == 1
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [value for what, value in notebook if what == "row"]
    assert [step for step, _ in told] == [row["step"] for row in rows]
    for (_, values), row in zip(told, rows, strict=True):
        for name, value in values.items():
            group, _, inner = name.partition("/")
            assert value == (row[group][inner] if inner else row[group])
    assert any("validation/mse" in values for _, values in told) and any("samples/empty" in v for _, v in told)
    assert any("loss" in values for _, values in told)


def test_unknown_and_missing_trackers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here: as if nothing were, and as if one tracker were."""
    check_trackers([])
    with pytest.raises(UserError, match="unknown tracker 'tensorbord': did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    for name in ("tensorboard", "wandb", "clearml"):
        with pytest.raises(UserError, match=f"the tracker '{name}' is not installed: pip install {name}$"):
            check_trackers([name])
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    check_trackers(["tensorboard"])
    with pytest.raises(UserError, match="pip install comet-ml$"):
        check_trackers(["comet_ml"])


def test_tensorboard_gets_its_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    config = TrainingConfig(steps=60, precision="fp32", trackers=("tensorboard",))
    train_stage(TinyStage(), config, tmp_path, log=lambda line: None)
    assert list((tmp_path / "trackers" / "ladle-diffusion").glob("events.out.tfevents*"))
