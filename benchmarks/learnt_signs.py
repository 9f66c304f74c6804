"""Measure which signs an autoencoder with aligned latents has learnt, and write them as `alphabet` into model.json.

python benchmarks/learnt_signs.py MODEL --data ../shared/data/wikipedia_leads/valid.jsonl.gz --write

Every candidate is reconstructed in up to eight short texts of the data that hold it. Where fewer than four do, it is
put into others at chance, alone and among signs of its kind. It is learnt if nearly all of its occurrences come back.
A letter of a script other than Latin also needs nearly all letters of its script: a word without some is no word.

With --all nothing is measured: the alphabet is that of the data, as `ladle train` records it for a model from nothing.
"""

import argparse
import json
import random
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from ladle.data.rows import read_rows
from ladle.pipeline import LatentDiffusion
from ladle.storage.names import RECORD, resolve_model
from ladle.storage.writing import atomic_json

TEXTS, ENOUGH, AROUND = 8, 0.85, 40
BLOCKS = [  # first and last code point
    (0x20, 0x7E), (0xA0, 0x17F), (0x386, 0x3CE), (0x400, 0x45F), (0x5D0, 0x5EA), (0x621, 0x64A), (0x2010, 0x2027),
    (0x2030, 0x205E), (0x20A0, 0x20BF), (0x2100, 0x214F), (0x2190, 0x21FF), (0x2200, 0x222B), (0x2580, 0x25FF),
    (0x2600, 0x26FF), (0x3041, 0x3096), (0x4E00, 0x4E40), (0xAC00, 0xAC20), (0x1F300, 0x1F320), (0x1F600, 0x1F640),
]  # fmt: skip


def candidates(texts: Sequence[str]) -> list[str]:
    """Control signs that people type, whole blocks, and every sign of the data."""
    blocks = (chr(code) for first, last in BLOCKS for code in range(first, last + 1))
    found = dict.fromkeys(["\t", "\n", "\r", "\u200d", "\u200b", "\ufeff", *blocks, *"".join(texts)])
    return [sign for sign in found if sign != " "]


def occurrences(texts: Sequence[str], signs: Sequence[str]) -> dict[str, list[str]]:
    """Up to `TEXTS` short texts for every sign."""
    wanted, found, rng = set(signs), defaultdict(list), random.Random(0)
    for text in texts:
        for sign in sorted(wanted.intersection(text)):
            place = text.index(sign)
            start = text.rfind(" ", 0, max(0, place - AROUND)) + 1
            found[sign].append(text[start : start + 2 * AROUND].rsplit(" ", 1)[0] if len(text) > start else text)
            if len(found[sign]) == TEXTS:
                wanted.discard(sign)
    for sign in signs:
        own = found[sign] = [text for text in found[sign] if sign in text.strip()]
        if len(own) < TEXTS // 2:
            own += [
                _put_into(rng.choice(texts)[: 2 * AROUND], _word(sign, number % 2, rng), rng) for number in range(TEXTS)
            ]
    return found


def _word(sign: str, alone: int, rng: random.Random) -> str:
    """The sign alone, or among others of its kind, as people write it: a control sign between words."""
    near = [chr(code) for code in range(max(0, ord(sign) - 16), min(ord(sign) + 16, sys.maxunicode))]
    near = [other for other in near if unicodedata.category(other) == unicodedata.category(sign)]
    if unicodedata.category(sign) in ("Cc", "Zl", "Zp"):
        return sign
    return f" {sign} " if alone else f" {rng.choice(near)}{sign}{rng.choice(near)}{sign} "


def _put_into(text: str, word: str, rng: random.Random) -> str:
    place = rng.choice([i for i, c in enumerate(text) if c == " "] or [len(text) // 2])
    return text[:place] + word + text[place + 1 :]


def rates(model: LatentDiffusion, found: dict[str, list[str]]) -> Iterator[tuple[str, float]]:
    """Each sign and the share of its occurrences that come back."""
    model.autoencoder.backbone.alphabet = None  # else what was measured before would decide
    pairs = [(sign, text) for sign, own in found.items() for text in own]
    back, total = Counter(), Counter()
    for (sign, text), other in zip(pairs, model.reconstruct([text for _, text in pairs]), strict=True):
        total[sign] += text.count(sign)
        back[sign] += min(text.count(sign), other.count(sign))
    yield from ((sign, back[sign] / total[sign]) for sign in found)


def learnt(found: dict[str, float]) -> Iterator[str]:
    """The signs whose rate is high enough, but for the letters of scripts of which too few letters have one."""
    scripts = {sign: unicodedata.name(sign, "").split(" ")[0] if sign.isalpha() else "" for sign in found}
    whole = Counter(scripts.values())
    known = Counter(scripts[sign] for sign, rate in found.items() if rate >= ENOUGH)
    for sign, rate in found.items():
        script = scripts[sign]
        if rate >= ENOUGH and (script in ("", "LATIN") or known[script] >= ENOUGH * whole[script]):
            yield sign


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", nargs="+", required=True, help="texts, and sources, like those of its training")
    parser.add_argument("--all", action="store_true", help="the data are those of its training")
    parser.add_argument("--write", action="store_true", help="into the model's model.json")
    arguments = parser.parse_args()
    rows = [row for path in arguments.data for row in read_rows(path)]
    texts = [text for row in rows for text in (row["text"], row.get("source")) if text]
    if arguments.all:
        alphabet = "".join(sorted({" ", *"".join(texts)}))
    else:
        found = dict(rates(LatentDiffusion.from_pretrained(arguments.model), occurrences(texts, candidates(texts))))
        for low in range(8):
            part = [sign for sign, rate in found.items() if low / 8 <= rate < (low + 1) / 8 + (low == 7)]
            print(f"{low / 8:.0%} and more: {len(part)} {''.join(part)!r}")
        alphabet = "".join(sorted([" ", *learnt(found)]))
    print(f"{len(alphabet)} signs: {alphabet!r}")
    if arguments.write:
        path = resolve_model(arguments.model) / RECORD
        record = json.loads(path.read_text(encoding="utf-8"))
        atomic_json(path, {**record, "alphabet": alphabet})


if __name__ == "__main__":
    main()
