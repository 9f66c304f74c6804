"""What the tokens of a backbone look like as text, so that words can be put where a template has its blanks."""

from collections.abc import Iterable, Sequence
from typing import Any

import regex
import torch

from ladle.autoencoder.backbone import Backbone, padded_tokens
from ladle.autoencoder.signs import UNDECODABLE, written

WORD = regex.compile(r"[\p{L}\p{N}]")
UNCUT = 2**20  # tokens
SPACES = ("Ġ", "▁", " ")  # a space at the beginning of a token, as byte-level and sentence-piece tokenizers spell it


def uncut_tokens(tokenizer: Any, texts: Iterable[str]) -> list[list[int]]:
    """Token ids of texts, of any length, with an end token."""
    tokens = padded_tokens(tokenizer, texts, UNCUT)
    return [ids[own].tolist() for ids, own in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)]


class Vocabulary:
    """Tokens as text.

    begins: [V], tokens with a space before them. wordy: [V], tokens with a letter or a digit. banned: [V], tokens that
    are never written. end: the last token of a text.
    """

    def __init__(self, backbone: Backbone):
        self.backbone, self.tokenizer = backbone, backbone.tokenizer
        names = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        texts = [self.tokenizer.convert_tokens_to_string([name]) for name in names]
        special = set(self.tokenizer.all_special_ids)
        size = int(backbone.embedding.shape[0])  # (T5 has more vectors than its tokenizer has tokens)
        self.begins, self.wordy = torch.zeros(2, size, dtype=torch.bool)
        self.banned = torch.ones(size, dtype=torch.bool)
        for token, (name, text) in enumerate(zip(names[:size], texts, strict=False)):
            self.banned[token] = False
            self.begins[token] = name.startswith(SPACES) or text.startswith(" ")
            self.wordy[token] = token not in special and bool(WORD.search(text))
        self.banned[backbone.banned] = True
        self.end = int(backbone.model.generation_config.eos_token_id)
        probe = self._ids(["a"])[0]
        self.prefix = probe[: next(i for i, token in enumerate(probe) if token not in special)]  # BART's <s>
        self.first_has_space = bool(self.begins[probe[len(self.prefix)]])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without the end token, of texts of any length."""
        every = uncut_tokens(self.tokenizer, texts)
        return [own[:-1] if own[-1:] == [self.tokenizer.eos_token_id] else own for own in every]

    def contexts(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts that go on. A space at the end of a text belongs to the next token."""
        ids = self._ids([text.removesuffix(" ") or "a" for text in texts])
        return [own if text.removesuffix(" ") else [*self.prefix] for own, text in zip(ids, texts, strict=True)]

    def after(self, rest: str) -> list[int]:
        """The tokens of what follows a blank, as they are behind a word. A space at its end belongs to the next."""
        before = "-" if WORD.match(rest) else "a"
        known, whole = self.contexts([before, before + rest])
        return whole[len(known) :]

    def space_wanted(self, before: str) -> bool | None:
        """Whether a blank's first token begins with a space. None: as the decoder likes, right behind a word."""
        if not before:
            return self.first_has_space
        return True if before.endswith(" ") else None if WORD.match(before[-1]) else False

    def fills(self, parts: Sequence[Sequence[int]], before: str) -> list[str]:
        """Tokens in a blank -> the text that stands there: without white space at its end, nor, where the text before
        ends with white space, at its beginning. Empty: no word, or signs that the model may not write."""
        texts = self.tokenizer.batch_decode(parts, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        open_before = not before or before[-1].isspace()
        return [self._fill(text.strip() if open_before else text.rstrip()) for text in texts]

    def _fill(self, text: str) -> str:
        known = written(text, self.backbone.alphabet) == text and UNDECODABLE not in text
        return text if known and WORD.search(text) and "\n" not in text and "__" not in text else ""
