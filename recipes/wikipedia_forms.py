"""Wikipedia in two forms in which language models are compared: `text8` and `wikitext`.

    python recipes/wikipedia_forms.py text8 ../shared/data runs/text8-form
    python recipes/wikipedia_forms.py text8 --text8 FILE runs/text8-form
    python recipes/wikipedia_forms.py wikitext ../shared/data runs/wikitext-form

Each command writes OUTPUT/train.jsonl, valid.jsonl and test.jsonl, the same files every time. A row is a `text` of at
most 64 tokens of the tokenizer of `base-en`.

`text8`: the letters a to z and the space, nothing else. The filter is that of Matt Mahoney's text8
(http://mattmahoney.net/dc/textdata): lower case, digits in words ("1990" is "one nine nine zero"), a space for any
other sign, one space between words. One thing differs: a letter with an accent becomes the letter without it, where
text8 has a space ("caf"). The paragraphs of an article follow each other. A row has whole words and exactly 64 tokens.
Rows do not overlap, and no row is of two articles. Where words do not end after 64 tokens, the first of them is left
out, then the next. With `--text8`, FILE is the public text8: its first 90 million characters are train, the next 5
million valid, the last 5 million test, as usual.

`wikitext`: paragraphs cut at sentence ends into pieces of at most 64 tokens. A longer sentence is left out.

| form | train | valid | test |
|---|---|---|---|
| text8 | wikipedia_paragraphs, wikipedia_leads (train) | wikipedia_leads (valid) | wikipedia_leads (test) |
| wikitext | wikipedia_paragraphs, wikipedia_leads (train) | wikitext (valid), without `<unk>` | wikitext (test) |

No article is in two splits. What the model `base-en` has read: its corpus holds all rows of train here (and no other
Wikipedia text), so a system that starts from it may know train rows, and knows no row of valid or test. To make sure, a
paragraph of valid or test is left out if 13 of its words in a row stand in a paragraph of train. Of the public text8
this cannot be said: it is Wikipedia of 2006, and `base-en` has read later versions of some of its articles.
"""

import argparse
import itertools
import re
import sys
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from base_en_corpus import runs_of_sentences, sentences, without_lone_quotes  # the script beside this one

from ladle.data.files import read_lines
from ladle.data.tables import read_table
from ladle.errors import LadleError, UserError
from ladle.storage.names import resolve_model
from ladle.storage.writing import write_rows

LENGTH = 64  # tokens
KNOWN_RUN = 13  # words in a row that two texts do not share by chance
MIN_WORDS = 5
SPLITS = ("train", "valid", "test")
TRAIN = ("wikipedia_paragraphs/train", "wikipedia_leads/train")
HELD_OUT = {
    "text8": {"valid": "wikipedia_leads/valid", "test": "wikipedia_leads/test"},
    "wikitext": {"valid": "wikitext/valid", "test": "wikitext/test"},
}
PUBLIC = {"train": 90_000_000, "valid": 5_000_000, "test": 5_000_000}  # characters of the public text8
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Letters that Unicode does not take apart into a letter and its accent.
LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h"})
SPELT = str.maketrans({str(digit): f" {word} " for digit, word in enumerate(DIGITS)})

Count = Callable[[Sequence[str]], list[int]]  # texts -> the number of tokens of each


def text8_words(text: str) -> list[str]:
    """The words of a text in the form of text8: a to z alone."""
    plain = unicodedata.normalize("NFKD", text).casefold().translate(LETTERS)
    plain = "".join(sign for sign in plain if not unicodedata.combining(sign))
    return re.sub("[^a-z]+", " ", plain.translate(SPELT)).split()


def lines_of(words: Sequence[str], sizes: Mapping[str, int], length: int = LENGTH) -> Iterator[str]:
    """Lines of whole words with exactly `length` tokens each, in order. What does not fit between them is left out.

    sizes: the number of tokens of each word.
    """
    ends = [0, *itertools.accumulate(sizes[word] for word in words)]
    start = 0
    while ends[-1] - ends[start] >= length:
        end = bisect_left(ends, ends[start] + length)
        if ends[end] - ends[start] == length:
            yield " ".join(words[start:end])
            start = end
        else:
            start += 1


def text8_lines(articles: Iterable[str], count: Count, length: int = LENGTH) -> list[str]:
    """The lines of texts in the form of text8. No line is of two texts."""
    words = [text8_words(article) for article in articles]
    different = list(dict.fromkeys(itertools.chain.from_iterable(words)))
    sizes = dict(zip(different, count(different), strict=True))
    return [line for part in words for line in lines_of(part, sizes, length)]


