"""Make the corpus of `prior-en` from texts with open licences: single sentences and short runs of them.

    python recipes/prior_en_corpus.py OUTPUT.jsonl.gz INPUT.jsonl.gz=SHARE [INPUT.jsonl.gz=SHARE ...]

Inputs are JSON Lines with a column `text` or `source`; of each, SHARE (0 to 1) of the rows is used. Paragraphs are cut
at sentence ends into pieces of 6 to 28 words, because most texts that people bring for a quick run are that short;
quotation marks without a partner are dropped. One piece in five is written in lower case.
"""

import gzip
import json
import random
import sys
from collections.abc import Iterator

import base_en_corpus

LIMITS = (6, 10, 14, 20, 28)  # words
MAX_WORDS = 32
MAX_ROWS = 400_000
LOWER_CASE, SPACED = 0.2, 0.12  # shares


def chosen_rows(inputs: list[str], rng: random.Random) -> Iterator[dict[str, str]]:
    """The rows of all inputs, of each a share: FILE=SHARE, or FILE for all of them."""
    for item in inputs:
        path, _, share = item.partition("=")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                if rng.random() < float(share or 1):
                    yield json.loads(line)


def main() -> None:
    """Write the corpus."""
    output, *inputs = sys.argv[1:]
    rng = random.Random(0)
    found: list[str] = []
    for row in chosen_rows(inputs, rng):
        found += base_en_corpus.pieces(row.get("text", row.get("source")), rng, LIMITS)
    found = [piece for piece in found if len(piece.split()) <= MAX_WORDS]
    rng.shuffle(found)
    found = [base_en_corpus.varied(without_lone_quotes(piece), rng, LOWER_CASE, SPACED) for piece in found[:MAX_ROWS]]
    with gzip.open(output, "wt", encoding="utf-8") as file:
        for text in found:
            if text:
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    print(f"{len(found):,} pieces", file=sys.stderr)


def without_lone_quotes(text: str) -> str:
    """The text, with its double quotation marks only if they come in pairs."""
    return text if text.count('"') % 2 == 0 else " ".join(text.replace('"', "").split())


if __name__ == "__main__":
    main()
