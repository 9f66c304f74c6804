"""`ladle demo`: shows the shipped models at work, without a network."""

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

GENERAL, GENERATOR = "base-en", "e2e"
NUM_SENTENCES = 12
CANDIDATES = 8

SOURCES = (
    "name[The Vaults], eatType[pub], food[Italian], priceRange[moderate], area[riverside], familyFriendly[yes], "
    "near[Café Rouge]",
    "name[Cotto], eatType[coffee shop], food[Japanese], customer rating[low], area[city centre]",
)
SEED = 102
BLENDED = ("The old man was tired.", "The birds sang in the trees.")
SENTENCE = "The lamp in the harbour was lit long before the first boats came home."


def run_demo() -> None:
    """Print sentences, data to text, a blend and a reconstruction, with a short explanation of each.

    Raises LadleError: a shipped model is missing.
    """
    known = shipped_models()
    for name in (GENERAL, GENERATOR):
        if name not in known:
            raise LadleError(f"the demo needs the shipped model '{name}', which is missing; install ladle again")
    begun = time.monotonic()
    what = "noise becomes a few vectors that say what a text is about (its plan), and a decoder finds the words"
    _say(f"Ladle writes text by diffusion: {what}. Two shipped models show four things.")

    general = LatentDiffusion.from_pretrained(known[GENERAL])
    _title(f"1. {GENERAL}: English sentences, from noise alone")
    _say("They are made up, and hold no facts.")
    for text in general.generate(NUM_SENTENCES, seed=SEED):
        _item("", text)

    _title(f"2. {GENERATOR}: data to text")
    _say(f"Each text is the best of {CANDIDATES} draws.")
    model = LatentDiffusion.from_pretrained(known[GENERATOR])
    texts = model.generate(source=list(SOURCES), seed=0, candidates=CANDIDATES)
    for source, text in zip(SOURCES, texts, strict=True):
        print()
        _item("data", source)
        _item("text", text)

    _title(f"3. {GENERAL}: half-way between two sentences")
    _item("one", BLENDED[0])
    _item("between", general.blend(BLENDED, seed=9).text)
    _item("other", BLENDED[1])

    _title(f"4. {GENERAL}: a text turned into numbers, and back")
    latents = general.encode(SENTENCE)
    back = general.decode(latents)[0]
    _item("text", SENTENCE)
    _item("back", "the same" if back == SENTENCE else back)
    count, dim = latents.values.shape[1:]
    _item("", f"through a plan of {count} vectors of {dim} numbers, and one number for each word or part of a word")

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
