"""What the README shows is what a stranger tries first: every block of it runs."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ladle import cli
from ladle.diffusion.samplers import SAMPLERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ["--set", "training.steps=3", "--set", "training.diffusion.optimiser.max_tokens=256",
         "--set", "training.sample_every=0", "--set", "sampling.num_inference_steps=2"]  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("ladle ")]


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied as they stand, with the shipped models."""
    monkeypatch.chdir(tmp_path)
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "mine" / "model.json").is_file()


def test_the_commands_for_ones_own_file_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """train, sample, evaluate, fit, inspect, likelihood on a file made here, with three steps in place of minutes."""
    monkeypatch.chdir(tmp_path)
    for name in ("reviews.csv", "held-out-reviews.csv"):
        with open(name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["review", "stars"])
            for food in ("soup", "tea", "bread", "fish", "cake", "rice"):
                for word, stars in (("great", 5), ("cold", 1), ("fine", 5)):
                    writer.writerow([f"the {food} was {word} {name[0]}.", stars])
    own = [command for command in commands() if command[1] not in ("benchmark", "demo")]
    verbs = [" ".join(command[1:3]) if command[1] == "fit" else command[1] for command in own]
    assert verbs == ["train", "sample", "evaluate", "fit judge", "evaluate", "inspect", "likelihood"]
    extra = {"train": SHORT, "sample": ["--num-inference-steps", "2"], "inspect": ["--minutes", "0.01"]}
    extra["likelihood"] = ["--draws", "2"]
    for (_, *words), verb in zip(own, verbs, strict=True):
        assert cli.main([*words, *extra.get(verb, [])]) in (0, None), verb
    assert len((tmp_path / "five.jsonl").read_text().splitlines()) == 100


def test_every_command_shown_names_a_verb() -> None:
    """A verb that was renamed must not linger in the README."""
    for command in commands():
        subprocess.run([sys.executable, "-m", "ladle", command[1], "--help"], check=True, capture_output=True)


def test_the_example_sampler_plugs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """In under forty lines, from outside."""
    source = (ROOT / "examples" / "own_sampler.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 40
    namespace: dict = {"__name__": "example"}
    exec(compile(source, "own_sampler.py", "exec"), namespace)
    monkeypatch.setitem(SAMPLERS, "restless", namespace["restless"])
    from ladle import LatentDiffusion

    model = LatentDiffusion.from_pretrained("e2e")
    texts = model.generate(2, seed=0, sampler="restless", num_inference_steps=3)
    assert len(texts) == 2
    assert texts == model.generate(2, seed=0, sampler="restless", num_inference_steps=3)
