"""Settings that choose among draws: the same rule for all systems, rows of the table, and nothing drawn twice."""

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from ladle.benchmark.choice import ChoiceConfig, split_choice
from ladle.benchmark.figures import figure
from ladle.benchmark.results import differences
from ladle.benchmark.rivals import AutoregressiveSystem, Draws
from ladle.benchmark.suite import SuiteConfig
from ladle.benchmark.systems import LadleSystem
from ladle.cli import main
from ladle.errors import UserError
from ladle.evaluation.several import least_risk, similarity
from ladle.storage.writing import write_rows
from ladle.training.recipe import to_toml
from runs import SUITE_RECIPE

pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")
pytest.importorskip("rouge_score", reason="ROUGE needs the extra 'evaluation'")

CHOICES = {"mbr of 3": {"mbr": 3, "by": "rouge_2"}, "oracle of 3": {"oracle": 3, "by": "rouge_l"}}


def with_choices(name: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name: values} | {key: values | own for key, own in CHOICES.items()}


OURS = with_choices("one", {"num_inference_steps": 2, "temperature": 1.0, "candidates": 1, "words": "any"})
SUITE: dict[str, Any] = {
    "condition": "source",
    "seeds": 2,
    "full_settings": 3,
    "num_samples": 8,
    "data": {"path": "rows"},
    "metrics": {"rouge": True},
    "speed": {"batches": {"4": 4}, "rounds": 1},
    "systems": {
        "ours": {"kind": "ladle", "recipe": SUITE_RECIPE, "settings": OURS},
        "rival": {
            "kind": "autoregressive",
            "learning_rates": [2e-3],
            "minutes": 0.02,
            "settings": with_choices("p 1", {"top_p": 1.0}),
        },
    },
}
TABLE = """
parts = ["task"]
[rows]
ours = "Ours"
"ours, mbr of 3" = "Ours, least risk"
"rival, oracle of 3" = "GPT, oracle"
[[columns]]
heading = "ROUGE-L"
part = "task"
metric = "rouge_l"
published = { "ours, mbr of 3" = 61.1 }
[[columns]]
heading = "speed"
part = "task"
metric = "tokens/s, batch 4"
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composite suite of one part, trained for a few steps. Draws are counted."""
    folder = tmp_path_factory.mktemp("choice")
    rows = [{"source": text.split()[2], "text": text} for text in tiny.SENTENCES]
    for name, part in (("train", rows[:30]), ("valid", rows[30:34]), ("test", rows[34:])):
        write_rows(folder / "rows" / f"{name}.jsonl", part)
    (folder / "task.toml").write_text(to_toml(SUITE))
    (folder / "all.toml").write_text(TABLE)
    counts: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in (LadleSystem, AutoregressiveSystem):
            draw = kind.draw

            def noted(self: Any, draws: Draws, *rest: Any, draw: Any = draw) -> list[str]:
                counts.append(f"{type(self).__name__} {next(iter(draws['seeds']))}")
                return draw(self, draws, *rest)  # type: ignore[no-any-return]

            patch.setattr(kind, "draw", noted)
        assert main(["benchmark", str(folder / "all.toml"), "-o", str(folder / "results")]) == 0
    (folder / "counts.json").write_text(json.dumps(counts))
    return folder


