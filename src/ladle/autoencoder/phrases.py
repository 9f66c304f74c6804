"""Phrases of the training texts: what usually follows the last tokens of a text. Drafts of them make writing faster."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ladle.errors import UserError

LONGEST = 3  # tokens looked back at: with 4 E2E's texts take 1 % fewer passes, with a table that is twice as large
LIKELY = 0.3  # least share of the texts in which a phrase goes on in this way; also of all guesses of a draft together
GUESSES = 4  # at most at once: 8 save no more
TEXTS = 20_000  # of the training data that are counted
# Passes a token of held-out texts at most: a pass that checks a draft takes up to half as long again as one without.
# (0.6 on E2E, where drafts save 29 % of the decoder's time at batch 1; 0.9 on 5,000 reviews, where they cost 4 %.)
WORTH = 0.75

Table = dict[tuple[int, ...], tuple[int, float]]


@dataclass(frozen=True)
class Phrases:
    """table: the last one to three tokens -> the token that follows them most often, and its share there. least: each
    entry is of at least this number of texts, so that no text can be told from the table."""

    table: Table
    least: int

    @classmethod
    def learnt(cls, sequences: Iterable[Sequence[int]], start: int, least: int) -> Self:
        """Of token sequences, each of which `start` goes before."""
        counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for sequence in sequences:
            tokens = [start, *sequence]
            for phrase in {
                tuple(tokens[place - length : place + 1])
                for length in range(1, LONGEST + 1)
                for place in range(length, len(tokens))
            }:
                counts[phrase[:-1]][phrase[-1]] += 1
        table = {}
        for last, followers in counts.items():
            token, count = min(followers.items(), key=lambda pair: (-pair[1], pair[0]))
            share = round(count / followers.total(), 2)
            if count >= least and share >= LIKELY:
                table[last] = token, share
        return cls(table, least)

    def draft(self, start: int, text: Sequence[int]) -> list[int]:
        """A `Draft` of texts that begin with `start`: guesses as long as they are likely to be right together."""
        known, guesses, share = [start, *text][-LONGEST:], list[int](), 1.0
        while len(guesses) < GUESSES:
            found = next((own for i in range(len(known)) if (own := self.table.get(tuple(known[i:])))), None)
            if found is None or share * found[1] < LIKELY:
                break
            share *= found[1]
            guesses.append(found[0])
            known = [*known, found[0]][-LONGEST:]
        return guesses

    def passes(self, sequences: Iterable[Sequence[int]], start: int) -> float:
        """How many passes a token takes a decoder that writes these texts with drafts. Without drafts it is 1."""
        tokens = passes = 0
        for text in sequences:
            done = 0
            while done < len(text):
                guesses = self.draft(start, text[:done])
                right = 0
                while [*text[done : done + right + 1]] == guesses[: right + 1] and right < len(guesses):
                    right += 1
                done, passes = done + right + 1, passes + 1
            tokens += len(text)
        return passes / max(tokens, 1)

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        rows = [[*last, token, share] for last, (token, share) in sorted(self.table.items())]
        lines = ",\n".join(json.dumps(row) for row in rows)
        path.write_text(f'{{"least": {self.least}, "phrases": [\n{lines}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: Path, vocab_size: int) -> Self:
        """Read what `save` wrote. Raises UserError: another file, or tokens that the model does not have."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            rows = [([int(token) for token in tokens], float(share)) for *tokens, share in values["phrases"]]
            phrases = cls({tuple(last): (token, share) for (*last, token), share in rows}, int(values["least"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is malformed ({error}); copy or download the model folder again") from None
        if any(not 0 <= token < vocab_size for tokens, _ in rows for token in tokens):
            raise UserError(f"{path} has tokens that the model does not; copy or download the model folder again")
        return phrases
