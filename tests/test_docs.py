"""The pages that say where things are: every test, file, setting and function that they name is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from ladle.config import leaves
from ladle.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
METHOD = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
MATHEMATICS = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")


def table_rows(page: str) -> list[list[str]]:
    """Cells of all rows but the heads of tables."""
    lines = [line for line in page.splitlines() if line.startswith("|") and not re.match(r"\|[-|]+$", line)]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[0] not in ("part", "equation")]


def test_every_part_has_its_file_and_its_test() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    rows = table_rows(METHOD)
    assert len(rows) > 40
    for part, _, file, test in rows:
        if test == "not yet":
            continue
        assert (ROOT / "src" / "ladle" / file.strip("`")).exists(), part
        name = test.strip("`")
        assert (ROOT / name).is_dir() if name.endswith("/") else f"def {name}(" in tests, (part, name)


def settings_of(page: str) -> list[str]:
    """Names such as `diffusion.schedule.kind`; one that begins with a dot goes on from the last one's group."""
    found: list[str] = []
    for _, config, *_ in table_rows(page):
        for code in re.findall(r"`([^`]+)`", config):
            name = code.split(" = ")[0]
            if name.startswith("."):
                found.append(found[-1].rpartition(".")[0] + name)
            elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", name) and name.split(".")[0] in Recipe.model_fields:
                found.append(name)
    return found


SETTINGS = dict(leaves(Recipe))


@pytest.mark.parametrize("name", dict.fromkeys(settings_of(METHOD)))
def test_every_setting_can_be_set(name: str) -> None:
    assert name in SETTINGS or any(setting.startswith(f"{name}.") for setting in SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_says_what_it_does(name: str) -> None:
    """Beside the field, where whoever changes the setting sees what it says."""
    assert (SETTINGS[name].description or "").strip().endswith("."), name


def test_the_page_of_settings_is_the_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = import_module("make_settings").settings_page()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page, "run python docs/make_settings.py"


@pytest.mark.parametrize("name", dict.fromkeys(re.findall(r"`(ladle\.[\w.]+)`", MATHEMATICS)))
def test_every_equation_has_its_function(name: str) -> None:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            found = getattr(found, attribute)
        assert callable(found)
        return
    raise AssertionError(f"no module of {name}")


PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "LOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert "://" in link or (page.parent / link).exists(), link