def texts_of(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_each_draw_is_made_once_for_all_settings_that_choose(finished: Path) -> None:
    """Three draws a seed and system, the first of them the one that the plain settings keep; two more for the speed."""
    counts = json.loads((finished / "counts.json").read_text())
    assert len(counts) == 2 * (2 * 3 + 2)
    assert len([count for count in counts if count.endswith(" 1000000")]) == 2


@pytest.mark.parametrize(("system", "plain"), [("ours", "one"), ("rival", "p 1")])
def test_every_system_chooses_by_the_same_rule(finished: Path, system: str, plain: str) -> None:
    """Kept is, source for source, one of the draws: the one of least risk, and the one nearest to the answers. So no
    single draw has a higher ROUGE-L than the oracle."""
    folder = finished / "results" / "all" / "task" / system
    answers: dict[str, list[str]] = {}
    for text in tiny.SENTENCES[34:]:
        answers.setdefault(text.split()[2], []).append(text)
    first = folder / "settings" / plain / "samples-0.jsonl"
    sources = [json.loads(line)["source"] for line in first.read_text().splitlines()]
    others = {path.name: texts_of(path) for own in (folder / "candidates").iterdir() for path in own.glob("*.jsonl")}
    assert sorted(others) == ["1.jsonl", "2.jsonl"]
    pools = [
        [texts_of(first), *(texts_of(own / f"{number}.jsonl") for number in (1, 2))]
        for own in (folder / "candidates").iterdir()
    ]
    kept = texts_of(folder / "settings" / "mbr of 3" / "samples-0.jsonl")
    wanted = [[texts[least_risk(texts, "rouge_2")] for texts in zip(*pool, strict=True)] for pool in pools]
    assert kept in wanted
    best = texts_of(folder / "settings" / "oracle of 3" / "samples-0.jsonl")
    its = [similarity(text, answers[source], "rouge_l") for source, text in zip(sources, best, strict=True)]
    highest = [
        [max(similarity(text, answers[source], "rouge_l") for text in texts)
         for source, texts in zip(sources, zip(*pool, strict=True), strict=True)]
        for pool, own in zip(pools, wanted, strict=True) if own == kept  # (of seed 0; seed 1 may choose the same)
    ]  # fmt: skip
    assert its in highest
    rows = json.loads((folder.parent / "results.json").read_text())["systems"][system]["settings"]
    for seed in range(2):
        single, oracle = (rows[name][seed]["rouge_l"]["value"] for name in (plain, "oracle of 3"))
        assert oracle >= single


def test_choices_are_rows_of_both_tables(finished: Path) -> None:
    """With what they are; the oracle is marked as no system. Each is compared with the rival's that chooses alike."""
    folder = finished / "results" / "all"
    table = (folder / "task" / "table.md").read_text()
    main_table = table.split("## Less rival")[0]
    for row in ("ours", "ours, mbr of 3", "ours, oracle of 3", "rival, mbr of 3", "rival, oracle of 3"):
        assert f"\n| {row} | " in main_table
    assert "upper bound and no system" in main_table
    result = json.loads((folder / "task" / "results.json").read_text())
    means = [figure(result, f"{name}, oracle of 3", "rouge_l") for name in ("ours", "rival")]
    gap = differences(result)["ours, oracle of 3"]["rouge_l"]["value"]
    assert means[0] and means[1] and gap == pytest.approx(means[0][0] - means[1][0])
    assert list(result["systems"]["ours"]["speed"]) == ["one"]
    one = (folder / "table.md").read_text()
    assert "| Ours, least risk | " in one.split("## Published")[0] and "upper bound and no system" in one
    assert "| GPT, oracle | task | oracle of 3 |" in one and "| Ours, least risk | 61.1 |" in one
    assert all(f"* Not measured for {row} (`-`): speed.\n" in one for row in ("Ours, least risk", "GPT, oracle"))
    assert figure(result, "ours, mbr of 9", "rouge_l") is figure(result, "ours, mbr of 3", "likelihood") is None


def test_an_oracle_chooses_again_for_other_answers(finished: Path, tmp_path: Path) -> None:
    """Its texts hang on the test rows; those of least risk do not, and no draw is made again."""
    from ladle.benchmark.run import _Benchmark, load_suite

    suite = load_suite(finished / "task.toml")
    one = _Benchmark(suite, tmp_path, 1.0, lambda line: None)
    system: Any = type("System", (), {"digest": "x"})
    before = {name: one._drawn_from(system, values, 0) for name, values in OURS.items()}
    one.scoring.reference.texts.update({key: ["another answer"] for key in one.scoring.reference.texts})
    after = {name: one._drawn_from(system, values, 0) for name, values in OURS.items()}
    assert [name for name in OURS if before[name] != after[name]] == ["oracle of 3"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mbr": 1}, "settings.x: mbr: must be greater than or equal to 2"),
        ({"mbr": 5, "oracle": 5}, "either mbr or oracle"),
        ({"by": "bleu"}, "'by' goes with one of them"),
        ({"oracle": 5, "by": "rouge"}, "settings.x: by: must be 'bleu'"),
        ({"mbr": "five"}, "settings.x: mbr: "),
    ],
)
def test_a_bad_choice_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        split_choice(values, "settings.x")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"condition": "none"}, OURS, "'mbr of 3' chooses among texts for one source, and the suite's"),
        ({}, CHOICES, "the first ones, 'mbr of 3', choose among draws; put settings of single draws before them"),
        ({"num_samples": 500_000}, OURS, "3 draws of 500,000 texts; at most 1,000,000 in all are allowed"),
        ({}, {"one": {}, "two": {"mbr": 0}}, "systems.ours.settings.two: mbr: must be greater"),
    ],
)  # fmt: skip
def test_a_choice_that_a_suite_cannot_make_is_said_before_the_work(
    changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    systems = {"ours": {"kind": "ladle", "settings": settings}}
    with pytest.raises(UserError) as error:
        SuiteConfig.parse({"name": "s"} | SUITE | changes | {"systems": systems}, "s.toml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_settings_without_a_choice_are_left_as_they_are() -> None:
    assert split_choice({"top_p": 0.9}) == (None, {"top_p": 0.9})
    assert split_choice({"top_p": 0.9, "mbr": 5}) == (ChoiceConfig(mbr=5, by="bleu"), {"top_p": 0.9})
