"""Every recipe that comes with the project can be read and has a budget for each of its stages."""

import gzip
import json
import runpy
import sys
from pathlib import Path

import pytest

from ladle.training.plan import STAGES, stage_settings
from ladle.training.recipe import load_recipe, read_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))


def test_there_are_recipes() -> None:
    """The shipped models have one each: else the tests below would say nothing."""
    assert {"base-en", "e2e"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_is_read_with_a_file_in_place_of_its_data(path: Path) -> None:
    """As its head says; nothing in it is misspelt or out of range, and every stage has settings that hold."""
    recipe = load_recipe(path, data="rows.jsonl")
    assert recipe.data.path == "rows.jsonl"
    assert recipe.name == path.stem
    for stage in STAGES:
        for from_nothing in (True, False):
            assert stage_settings(recipe.training, stage, from_nothing=from_nothing, steps=1).steps == 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_names_public_data_or_says_where_they_come_from(path: Path) -> None:
    """A stranger must be able to run it: a data set on the hub, or a command in its head that makes the file."""
    text = path.read_text(encoding="utf-8")
    assert read_recipe(path).get("data", {}).get("id") or "--data" in text.split("[", 1)[0]
    assert text.startswith("#")


def test_sources_of_e2e_are_cut_to_what_their_texts_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: all said, one left out, another thing said; texts and order stay."""
    rows = [
        ("name[Aromi], food[Italian], area[riverside]", "Aromi is an Italian place in the riverside area."),
        ("name[Aromi], food[Italian], near[Burger King]", "Aromi serves Italian food."),
        ("name[Aromi], food[Italian]", "Aromi serves French food."),
    ]
    with gzip.open(tmp_path / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"source": source, "target": target}) + "\n" for source, target in rows)
    script = RECIPES[0].parent / "e2e_clean.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "train.jsonl.gz"), str(tmp_path / "new.jsonl.gz")])
    runpy.run_path(str(script), run_name="__main__")
    with gzip.open(tmp_path / "new.jsonl.gz", "rt", encoding="utf-8") as file:
        new = [json.loads(line) for line in file]
    assert [row["target"] for row in new] == [target for _, target in rows]
    assert [row.get("source") for row in new] == [rows[0][0], "name[Aromi], food[Italian]", None]
