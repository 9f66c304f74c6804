"""One table from several suites: what is wrong is said before the work, nothing is done twice, and each figure is the
one that the part measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny
from ladle.benchmark import parts as module
from ladle.benchmark.composite import CompositeConfig, load_composite
from ladle.benchmark.figures import figure, meaning
from ladle.benchmark.matched import at_self_bleu, common_middle, curve_of, interpolated
from ladle.benchmark.one_table import to_markdown
from ladle.benchmark.run import run_benchmark
from ladle.cli import main
from ladle.errors import UserError
from ladle.storage.writing import write_rows
from ladle.training.recipe import to_toml
from runs import SUITE_RECIPE

pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")

PART: dict[str, Any] = {
    "seeds": 2,
    "frontier_seeds": 2,
    "num_samples": 12,
    "data": {"path": "rows"},
    "metrics": {"test_bleu": True},
    "speed": {"batches": {"4": 4}, "rounds": 2},
    "systems": {
        "ours": {
            "kind": "ladle",
            "recipe": SUITE_RECIPE,
            "settings": {f"t {t}": {"num_inference_steps": 2, "temperature": float(t)} for t in (1, 0)},
        },
    },
}  # fmt: skip
RIVAL = {"kind": "autoregressive", "learning_rates": [2e-3], "minutes": 0.02}
TABLE: dict[str, Any] = {
    "parts": ["one", "two"],
    "rows": {"ours": "Ours", "rival": "GPT"},
    "columns": [
        {"heading": "test-BLEU", "part": "one", "metric": "test_bleu", "published": {"ours": 48.2, "rival": 45.3}},
        {"heading": "matched", "part": "one", "metric": "test_bleu at self_bleu of the middle", "digits": 2},
        {"heading": "Div, %", "part": "two", "metric": "div", "percent": True},
        {"heading": "speed", "part": "one", "metric": "tokens/s, batch 4", "digits": 0},
        {"heading": "own perplexity", "part": "two", "metric": "likelihood"},
    ],
    "published": "From a page.",
    "published_rows": {"rival": "GPT-2"},
}


def inline(value: Any) -> str:
    """A value on one line of TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {inline(own)}" for key, own in value.items()) + " }"
    return f"[{', '.join(map(inline, value))}]" if isinstance(value, list) else json.dumps(value)


def suites(folder: Path, **table: Any) -> Path:
    """A composite suite of two parts: one with a rival, one without."""
    rows = [{"text": text} for text in tiny.SENTENCES]
    for name, part in (("train", rows[:30]), ("valid", rows[30:34]), ("test", rows[34:])):
        write_rows(folder / "rows" / f"{name}.jsonl", part)
    both = PART | {"systems": PART["systems"] | {"rival": RIVAL}}
    (folder / "one.toml").write_text(to_toml(both))
    ours = PART["systems"]["ours"] | {"settings": {"one": {"num_inference_steps": 2}}}
    (folder / "two.toml").write_text(to_toml(PART | {"seeds": 1, "systems": {"ours": ours}}))
    (folder / "all.toml").write_text("\n".join(f"{key} = {inline(value)}" for key, value in (TABLE | table).items()))
    return folder / "all.toml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composite")
    assert main(["benchmark", str(suites(folder)), "-o", str(folder / "results")]) == 0
    return folder


