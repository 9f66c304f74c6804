"""Suites are read as they stand; what is wrong in one is said in one line."""

from pathlib import Path

import pytest

from ladle.benchmark.composite import load_composite
from ladle.benchmark.figures import system_and_settings
from ladle.benchmark.suite import load_suite
from ladle.benchmark.systems import recipe_of
from ladle.data.files import read_toml
from ladle.errors import UserError
from ladle.training.plan import in_steps

FILES = sorted((Path(__file__).parents[2] / "benchmarks" / "suites").glob("*.toml"))
COMPOSITES = [path for path in FILES if "parts" in read_toml(path, "suite", "")]
SUITES = [path for path in FILES if path not in COMPOSITES]
RIVALS = {"tiny", "e2e", "yelp", "roc"}
HEAD = 'name = "s"\n[data]\npath = "rows"\n'
LADLE, RIVAL = '[systems.ladle]\nkind = "ladle"\n', '[systems.rival]\nkind = "autoregressive"\n'


IN_STEPS = {"joint", "latents", "parts", "parts-long", "remedies", "shapes", "stages"}


def test_there_are_suites() -> None:
    assert {path.stem for path in SUITES} >= RIVALS


@pytest.mark.parametrize("path", COMPOSITES, ids=lambda path: path.stem)
def test_a_composite_suite_can_be_read(path: Path) -> None:
    """Its parts are there, its columns can be measured, its rows are systems."""
    composite = load_composite(path)
    assert composite.config.name == path.stem
    for row in composite.config.rows:
        assert any(system_and_settings(row)[0] in suite.systems for suite in composite.suites.values())


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_suite_can_be_read_and_its_recipes_are_there(path: Path) -> None:
    suite = load_suite(path)
    assert suite.name == path.stem
    for name, system in suite.systems.items():
        assert system.recipe_file is None or Path(system.recipe_file).is_file()
        if system.kind == "ladle" and system.model is None:
            recipe = recipe_of(name, suite, 3.0, seed=2)
            own_seed = system.recipe.get("training", {}).get("seed", 0)
            budget = None if path.stem in IN_STEPS else 3.0
            assert (recipe.name, recipe.training.minutes, recipe.training.seed) == (name, budget, 2 + own_seed)
            assert in_steps(recipe) == (path.stem in IN_STEPS), name
    if path.stem in RIVALS:
        assert {system.kind for system in suite.systems.values()} >= {"ladle", "autoregressive"}


def test_settings_of_all_systems_give_way_to_a_systems_own(tmp_path: Path) -> None:
    """From the suite, then from the recipe's file, then from the system; data and name are not theirs to give."""
    (tmp_path / "r.toml").write_text("[training.diffusion]\nshare = 2\nloss = 'l1'\n")
    common = "[recipe]\nstart = 'nothing'\ntraining.diffusion = { share = 1, curriculum = 0.3 }\n"
    own = 'recipe_file = "r.toml"\nrecipe.training.diffusion.loss = "huber"\n'
    (tmp_path / "s.toml").write_text(HEAD + common + LADLE + own)
    recipe = recipe_of("ladle", load_suite(tmp_path / "s.toml"), 4.0)
    plan = recipe.training.diffusion
    assert (recipe.start, plan.share, plan.curriculum, plan.loss) == ("nothing", 2, 0.3, "huber")
    (tmp_path / "s.toml").write_text(HEAD + "[recipe.data]\npath = 'x'\n" + LADLE)
    with pytest.raises(UserError, match=r"^recipe\.data: the suite gives a system its data"):
        recipe_of("ladle", load_suite(tmp_path / "s.toml"), 4.0)


def test_paths_are_found_from_the_suite(tmp_path: Path) -> None:
    """So that it runs from any folder; what is not there is left as it is, and --data goes before it."""
    (tmp_path / "s.toml").write_text(HEAD + 'test_path = "nothing"\n' + LADLE)
    (tmp_path / "rows").mkdir()
    suite = load_suite(tmp_path / "s.toml")
    assert (suite.data.path, suite.data.test_path) == (str(tmp_path / "rows"), "nothing")
    assert load_suite(tmp_path / "s.toml", "other").data.path == "other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data", "cannot read the suite"),
        (HEAD, "systems"),
        (HEAD + RIVAL, "takes its tokenizer and size from a Ladle system"),
        (HEAD + LADLE + RIVAL + 'like = "ladel"\n', "rival.like is 'ladel'"),
        (HEAD + LADLE + 'kinds = "x"\n', "did you mean 'kind'"),
        ("training_seeds = 9\n" + HEAD + LADLE, "training_seeds is 9"),
        ('rival = "x"\n' + HEAD + LADLE, "rival is 'x'"),
        (HEAD + '[systems."a b"]\nkind = "ladle"\n', "cannot be a system's name"),
        (HEAD + LADLE + '[systems.ladle.settings."a/b"]\n', "'a/b' cannot be the name of a folder"),
        (HEAD + LADLE + '[metrics]\njudges = ["x"]\n', "judges"),
        (HEAD + LADLE + RIVAL + 'schedules = ["cosine"]\n', "rival.schedules is a key of kind 'token_diffusion'"),
        (HEAD + LADLE + RIVAL + "learning_rates = []\n", "learning_rates"),
        (HEAD + LADLE + "batch_tokens = 64\n", "ladle.batch_tokens is a key of kinds 'autoregressive', 'guided', 't"),
        (HEAD + LADLE + "learning_rates = [1.0]\n", "ladle.learning_rates is a key of kinds 'autoregressive', 'gui"),
        (HEAD + LADLE + RIVAL + "classifier_minutes = 1\n", "rival.classifier_minutes is a key of kind 'guided'; riv"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_suite(path)
    assert "\n" not in str(error.value)


def test_a_missing_suite_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no suite at"):
        load_suite(tmp_path / "none.toml")
