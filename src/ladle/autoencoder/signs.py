"""The signs (characters) of texts: which are text, which a model has learnt, which its own texts may hold."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

UNDECODABLE = "\ufffd"  # stands for bytes that are no character
CONTROLS = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})  # (Cf joins the letters and emoji of many scripts)
NAMES = {"\n": "line break", "\t": "tab", "\r": "carriage return", "\u00a0": "no-break space"}
AT_ONCE = 10_000  # texts tokenized in one call


class Unlearnt(NamedTuple):
    """What a model has not learnt of some texts.

    texts: the share of the texts that hold such signs. number: their count. characters: the share of the characters.
    examples: the most frequent signs, for messages.
    """

    texts: float
    number: int
    characters: float
    examples: str


def literal(tokenizer: Any) -> Any:
    """The same tokenizer, from now on with the spelling of a special token in a text (`</s>`, `<pad>`) read as text."""
    tokenizer.split_special_tokens = True
    if not tokenizer.is_fast:
        return tokenizer
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    # Some vocabularies (T5's) also hold the spelling as a piece of text: it is cut after its first sign.
    held = []
    for token in sorted(set(tokenizer.all_special_tokens)):
        spans = backend.encode(token, add_special_tokens=False).offsets
        if len(token) > 1 and any(end - start >= len(token) for start, end in spans):
            held.append(token)
    if held:
        from tokenizers import Regex, pre_tokenizers

        first = Regex("|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in held))
        before = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
        backend.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.Split(first, "isolated")])
    return tokenizer


def written(text: str, alphabet: frozenset[str] | None) -> str:
    """A decoded text without the signs that a model cannot mean: those outside its alphabet. Without an alphabet:
    remains of undecodable bytes, and control signs other than line breaks and tabs."""
    if alphabet is None:
        if text.isprintable() and UNDECODABLE not in text:
            return text
        return "".join(c for c in text if c in "\n\t" or (c != UNDECODABLE and unicodedata.category(c) not in CONTROLS))
    return text if alphabet.issuperset(text) else "".join(c for c in text if c in alphabet)


def used_parts(tokenizer: Any, texts: Iterable[str], max_tokens: int) -> Iterator[str]:
    """The texts, each without the part after its first `max_tokens` tokens, which a model does not see."""
    texts = list(texts)
    for start in range(0, len(texts), AT_ONCE):
        part = texts[start : start + AT_ONCE]
        # A token is a byte at least; a space before the text, a start and an end token may come with it.
        long = [text for text in part if len(text.encode()) + 3 > max_tokens]
        encoded = tokenizer(long, truncation=True, max_length=max_tokens, return_offsets_mapping=True) if long else {}
        spans = zip(long, encoded.get("offset_mapping", []), strict=True)
        ends = {text: max(end for _, end in places) for text, places in spans}
        yield from (text[: ends.get(text)] for text in part)


def alphabet_of(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> frozenset[str]:
    """The signs of the used parts of texts."""
    sure = max(0, max_tokens - 3) // 4  # signs that are seen of every text: each is four tokens at most
    known = set[str]().union(*(text[:sure] for text in texts))
    rest = (text for text in texts if len(text) > sure and not known.issuperset(text))
    return frozenset(known.union(*used_parts(tokenizer, rest, max_tokens)))


def writable(backbone: Any, signs: Iterable[str]) -> frozenset[str]:
    """The signs that come back from the backbone's tokenizer, which may have no entries for some."""
    signs = [*signs]
    back = backbone.detokenize(backbone.tokenize(f"a{sign}b" for sign in signs)["input_ids"])
    return frozenset(sign for sign, text in zip(signs, back, strict=True) if sign in text)


def unlearnt(texts: Iterable[str], alphabet: frozenset[str]) -> Unlearnt | None:
    """The part of `texts` that a model with this alphabet has not learnt, or None if it knows all signs."""
    signs: Counter[str] = Counter()
    texts = [text.strip() for text in texts]
    foreign = [text for text in texts if not alphabet.issuperset(text)]
    if not foreign:
        return None
    for text in foreign:
        signs.update(sign for sign in text if sign not in alphabet)
    examples = ", ".join(_shown(sign) for sign, _ in signs.most_common(3)) + " ..." * (len(signs) > 3)
    share = signs.total() / sum(map(len, texts))
    return Unlearnt(len(foreign) / len(texts), len(foreign), share, examples)


def unlearnt_line(texts: Sequence[str], alphabet: frozenset[str] | None, name: str) -> str | None:
    """A line for the user of the model `name`, if `texts` hold signs that it never learnt."""
    found = None if alphabet is None else unlearnt(texts, alphabet)
    if found is None:
        return None
    what = f"{found.number:,} of {len(texts):,} texts hold signs that '{name}' never learnt ({found.examples})"
    return f"{what}; they will not come back"


def _shown(sign: str) -> str:
    return sign if sign.isprintable() else NAMES.get(sign, f"U+{ord(sign):04X}")