def test_one_table_has_the_figures_of_all_parts(finished: Path) -> None:
    """Each figure is the part's own, with the published table apart from it."""
    folder = finished / "results" / "all"
    one = json.loads((folder / "one" / "results.json").read_text())
    ours = [row["test_bleu"]["value"] for row in one["systems"]["ours"]["settings"]["t 1"]]
    values = json.loads((folder / "results.json").read_text())["values"]
    assert values["ours"]["test-BLEU"]["value"] == pytest.approx(sum(ours) / 2)
    assert values["ours"]["test-BLEU"]["n"] == 2
    assert values["real text"]["test-BLEU"]["value"] == one["controls"]["reference"]["test_bleu"]["value"]
    assert values["rival"]["Div, %"] is values["ours"]["own perplexity"] is None
    assert values["ours"]["speed"]["value"] == one["systems"]["ours"]["speed"]["t 1"]["4"]["median"]
    two = json.loads((folder / "two" / "results.json").read_text())
    (row,) = two["systems"]["ours"]["settings"]["one"]
    assert values["ours"]["Div, %"]["value"] == pytest.approx(100 * row["div"]["value"])
    measured, published = (folder / "table.md").read_text().split("## Published, not measured here")
    assert "| Ours | " in measured and "| real text (held out) | " in measured
    assert "* Not measured for Ours (`-`): own perplexity.\n" in measured
    assert "* Not measured for GPT (`-`): matched; Div, %; own perplexity.\n" in measured
    assert "| Ours | one | t 1 |" in measured and "threads, " in measured
    assert "48.2" not in measured and "From a page." in published
    assert "| system | test-BLEU |" in published and "| GPT-2 | 45.3 |" in published
    assert (folder / "one" / "plots" / "test_bleu_self_bleu.png").exists()
    assert "## test-BLEU at equal self-BLEU" in (folder / "one" / "table.md").read_text()


def test_a_finished_part_is_not_repeated(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again trains, draws, scores and times nothing, and writes the same table."""
    table = finished / "results" / "all" / "table.md"
    before = table.read_text()
    for name in ("rivals.train_autoregressive", "scoring.Measurement"):
        monkeypatch.setattr(f"ladle.benchmark.{name}", None)
    for system in ("systems.LadleSystem", "rivals.AutoregressiveSystem"):
        monkeypatch.setattr(f"ladle.benchmark.{system}.draw", None)
    assert module.run_suite(finished / "all.toml", finished / "results", log=lambda line: None) == table
    assert table.read_text() == before


def test_a_stopped_run_leaves_the_table_of_the_parts_that_have_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the figures that the whole table has for them."""
    shutil.copytree(finished, tmp_path / "copy")
    results = tmp_path / "copy" / "results"
    shutil.rmtree(results / "all" / "two")
    (results / "all" / "table.md").unlink()

    def stopped(suite: Path, *rest: Any) -> Path:
        if suite.stem == "two":
            raise KeyboardInterrupt
        return run_benchmark(suite, *rest)

    monkeypatch.setattr(module, "run_benchmark", stopped)
    with pytest.raises(KeyboardInterrupt):
        module.run_suite(tmp_path / "copy" / "all.toml", results, log=lambda line: None)
    table = (results / "all" / "table.md").read_text()
    assert "| system | test-BLEU | matched | speed |" in table and "Not run yet: two." in table
    assert "## Published, not measured here" in table
    whole = (finished / "results" / "all" / "table.md").read_text()
    ours = [next(line for line in text.splitlines() if line.startswith("| Ours ")) for text in (table, whole)]
    assert ours[0].split(" | ")[:3] == ours[1].split(" | ")[:3]


def column(**changes: Any) -> dict[str, Any]:
    return {"columns": [{"heading": "x", "part": "one", "metric": "div"} | changes]}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"parts": ["one", "three"]}, "has the part 'three', but there is no"),
        ({"parts": ["one", "one"]}, "two parts have the name 'one'"),
        ({"rows": {"ours": "a", "guide": "b"}}, "no part has the system 'guide' of rows"),
        (column(metric="mauv"), "column 'x' has the unknown metric 'mauv': did you mean 'mauve'?"),
        (column(part="tow"), "column 'x' is of the part 'tow': did you mean 'two'?"),
        (column(metric="tokens/s, batch 64"), "is of batch 64; one measures speed at batch 4"),
        (column(published={"our": 1.0}), "has a published value for 'our': did you mean 'ours'?"),
        ({"published_rows": {"x": "y"}}, "published_rows has 'x'"),
        (column(unit="%"), "unknown key 'columns.0.unit'"),
        ({"parts": []}, "parts"),
    ],
)
def test_what_is_wrong_is_one_line_before_the_work(
    tmp_path: Path, table: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of hours may not fail at its end for a word in a column."""
    path = suites(tmp_path, **table)
    assert main(["benchmark", str(path), "-o", str(tmp_path / "results")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ladle:")]
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "results").exists()


def test_every_part_is_checked_before_the_first_begins(tmp_path: Path) -> None:
    """Bad data of the last part, and a budget of nothing."""
    path = suites(tmp_path)
    (tmp_path / "two.toml").write_text(to_toml(PART | {"data": {"path": "nowhere"}}))
    with pytest.raises(UserError, match="nowhere"):
        module.run_suite(path, tmp_path / "results")
    with pytest.raises(UserError, match="--budget is -1"):
        module.run_suite(path, tmp_path / "results", -1)
    assert not list((tmp_path / "results").rglob("ours"))


def test_budget_and_data_are_those_of_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data FOLDER` holds a folder for each part."""
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "check_benchmark", lambda *words: given.append(words))
    monkeypatch.setattr(module, "run_benchmark", lambda *words: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.run_suite(suites(tmp_path), tmp_path / "results", 3.0, str(tmp_path / "sets"))
    assert [words[2:] for words in given] == [(3.0, str(tmp_path / "sets" / name)) for name in ("one", "two")]


def rows(*values: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"self_bleu": {"value": x}, "test_bleu": {"value": y}} for x, y in values]


