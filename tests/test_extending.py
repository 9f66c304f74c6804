"""docs/extending.md shows how to add one of each: its changes apply, are small, and do what the page says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ladle

ROOT = Path(__file__).parents[1]
CHANGES = re.findall(
    r"## (.*?)\n.*?```diff\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.S
)
OPTION = """
import subprocess, sys
import ladle
model = ladle.LatentDiffusion.from_pretrained("e2e")
asked = dict(seeds=[1, 2], source="name[Aromi], food[Italian]", num_inference_steps=8, stop_time=0.2)
free, loose, tight = (model.generate(**asked, **more) for more in ({}, {"norm_limit": 9.0}, {"norm_limit": 0.3}))
assert free == loose != tight, (free, loose, tight)
shown = subprocess.run([sys.executable, "-m", "ladle", "sample", "--help"], capture_output=True, text=True).stdout
assert "--norm-limit" in shown and "norms of real ones" in shown
"""
SAMPLER = """
import ladle
texts = ladle.LatentDiffusion.from_pretrained("e2e").generate(seeds=[1, 2], sampler="restart", num_inference_steps=6)
assert all(text.strip() for text in texts)
"""
BOTTLENECK = """
import tempfile
import ladle
sizes = {"vocab_size": 300, "width": 32, "num_encoder_layers": 1, "num_decoder_layers": 1}
sets = [f"autoencoder.backbone.{name}={value}" for name, value in sizes.items()]
sets += ["start=nothing", "autoencoder.bottleneck.kind=mean", "autoencoder.bottleneck.latent_dim=8", "training.steps=6"]
sets += ["diffusion.denoiser.width=32", "diffusion.denoiser.num_layers=2", "sampling.num_inference_steps=2"]
recipe = ladle.load_recipe(sets=sets)
folder = ladle.train(recipe, tempfile.mkdtemp(), log=str, data=[f"a cat has {n} legs" for n in range(40)])
model = ladle.LatentDiffusion.from_pretrained(folder)
assert model.encode(["a cat"]).values.shape == (1, 1, 8) and len(model.generate(2)) == 2
"""
USES = {"A sampling option": OPTION, "A sampler": SAMPLER, "A bottleneck": BOTTLENECK}


def test_the_page_shows_one_of_each() -> None:
    assert [title for title, _ in CHANGES] == list(USES)


@pytest.mark.skipif(shutil.which("git") is None, reason="git applies the changes of the page")
@pytest.mark.parametrize(("title", "change"), CHANGES, ids=[title for title, _ in CHANGES])
def test_a_change_of_under_forty_lines_adds_one(title: str, change: str, tmp_path: Path) -> None:
    """Applied to a copy of Ladle, without the shipped models, which the copy links to."""
    lines = [line for line in change.splitlines() if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    assert len(lines) < 40
    source = Path(ladle.__file__).parent
    copy = tmp_path / "src" / "ladle"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("models", "__pycache__"))
    (copy / "models").symlink_to(source / "models")
    (tmp_path / "change.diff").write_text(change, encoding="utf-8")
    subprocess.run(["git", "apply", "change.diff"], cwd=tmp_path, check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USES[title]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
