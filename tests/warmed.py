"""Imported by a server of forked processes: it draws a text once, so that each process begins at once."""

import tempfile

import runs
import tiny
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import save_parts

with tempfile.TemporaryDirectory() as folder:
    save_parts(tiny.tiny_parts(), folder)
    LatentDiffusion.from_pretrained(folder).generate(1, seed=0, decoder="parallel")
runs.recipe()
