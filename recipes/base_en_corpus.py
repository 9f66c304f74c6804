"""Make the corpus of `base-en` from public-domain and CC BY-SA texts: pieces of one or a few sentences.

    python recipes/base_en_corpus.py OUTPUT.jsonl.gz INPUT.jsonl.gz [INPUT.jsonl.gz ...]

Inputs are JSON Lines with a column `text` (here: gutenberg_simple, wikipedia_paragraphs, wikipedia_leads). Paragraphs
are cut at sentence ends into pieces of 12 to 55 words, because most texts that people bring are that long. One piece
in eight is written in lower case, more than half of those with spaces around punctuation as well, because many data
sets are.
"""

import gzip
import json
import random
import re
import sys
from collections.abc import Callable

SENTENCE_END = re.compile(r'(?<=[.!?;])["\')]* (?=[A-Z"\'])')
LIMITS = (12, 20, 30, 40, 55)  # words


def pieces(
    text: str,
    rng: random.Random,
    limits: tuple[int, ...] = LIMITS,
    cut: Callable[[str], list[str]] = SENTENCE_END.split,
) -> list[str]:
    """Runs of whole sentences, as `cut` finds them, each up to a limit drawn anew (a longer sentence stays whole)."""
    found, current, words, limit = [], [], 0, rng.choice(limits)
    for sentence in cut(text):
        size = len(sentence.split())
        if current and words + size > limit:
            found.append(" ".join(current))
            current, words, limit = [], 0, rng.choice(limits)
        current.append(sentence)
        words += size
    return [*found, " ".join(current)] if current else found


def varied(text: str, rng: random.Random, lower: float = 0.12, spaced: float = 0.07) -> str:
    """The text, or in a share `lower` of the cases in lower case; in `spaced` of them all with spaces around
    punctuation as well."""
    draw = rng.random()
    if draw >= lower:
        return text
    text = text.lower()
    if draw < spaced:
        text = re.sub(r'([.,!?;:()"])', r" \1 ", text)
        text = re.sub(r"(\w)('s|n't|'re|'ve|'ll|'m|'d)\b", r"\1 \2", text)
    return " ".join(text.split())


def main() -> None:
    """Write the corpus."""
    output, *inputs = sys.argv[1:]
    rng = random.Random(0)
    found: list[str] = []
    for path in inputs:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                found += [varied(piece, rng) for piece in pieces(json.loads(line)["text"], rng)]
    rng.shuffle(found)
    with gzip.open(output, "wt", encoding="utf-8") as file:
        for text in found:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    print(f"{len(found):,} pieces", file=sys.stderr)


if __name__ == "__main__":
    main()
