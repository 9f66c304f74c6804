"""The words that a model may write. A decoder that writes words in pieces could join pieces to words that are none."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any

import regex
import torch
from torch import Tensor

LETTERS = regex.compile(r"\p{L}+")
# Where a text may stand: behind no letters; behind a word; behind a part of one; behind a space of its own, which words
# of rare letters begin with.
OUTSIDE, COMPLETE, PART, SPACE = range(4)
ROOT, BEHIND = 0, 1  # nodes: outside words; behind a token such as "'t", which ends with letters but is no word
RARE = 0.01  # a share of words with capitals below this: texts in lower case
COVERED = 0.6  # of held-out words: English sets have .75 (300 film reviews) to .99, Chinese sentences nearly none


def words_of(texts: Iterable[str]) -> Counter[str]:
    """The words of texts (runs of letters), with their numbers."""
    return Counter(word for text in texts for word in LETTERS.findall(text))


class Lexicon:
    """Known words as sequences of tokens, and which tokens may follow which.

    words: without spaces. tokenizer: of `train_tokenizer`, which cuts a run of letters by itself, with the space before
    it if there is one. alphabet: the signs that may be written; None
    for any. (Others would vanish from the text, and join what stands around them.)

    tokens: [U], those that may be written at all. places: of each token among them.
    """

    def __init__(self, words: Iterable[str], tokenizer: Any, alphabet: frozenset[str] | None = None):
        self.tokenizer, self.alphabet, size = tokenizer, alphabet, len(tokenizer)
        names = tokenizer.convert_ids_to_tokens(range(size))
        texts = [tokenizer.backend_tokenizer.decoder.decode([name]) for name in names]
        special = set(tokenizer.all_special_ids)
        self.is_letters = [i not in special and _is_letters(text) for i, text in enumerate(texts)]
        self.ends_a_word = [bool(LETTERS.search(text[-1:])) for text in texts]
        self.has_space = torch.tensor([text.startswith(" ") for text in texts])
        writable = [i in special or _is_writable(text, alphabet) for i, text in enumerate(texts)]
        self.is_writable = torch.tensor(writable)  # (the spelling of the end token is no text)
        self.no_letters = ~torch.tensor(self.is_letters)
        self.bare = _bare(tokenizer)
        # A trie: the children of each node by token, and its kind.
        self.words: frozenset[str] = frozenset()
        self.children: list[dict[int, int]] = [{}, {}]
        self.kinds = [OUTSIDE, COMPLETE]
        self.inside = frozenset[int]()  # tokens that continue a word
        self._add(words)

    def extended(self, words: Iterable[str]) -> "Lexicon":
        """The same with more words."""
        new = {word for word in words if word not in self.words}
        if not new:
            return self
        other = copy(self)
        other.children, other.kinds = [*self.children], [*self.kinds]
        other._add(new)
        return other

    def _add(self, words: Iterable[str]) -> None:
        words = frozenset(words)
        forms = {word for word in words if self.alphabet is None or self.alphabet.issuperset(word)}
        inside = set(self.inside)
        own = set[int]()  # nodes whose children are not those of another lexicon (see `extended`)
        for pieces in _pieces(sorted(forms), self.bare):
            node = ROOT
            for piece in pieces:
                known = self.children[node].get(piece)
                if known is None:
                    if node not in own:
                        own.add(node)
                        self.children[node] = dict(self.children[node])
                    known = self.children[node][piece] = len(self.children)
                    if node != ROOT:
                        inside.add(piece)
                    own.add(known)
                    self.children.append({})
                    self.kinds.append(PART if self.is_letters[piece] else SPACE)
                node = known
            self.kinds[node] = COMPLETE
        self.words, self.inside = self.words | words, frozenset(inside)
        begins = torch.zeros_like(self.has_space)
        begins[torch.tensor([*self.children[ROOT]], dtype=torch.long)] = True
        no_letters, none = self.is_writable & self.no_letters, torch.zeros_like(begins)
        # Which tokens may not follow, by the kind of the node; its children may.
        after_a_word = no_letters | (begins & self.has_space)
        self.forbidden_after = ~torch.stack([no_letters | begins, after_a_word, none, no_letters])
        self._following: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})  # whole, narrow
        # What may be written at all, often a part of the vocabulary, and the same tables for that part.
        written = no_letters | begins
        written[torch.tensor([*self.inside], dtype=torch.long)] = True
        self.tokens = written.nonzero()[:, 0]
        self.places = (written.cumsum(0) - 1).tolist()
        self.narrow_after = self.forbidden_after[:, self.tokens]

    def next_node(self, node: int, token: int) -> int:
        """The node after a token: 0 outside words."""
        inside = self.children[node].get(token)
        if inside is not None:
            return inside
        if token in self.children[ROOT]:
            return self.children[ROOT][token]
        return BEHIND if self.ends_a_word[token] else ROOT

    def whole(self, tokens: Sequence[int]) -> int:
        """How many of the tokens make whole words: a cut text may end within one."""
        node, found = ROOT, 0
        for number, token in enumerate(tokens, start=1):
            node = self.next_node(node, token)
            if self.kinds[node] != PART:
                found = number
        return found

    def forbidden(self, nodes: Sequence[int], narrow: bool = False) -> Tensor:
        """Which tokens may not follow at each node, bool [N, V]; narrow: which of `tokens`."""
        table = self.narrow_after if narrow else self.forbidden_after
        found = table[torch.tensor([self.kinds[node] for node in nodes])]
        for row, node in enumerate(nodes):
            if node > BEHIND and self.children[node]:
                found[row].index_fill_(0, self._children_of(node, narrow), False)
        return found

    def _children_of(self, node: int, narrow: bool) -> Tensor:
        known = self._following[narrow]
        if node not in known:
            children = [self.places[token] if narrow else token for token in self.children[node]]
            known[node] = torch.tensor(children, dtype=torch.long)
        return known[node]


def _bare(tokenizer: Any) -> Any:
    """The tokenizer without its normaliser, which would put a space before every word, and without what its last call
    left in it: padding would become a part of words."""
    from tokenizers import Tokenizer

    bare = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bare.normalizer = None
    bare.no_padding()
    bare.no_truncation()
    return bare


def _pieces(words: list[str], bare: Any) -> Iterator[list[int]]:
    """The tokens of each word, with a space before it and without."""
    for written in ([" " + word for word in words], words):
        yield from (encoding.ids for encoding in bare.encode_batch(written, add_special_tokens=False))


def _is_letters(text: str) -> bool:
    """Whether a token's text continues or begins a word: letters, or a part of a letter's bytes."""
    text = text.removeprefix(" ")
    return bool(text) and (bool(LETTERS.fullmatch(text)) or "\ufffd" in text)


def _is_writable(text: str, alphabet: frozenset[str] | None) -> bool:
    """Whether a token has only signs of the alphabet, or may be a part of one's bytes."""
    if alphabet is None:
        return True
    if "\ufffd" in text:
        return any(not sign.isascii() for sign in alphabet)
    return alphabet.issuperset(text.replace(" ", ""))


def learnt_words(texts: Iterable[str], held_out: Iterable[str], known: Iterable[str] = ()) -> frozenset[str] | None:
    """The words of `texts`, with those in `known`; None if many words of held-out texts are not among them, as in a
    language without spaces between words. Where texts hold capitals, a word may begin with one."""
    counts, met = words_of(texts), words_of(held_out)
    capitals = sum(number for word, number in counts.items() if not word.islower())
    words = {*counts, *known}
    if capitals > RARE * counts.total():
        words |= {word[:1].upper() + word[1:] for word in words}
    else:
        words = {word for word in words if word.islower() or word in counts}
    covered = sum(number for word, number in met.items() if word in words)
    return frozenset(words) if covered >= COVERED * met.total() > 0 else None
