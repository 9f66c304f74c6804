"""`ladle demo`: shows two shipped models at work, without a network."""

import os
import shlex
import shutil
import sys
import textwrap
import time
from pathlib import Path

from ladle.errors import LadleError
from ladle.pipeline import LatentDiffusion
from ladle.storage.names import shipped_models

GENERATOR, AUTOENCODER = "e2e", "base-en"
NUM_SAMPLES = 5
CANDIDATES = 8

SOURCES = (
    "name[The Vaults], eatType[pub], food[Italian], priceRange[moderate], area[riverside], familyFriendly[yes], "
    "near[Café Rouge]",
    "name[Cotto], eatType[coffee shop], food[Japanese], customer rating[low], area[city centre]",
)
SENTENCES = (
    "The lamp in the harbour was lit long before the first boats came home.",
    "Copper conducts electricity well, which is why most cables are made of it.",
    "She read the letter twice, folded it, and said nothing for the rest of the day.",
)


def run_demo() -> None:
    """Print samples, data to text, and reconstructions, with a short explanation of each.

    Raises LadleError: a shipped model is missing.
    """
    known = shipped_models()
    for name in (GENERATOR, AUTOENCODER):
        if name not in known:
            raise LadleError(f"the demo needs the shipped model '{name}', which is missing; install ladle again")
    begun = time.monotonic()
    _say("Ladle writes text by diffusion: noise becomes latent vectors, and vectors become words.")
    _say("Two shipped models show three things.")

    model = LatentDiffusion.from_pretrained(known[GENERATOR])
    _title(f"1. {GENERATOR}: descriptions of restaurants, from noise alone")
    for seed, text in enumerate(model.generate(NUM_SAMPLES, seed=0)):
        _item(f"seed {seed}", text)

    _title("2. The same model, given data to describe")
    _say(f"Each text is the best of {CANDIDATES} draws: the draw that is most like the other draws.")
    texts = model.generate(source=list(SOURCES), seed=0, candidates=CANDIDATES)
    for source, text in zip(SOURCES, texts, strict=True):
        print()
        _item("data", source)
        _item("text", text)

    _title(f"3. {AUTOENCODER}: English sentences turned into a few vectors, and back")
    autoencoder = LatentDiffusion.from_pretrained(known[AUTOENCODER])
    latents = autoencoder.encode(SENTENCES)
    for sentence, text, mask in zip(SENTENCES, autoencoder.decode(latents), latents.mask, strict=True):
        print()
        _item("text", sentence)
        _item("back", "the same" if text == sentence else text)
        _item("", f"through {int(mask.sum())} vectors of {latents.values.shape[-1]} numbers")

    _title(f"That took {time.monotonic() - begun:.0f} s. Next:")
    if shutil.which("ladle") is None and Path(sys.prefix, "bin", "activate").is_file():
        activate = os.path.relpath(Path(sys.prefix, "bin", "activate"))
        print(f"  source {shlex.quote(activate):<44} first: the shell then finds the command ladle")
    print(f"  ladle sample --model {GENERATOR} -n 20                       more such texts, as JSON Lines")
    print("  ladle train --data FILE --output runs/mine            a model of your own texts")
    print("  ladle --help")


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def _say(text: str, first: str = "", indent: str = "") -> None:
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    print(textwrap.fill(text, width, initial_indent=first, subsequent_indent=indent), flush=True)


def _item(label: str, text: str) -> None:
    _say(text, f"  {label:<8}", " " * 10)
