"""The benchmark, whole: trained, sampled, scored, timed, drawn; and nothing done twice."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ladle.benchmark import run as module
from ladle.benchmark.results import differences, mean_and_spread, paired_difference, to_markdown
from ladle.benchmark.rivals import AutoregressiveSystem, Draws
from ladle.benchmark.run import run_benchmark
from ladle.benchmark.speed import settings_to_time
from ladle.benchmark.systems import LadleSystem
from ladle.cli import main
from ladle.data.rows import read_rows
from ladle.errors import UserError
from ladle.storage.writing import write_rows
from ladle.training.recipe import to_toml

pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")

TINY = Path(__file__).parents[2] / "benchmarks" / "suites" / "tiny.toml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite `tiny`, whole, at a seventh of its minutes."""
    folder = tmp_path_factory.mktemp("results")
    assert main(["benchmark", str(TINY), "--budget", "0.06", "-o", str(folder)]) == 0
    return folder / "tiny"


def test_the_table_has_every_system_and_the_controls(finished: Path) -> None:
    result = json.loads((finished / "results.json").read_text())
    assert set(result["controls"]) == {"reference", "shuffled", "training", "ceiling"}
    assert set(result["systems"]) == {"ladle", "rival", "tokens", "guided"}
    for system in result["systems"].values():
        (_, rows), *others = system["settings"].items()
        assert len(rows) == result["suite"]["seeds"] == 2
        assert all(len(rows) == 1 for _, rows in others)
        assert {"perplexity", "div", "copies", "label_true"} <= set(rows[0])
        assert system["minutes"] == pytest.approx(0.06, abs=0.1)
        assert list(system["speed"]) == list(system["settings"])[:1]  # (MAUVE is not measured in this suite)
        assert all(timed[size]["median"] > 0 for timed in system["speed"].values() for size in ("1", "64"))
    bleu = result["systems"]["ladle"]["reconstruction"]
    texts = list(dict.fromkeys(row["text"] for row in read_rows(TINY.parent / "tiny" / "test.jsonl")))
    assert bleu == pytest.approx(LadleSystem(finished / "ladle" / "final").reconstruction(texts))
    assert result["systems"]["rival"]["reconstruction"] is None
    sizes = {name: system["parameters"] for name, system in result["systems"].items()}
    for rival in ("rival", "tokens"):
        assert sizes[rival] == pytest.approx(sizes["ladle"], rel=0.1)
    assert sizes["guided"] > sizes["rival"]  # with the classifier
    table = (finished / "table.md").read_text()
    for word in (
        "| ladle |",
        "| rival |",
        "| tokens |",
        "| guided |",
        "| reference |",
        "Less rival",
        "tokens/s, batch 1",
    ):
        assert word in table
    assert (finished / "plots" / "perplexity_div.png").stat().st_size > 5000
    assert (finished / "plots" / "rival_perplexity.png").exists()
    assert str(finished) not in (finished / "results.json").read_text()  # results are read on other machines


def test_samples_are_drawn_for_the_same_seeds_and_labels(finished: Path) -> None:
    """Whatever the system, row for row."""
    files = [sorted((finished / name / "settings").glob("*/samples-0.jsonl"))[0] for name in ("ladle", "rival")]
    ours, theirs = ([json.loads(line) for line in path.read_text().splitlines()] for path in files)
    assert [(row["seed"], row["label"]) for row in ours] == [(row["seed"], row["label"]) for row in theirs]
    assert {row["label"] for row in ours} == {"fair", "foul"}