def test_the_curve_is_a_straight_line_between_settings() -> None:
    """Whatever the order of the settings; nothing is made up beyond its ends."""
    curve = [(30.0, 8.0), (10.0, 4.0), (20.0, 7.0)]
    assert [interpolated(curve, at) for at in (10, 15, 20, 25, 30)] == pytest.approx([4, 5.5, 7, 7.5, 8])
    assert interpolated(curve, 9.9) is interpolated(curve, 30.1) is interpolated([], 1) is None
    assert interpolated([(1.0, 2.0), (1.0, 3.0)], 1) == 3


def test_the_middle_is_that_of_the_common_range() -> None:
    assert common_middle([[(0, 1), (10, 2)], [(4, 1), (20, 2)]]) == 7
    assert common_middle([[(0, 1), (3, 2)], [(4, 1), (20, 2)]]) is None
    assert common_middle([[(0, 1), (10, 2)], [(7, 1)], []]) == 5
    assert common_middle([]) is common_middle([[(0, 1)], [(0, 1)]]) is None


def test_matched_figures_have_the_spread_of_their_seeds() -> None:
    settings = {"hot": rows((10, 4), (12, 6)), "cold": rows((20, 8), (20, 8)), "none": [{}]}
    value, spread, count = at_self_bleu(settings, 15) or (0, 0, 0)
    assert curve_of(settings) == [(11, 5), (20, 8)]
    assert value == pytest.approx(5 + 3 * 4 / 9) and count == 1
    del settings["none"]
    value, spread, count = at_self_bleu(settings, 15) or (0, 0, 0)
    assert count == 2 and spread == pytest.approx(abs(6 - 6.75) / 2**0.5)
    assert at_self_bleu(settings, 9) is at_self_bleu(settings, None) is None


def test_the_likelihood_is_taken_from_the_results_where_it_stands() -> None:
    """With its spread over trainings; its column is empty until then."""
    system: dict[str, Any] = {"settings": {"a": [{"div": {"value": 0.5}}]}, "speed": {}}
    result = {"controls": {}, "systems": {"x": system}}
    assert figure(result, "x", "likelihood") is figure(result, "x", "tokens/s, batch 1") is None
    assert figure(result, "y", "div") is figure(result, "real text", "div") is None
    system["likelihood"] = {"value": 7.0, "values": [6.0, 8.0]}
    assert figure(result, "x", "likelihood") == (7.0, pytest.approx(2**0.5), 2)
    system["likelihood"] = None
    assert figure(result, "x", "likelihood") is None
    assert meaning("likelihood")[0] == "lower" and meaning("div") == ("as the reference", meaning("div")[1])


def test_another_machine_is_told(finished: Path) -> None:
    """All figures of one table are of one machine, or the table says which are not."""
    config = load_composite(finished / "all.toml").config
    folder = finished / "results" / "all"
    results = {part: json.loads((folder / part / "results.json").read_text()) for part in config.parts}
    assert "different machines" not in to_markdown(config, results)
    results["two"]["environment"]["threads"] = "64"
    assert "Warning: the parts were measured on different machines: one with" in to_markdown(config, results)
    alone = CompositeConfig.parse(TABLE | column() | {"name": "x"})
    assert "## Published" not in to_markdown(alone, results)
