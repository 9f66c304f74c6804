"""Make the corpus of `base-en` from texts with open licences: pieces of one or a few sentences.

    python recipes/base_en_corpus.py OUTPUT.jsonl.gz INPUT.jsonl.gz[=SHARE] [INPUT.jsonl.gz[=SHARE] ...]

Inputs are JSON Lines with a column `text`, or `source` and `target`; of each, SHARE (1 if not given) of the rows is
used. Paragraphs are cut at sentence ends into pieces of 1 to 60 words, because most texts that people bring are that
long. A share of the pieces is written in other ways, because people's texts are: in lower case, with spaces around
punctuation, in several lines, with tabs, emoji, typographic signs. One text in fifty is made of the signs of all
scripts, so that every byte is learnt.
"""

import gzip
import json
import random
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator

SENTENCE_END = re.compile(r'(?<=[.!?;])["\')]* (?=[A-Z"\'])')
ABBREVIATION = re.compile(
    r"(?:^|\W)(?:[A-Z]|Mrs?|Ms|Drs?|St|Prof|Rev|Capt|Col|Gen|Lieut|Sergt|Hon|Esq|[JS]r|No|vs|etc)\.$"
)
LIMITS = (1, 12, 20, 30, 45, 60)  # words
MAX_WORDS = 70
LOWER_CASE, SPACED = 0.2, 0.12  # shares
SCRIPTS = 0.02  # share of texts made of the signs of all scripts
# First and last code point of the letters and signs that people write most, with weights.
BLOCKS = (
    ((0x21, 0x7E), 4), ((0xA1, 0x17F), 6), ((0x386, 0x3CE), 2), ((0x400, 0x45F), 4), ((0x5D0, 0x5EA), 1),
    ((0x621, 0x64A), 2), ((0x905, 0x939), 2), ((0xE01, 0xE3A), 1), ((0x2010, 0x2027), 2), ((0x20A0, 0x20BF), 1),
    ((0x2190, 0x21FF), 1), ((0x2200, 0x22FF), 1), ((0x2580, 0x27BF), 1), ((0x3041, 0x30FE), 2), ((0x4E00, 0x9FA5), 4),
    ((0xAC00, 0xD7A3), 2), ((0x1F300, 0x1F64F), 4), ((0x1F680, 0x1F6C5), 1), ((0x1F900, 0x1F9FF), 1),
)  # fmt: skip
EMOJI = [chr(code) for code in (*range(0x1F600, 0x1F64F), 0x2764, 0x1F44D, 0x1F389, 0x1F525, 0x2B50, 0x1F382)]
TYPOGRAPHIC = str.maketrans({"'": "\u2019", "\u2018": "'", "\u201c": '"', "\u201d": '"'})


def sentences(text: str) -> list[str]:
    """The sentences of a text. "Mr." and initials end none."""
    found: list[str] = []
    for part in SENTENCE_END.split(text):
        if found and ABBREVIATION.search(found[-1]):
            found[-1] += " " + part
        else:
            found.append(part)
    return found


def runs_of_sentences(parts: list[str], next_limit: Callable[[], int], size: Callable[[str], int]) -> list[str]:
    """Runs of whole sentences, each up to a limit of its own (a longer sentence stays whole)."""
    found, current, total, limit = [], [], 0, next_limit()
    for sentence in parts:
        own = size(sentence)
        if current and total + own > limit:
            found.append(" ".join(current))
            current, total, limit = [], 0, next_limit()
        current.append(sentence)
        total += own
    return [*found, " ".join(current)] if current else found


def pieces(text: str, rng: random.Random) -> list[str]:
    """Runs of whole sentences, each up to a number of words that is drawn anew."""
    return runs_of_sentences(sentences(text), lambda: rng.choice(LIMITS), lambda sentence: len(sentence.split()))


def without_lone_quotes(text: str) -> str:
    """The text, with its double quotation marks only if they come in pairs."""
    return text if text.count('"') % 2 == 0 else " ".join(text.replace('"', "").split())


def varied(text: str, rng: random.Random) -> str:
    """The text, or in one case of four written in another way."""
    draw = rng.random()
    if draw < LOWER_CASE:
        text = text.lower()
        if draw < SPACED:
            text = re.sub(r'([.,!?;:()"])', r" \1 ", text)
            text = re.sub(r"(\w)('s|n't|'re|'ve|'ll|'m|'d)\b", r"\1 \2", text)
            text = " ".join(text.split())
    elif draw < LOWER_CASE + 0.01:
        text = text.replace(". ", rng.choice((".\n", ".\n\n")))
    elif draw < LOWER_CASE + 0.02:
        text = rng.choice(("- ", "* ", "\u2022 ")) + re.sub(r"([,;]) ", "\n- ", text)
    elif draw < LOWER_CASE + 0.03:
        text = f"{text} {''.join(rng.choices(EMOJI, k=rng.choice((1, 1, 2, 3))))}"
    elif draw < LOWER_CASE + 0.04:
        text = text.translate(TYPOGRAPHIC)
        text = re.sub(r'"([^"]*)"', "\u201c\\1\u201d", text).replace(" - ", " \u2014 ").replace("...", "\u2026")
    elif draw < LOWER_CASE + 0.045:
        text = "\t".join(text.split(" ", 3))
    elif draw < LOWER_CASE + 0.05:
        text = text.upper()
    return text


def of_all_scripts(text: str, rng: random.Random) -> str:
    """A few made words of one script, alone or inside a text."""
    (first, last), *_ = rng.choices([block for block, _ in BLOCKS], [weight for _, weight in BLOCKS])
    known = [chr(code) for code in range(first, last + 1) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")]
    words = ["".join(rng.choices(known, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 5))]
    return " ".join(words) if rng.random() < 0.3 else " ".join([*text.split()[:12], *words])


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
        for text in (row.get("text"), row.get("source"), row.get("target")):
            found += pieces(text, rng) if text else []
    found = [piece for piece in found if len(piece.split()) <= MAX_WORDS]
    rng.shuffle(found)
    with gzip.open(output, "wt", encoding="utf-8", compresslevel=5) as file:
        for piece in found:
            text = varied(without_lone_quotes(piece), rng)
            if rng.random() < SCRIPTS:
                text = of_all_scripts(text, rng)
            if text:
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    print(f"{len(found):,} pieces", file=sys.stderr)


if __name__ == "__main__":
    main()