def test_nothing_is_done_twice(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again draws and scores nothing; a settings' file that is gone is made again, the same."""
    table = (finished / "table.md").read_text()
    for system in (LadleSystem, AutoregressiveSystem):
        monkeypatch.setattr(system, "draw", None)
    monkeypatch.setattr("ladle.benchmark.scoring.Measurement", None)
    run_benchmark(TINY, finished.parent, 0.06, log=lambda line: None)
    assert (finished / "table.md").read_text() == table
    monkeypatch.undo()
    path = finished / "rival" / "settings" / "p .7" / "samples-0.jsonl"
    known = path.read_bytes()
    path.unlink()
    (path.parent / "scores-0.json").write_text("{")  # what a killed run may leave
    (path.parent / ".tmp-x").write_text("{")
    run_benchmark(TINY, finished.parent, 0.06, log=lambda line: None)
    assert path.read_bytes() == known
    assert not list(finished.rglob(".tmp-*"))
    assert (finished / "table.md").read_text() == table


def test_a_folder_of_other_minutes_is_not_taken_for_this_one(finished: Path) -> None:
    """A budget is part of what a model is."""
    with pytest.raises(UserError, match="minutes"):
        run_benchmark(TINY, finished.parent, 0.07, log=lambda line: None)


def test_trainings_of_several_seeds_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sample seed is drawn by a training of its own seed; the table has the mean over both."""
    values = tomllib.loads(TINY.read_text(encoding="utf-8"))
    system = values["systems"]["ladle"] | {"settings": {"default": {"num_inference_steps": 2}}}
    shared = {"condition": "label", "seeds": 2, "num_samples": 8, "speed": {"batches": {"8": 8}, "rounds": 1}}
    data = {"path": str(TINY.parent / "tiny"), "valid_fraction": 0.1}
    suite = tmp_path / "two.toml"
    suite.write_text(to_toml(shared | {"training_seeds": 2, "data": data, "systems": {"ladle": system}}))
    drawn: list[tuple[str, int]] = []
    draw = LadleSystem.draw

    def noted(self: LadleSystem, draws: Draws, *rest: Any) -> list[str]:
        drawn.append((self.folder.parent.name, draws["seeds"][0]))
        return draw(self, draws, *rest)

    monkeypatch.setattr(LadleSystem, "draw", noted)
    run_benchmark(suite, tmp_path, 0.03, log=lambda line: None)
    result = json.loads((tmp_path / "two" / "results.json").read_text())
    assert drawn[:2] == [("ladle", 0), ("training-1", module.SEEDS_APART)]
    assert len(set(result["systems"]["ladle"]["digests"])) == 2
    seeds = [
        json.loads((tmp_path / "two" / "ladle" / part / "config.json").read_text())["training"]["seed"]
        for part in ("", "training-1")
    ]
    assert seeds == [0, 1]


def test_a_table_says_what_the_budget_was(finished: Path) -> None:
    result = json.loads((finished / "results.json").read_text())
    assert "Budget: 0.06 minutes of training a system." in to_markdown(result)
    assert "Budget: the steps that the suite's recipes give." in to_markdown(result | {"minutes": None})


def test_the_cheapest_of_the_good_settings_are_timed() -> None:
    """Good: within 5 % of the best, judged on the seeds that every settings have."""
    values = {"own": (0.8, 0.1), "best": (0.9,), "quick": (0.86,), "poor": (0.85,), "slow": (0.9,)}
    rows = {name: [{"mauve": {"value": value}} for value in seeds] for name, seeds in values.items()}
    passes = {"own": 32, "best": 32, "quick": 16, "poor": 8, "slow": 64}
    assert settings_to_time(rows, passes) == ["own", "quick"]
    assert settings_to_time({"own": rows["own"], "slow": []}, passes) == ["own"]
    assert settings_to_time({"own": [{}], "best": [{}]}, passes) == ["own"]


def test_the_table_has_the_speed_at_cheaper_settings(finished: Path) -> None:
    result = json.loads((finished / "results.json").read_text())
    speed = result["systems"]["ladle"]["speed"]
    assert "## Speed" not in to_markdown(result)
    speed["8 steps"] = {size: {"median": 1234.0} for size in speed["default"]}
    section = to_markdown(result).split("## Speed")[1].split("##")[0]
    assert "| ladle | 8 steps | - | 1,234 | 1,234 |" in section
    assert "| rival | p .95 |" in section


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No test rows, no labels to sample by, minutes of nothing."""
    rows, suite = tmp_path / "rows.jsonl", tmp_path / "s.toml"
    write_rows(rows, [{"text": f"text {i}"} for i in range(20)])
    for head, tail, words, message in (
        ("", "", [], "no test rows"),
        ("", f'test_path = "{rows}"\n', ["--budget", "0"], "--budget is 0"),
        ('condition = "label"\n', f'test_path = "{rows}"\n', [], "no test row has a label"),
        ('condition = "source"\n', f'test_path = "{rows}"\n', [], "no test row has a source"),
        (
            "",
            f'test_path = "{rows}"\n[metrics]\nother_path = "{rows}"\nscorer_minutes = 1\n',
            [],
            "the systems train on every row",
        ),
    ):
        suite.write_text(head + f'[data]\npath = "{rows}"\nvalid_fraction = 0.1\n' + tail
                         + '[systems.ladle]\nkind = "ladle"\nmodel = "base-en"\n'
                         + '[systems.ladle.settings.one]\nnum_inference_steps = 1\n')  # fmt: skip
        assert main(["benchmark", str(suite), "-o", str(tmp_path / "results"), *words]) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ladle:")]
        assert len(error) == 1 and message in error[0]


def test_differences_are_paired_by_seed() -> None:
    """Three seeds that differ by the same: certain, however much the seeds differ. t by a table: 4.303 for three."""
    assert paired_difference([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])["interval"] == pytest.approx([0.1, 0.1])
    found = paired_difference([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert found["interval"] == pytest.approx([2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5])
    assert paired_difference([1.0], [0.5]) == {"value": 0.5, "interval": None, "n": 1}


def test_settings_of_all_seeds_are_compared_too() -> None:
    """The first by the system's name, the next by their own; points of one seed are not."""

    def rows(*values: float) -> list[dict[str, Any]]:
        return [{"div": {"value": value}} for value in values]

    ours = {"one": rows(0.5, 0.7), "two": rows(0.3, 0.4), "three": rows(0.9)}
    systems = {"ladle": {"kind": "ladle", "settings": ours},
               "rival": {"kind": "autoregressive", "settings": {"p": rows(0.4, 0.5), "q": rows(0.1, 0.1)}}}  # fmt: skip
    found = differences({"suite": {"rival": None, "full_settings": 2}, "systems": systems})
    assert {name: round(row["div"]["value"], 6) for name, row in found.items()} == {"ladle": 0.15, "ladle, two": -0.1}
    assert list(differences({"suite": {"rival": None}, "systems": systems})) == ["ladle"]


def test_means_leave_out_what_was_not_measured() -> None:
    rows = [{"div": {"value": 0.2}}, {"div": {"value": 0.4}}]
    assert mean_and_spread(rows, "mauve") is None
    assert mean_and_spread(rows, "div") == pytest.approx((0.3, 0.1414, 2), abs=1e-4)