def articles_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One text for each run of rows with the same `title`; a row without one stands alone."""
    numbered = enumerate(rows)
    groups = itertools.groupby(numbered, key=lambda item: item[1].get("title", item[0]))
    return [" ".join(row["text"] for _, row in group) for _, group in groups]


# What was lost or put in when texts were taken out of Wikipedia and cut into words.
MENDS = (
    (r"[(\[]\s*[,;:.\s]*[)\]]|\"\s*\"|``|''", " "),  # empty brackets and quotation marks
    (r"\s+", " "),
    (r" (?=[,.;:!?%)\]])|(?<=[(\[$£€]) ", ""),
    (r"(?<=\w) '(?=(?:t|s|re|ve|ll|m|d)\b)", "'"),  # don 't
    (r"(?<=\d) ([–/]) (?=\d)", r"\1"),  # 2011 – 12
    (r"\+ (?=\d)", "+"),
)


def mended(text: str) -> str:
    """The text with whole words and without holes."""
    for pattern, instead in MENDS:
        text = re.sub(pattern, instead, text)
    return text.strip()


def pieces(texts: Iterable[str], count: Count, length: int = LENGTH) -> list[str]:
    """Runs of whole sentences with at most `length` tokens each, without `<unk>` and headless bits."""
    parts = [sentences(mended(text)) for text in texts]
    different = list(dict.fromkeys(itertools.chain.from_iterable(parts)))
    sizes = dict(zip(different, count(different), strict=True))
    runs = [run for part in parts for run in runs_of_sentences(part, lambda: length, sizes.__getitem__)]
    runs = [run for run in map(without_lone_quotes, runs) if _is_prose(run)]
    return [run for run, size in zip(runs, count(runs), strict=True) if size <= length]


def _is_prose(text: str) -> bool:
    begins = text[:1].isupper() or text[:1].isdigit() or text[:1] in "\"'"
    return begins and len(text.split()) >= MIN_WORDS and "<unk>" not in text


def without_known(
    held_out: Sequence[Mapping[str, Any]], training: Iterable[Mapping[str, Any]], run: int = KNOWN_RUN
) -> list[Mapping[str, Any]]:
    """The rows of `held_out` that share no `run` words in a row with a training row (without case and signs)."""
    own = [set(_runs(row["text"], run)) for row in held_out]
    every = set().union(*own)
    known = {words for row in training for words in _runs(row["text"], run) if words in every}
    return [row for row, words in zip(held_out, own, strict=True) if not words & known]


def _runs(text: str, length: int) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return zip(*(words[start:] for start in range(length)), strict=False)


def of_shared(form: str, data: Path, count: Count) -> dict[str, list[str]]:
    """The texts of each split, from the sets in the folder `data`. UserError: a set is missing."""
    rows = {"train": [row for name in TRAIN for row in read(data, name)]}
    for split, name in HELD_OUT[form].items():
        given = read(data, name)
        rows[split] = without_known(given, rows["train"])
        print(f"{split}: {len(given) - len(rows[split])} of {len(given):,} paragraphs are known", file=sys.stderr)
    if form == "text8":
        return {split: text8_lines(articles_of(part), count) for split, part in rows.items()}
    return {split: pieces((row["text"] for row in part), count) for split, part in rows.items()}


def of_public(path: str, count: Count, sizes: Mapping[str, int] = PUBLIC, length: int = LENGTH) -> dict[str, list[str]]:
    """The lines of each split of the public text8. UserError: the file is not in its form, or has another length."""
    text = "".join(read_lines(path)).strip("\n")
    if strange := re.search("[^a-z ]", text):
        raise UserError(f"{path} holds {strange[0]!r}, but text8 has a to z and spaces alone; give the file text8")
    if len(text) != sum(sizes.values()):
        raise UserError(f"{path} has {len(text):,} characters; text8 has {sum(sizes.values()):,}: give the file text8")
    ends = list(itertools.accumulate(sizes.values()))
    borders = zip([0, *ends], ends, strict=False)
    return {split: text8_lines([text[a:b]], count, length) for split, (a, b) in zip(sizes, borders, strict=True)}


def read(data: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a set: `text`, and `title` where the set has it. UserError: it is not there."""
    return [record for _, record in read_table(data / f"{name}.jsonl.gz").records]


def base_en_counter() -> Count:
    """Counts the tokens of texts as `base-en` does."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("base-en") / "tokenizer")

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []

    return count


def show(split: str, texts: Sequence[str], count: Count) -> None:
    """Say how many texts there are, how long they are, and what some of them are."""
    sizes = count(texts)
    words = sum(len(text.split()) for text in texts) / max(1, len(texts))
    tokens = sum(sizes) / max(1, len(texts))
    print(f"{split}: {len(texts):,} texts, {tokens:.1f} tokens and {words:.1f} words each", file=sys.stderr)
    for text in texts[:: max(1, len(texts) // 5)][:5]:
        print(f"    {text}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the three files of a form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=sorted(HELD_OUT))
    parser.add_argument("data", type=Path, nargs="?", help="the folder of the data sets; not with --text8")
    parser.add_argument("output", type=Path)
    parser.add_argument("--text8", metavar="FILE", help="the public file text8, unpacked")
    given = parser.parse_args(arguments)
    if (given.data is None) == (given.text8 is None) or (given.text8 and given.form != "text8"):
        parser.error("give the folder of the data sets, or the form text8 with --text8 FILE")
    count = base_en_counter()
    texts = of_public(given.text8, count) if given.text8 else of_shared(given.form, given.data, count)
    for split in SPLITS:
        write_rows(given.output / f"{split}.jsonl", ({"text": text} for text in texts[split]))
        show(split, texts[split], count)


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
