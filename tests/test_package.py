"""The package from outside: its public names, what importing it costs, what an installation holds."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ladle

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = {"torch", "transformers", "numpy", "accelerate", "datasets", "sacrebleu", "pydantic", "cyclopts"}


def python(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    return ended.stdout


def test_importing_ladle_imports_nothing_else():
    """A program that only wants `ladle.UserError` must not wait for torch."""
    loaded = python("import sys, ladle\nladle.UserError\nprint(*{name.split('.')[0] for name in sys.modules})").split()
    assert "ladle" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("name", ladle.__all__)
def test_every_public_name_is_there(name: str):
    """The lazy table must name modules and attributes that exist."""
    assert getattr(ladle, name) is not None
    assert name in dir(ladle)


def test_an_unknown_name_is_an_attribute_error():
    """`hasattr` and the IDEs rely on it."""
    with pytest.raises(AttributeError, match="no attribute 'Diffusion'"):
        ladle.Diffusion  # noqa: B018


def test_the_version_is_the_same_everywhere():
    """One place holds it; the citation must follow."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", ladle.__version__)
    assert f"\nversion: {ladle.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{ladle.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_has_a_tested_version():
    """`make test` installs with the constraints: a dependency missing there would drift."""
    constraints = dict(
        line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert constraints["torch"] == "2.13.0"
    for extra in ([], PROJECT["project"]["optional-dependencies"]["dev"]):
        for requirement in [*PROJECT["project"]["dependencies"], *extra]:
            name, lowest = requirement.split(">=")
            tested = constraints[name.lower()]
            assert [int(x) for x in re.findall(r"\d+", tested)] >= [int(x) for x in lowest.split(".")], requirement


def test_every_third_party_import_is_declared():
    """A module that works here by luck fails on a fresh machine."""
    declared = set(PROJECT["project"]["dependencies"])
    for extra, requirements in PROJECT["project"]["optional-dependencies"].items():
        declared |= set(requirements) if extra != "dev" else set()
    names = {re.split(r"[><=]", requirement)[0].replace("-", "_") for requirement in declared} | {"mauve", "ladle"}
    names |= {"sklearn"} if "scikit_learn" in names else set()
    pattern = re.compile(r"^\s*(?:import|from) ([a-z_]+)[\w.]* ?(?:import |as |$)", flags=re.M)
    for path in (ROOT / "src").rglob("*.py"):
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
        used = set(pattern.findall(code)) - set(sys.stdlib_module_names)
        assert used <= names, f"{path}: {used - names}"


def test_the_command_is_installed_from_the_same_function():
    """`ladle` and `python -m ladle` are one program."""
    assert PROJECT["project"]["scripts"] == {"ladle": "ladle.cli:main"}
    help_page = subprocess.run(
        [sys.executable, "-m", "ladle", "--version"], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert help_page.stdout.strip() == ladle.__version__


def test_the_package_is_typed():
    """Without the marker type checkers ignore the annotations."""
    assert (ROOT / "src" / "ladle" / "py.typed").is_file()
