"""The decoding loop of all autoregressive decoders: greedy, or drawn from each row's own random stream.

A row's j-th token depends on its own memory and tokens, and on the j-th number of its stream: not on its batch, and not
on drafts. Drafts (guessed continuations) only save passes: several tokens are checked in one pass, and the first one
that the decoder would not have written itself is replaced. With a draft that is one guess for each place, this is
speculative sampling (arXiv 2211.17192): a guess is accepted with the probability that the decoder gives it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ladle.autoencoder.choice import chosen_ids, ids_of_normals
from ladle.autoencoder.language import Cache, LanguageDecoder
from ladle.autoencoder.lexicon import ROOT, Lexicon

NARROW = 0.8  # share of the vocabulary that a lexicon allows, below which the logits of the others are not worked out
LIKELY = -4.0  # nats below the likeliest token, from which on a token is not made likelier by `Pushed`
SHRINK_BELOW = 0.75  # share of unfinished rows in a batch below which the finished rows leave it
Draft = Callable[[list[int]], list[int]]
"""The tokens of a text so far, without the start token -> guesses of the tokens that follow, possibly none."""


Choose = Callable[[Tensor, Sequence[int], Sequence[Sequence[int]]], Tensor]
"""(logits [N, V] of the tokens that follow texts, the row of each, the tokens of each so far) -> ids [N]."""


@dataclass
class Ending:
    """When texts may end.

    may_end: the tokens of a text so far -> whether it may end there. Where it may once, it may anywhere later.
    ended: `write` says here whether each text ended by itself, or was cut at the longest text.
    """

    may_end: Callable[[list[int]], bool]
    ended: list[bool] = field(default_factory=list)


class Stepper(Protocol):
    """A decoder that continues texts. `LanguageDecoder` is one; `TransformersStepper` makes one of transformers'
    models."""

    ragged: bool
    """Whether the rows of a batch may have texts of different lengths, as drafts need it."""

    def begin(self, memory: Tensor | None, memory_mask: Tensor | None, batch: int, max_tokens: int) -> Any:
        """The state of empty texts, with a list `lengths` of B numbers, and `keep(rows)`."""

    def step(self, ids: Tensor, state: Any) -> Tensor:
        """ids [B, n], the next tokens of every row -> logits [B, n, V] of the tokens after each."""


@torch.no_grad()
def write(
    decoder: Stepper,
    memory: Tensor,
    memory_mask: Tensor | None,
    *,
    start: int,
    end: int,
    max_tokens: int,
    uniform: Tensor | None = None,
    top_p: float = 1.0,
    temperature: float = 1.0,
    first: int | None = None,
    drafts: Sequence[Draft] | None = None,
    banned: Sequence[int] = (),
    lexicon: Lexicon | None = None,
    wording: Tensor | None = None,
    ending: Ending | None = None,
    choose: Choose | None = None,
    against: tuple[Tensor, Tensor, float] | None = None,
) -> Tensor:
    """Continue every row until its end token, at most `max_tokens` tokens.

    Args:
        memory: [B, N, W], with memory_mask [B, N].
        start, end: ids of the token before a text and of its last token. first: the text's first token, if it is set.
        uniform: [B, max_tokens] in [0, 1): the random numbers of each row's tokens. None: the likeliest tokens.
        top_p, temperature: as in `chosen_ids`.
        drafts: one for each row. A decoder whose rows must have texts of one length makes no use of them.
        wording: [B, S], standard normal numbers that choose each row's tokens (`ladle.autoencoder.wording`); a longer
            text goes on with 0. `uniform`, `top_p` and `temperature` then have no effect.
        banned: tokens that are never written. lexicon: the words that may be written; None: any.
        ending: when texts may end; None: where the decoder ends them.
        choose: chooses the tokens (`ladle.autoencoder.counterfactual`); the other ways to choose then have no effect.
        against: another memory with its mask, and a weight, as of `Pushed`.

    Returns ids [B, S], with only `end` after a row's end token.
    """
    decoder = decoder if against is None else Pushed(decoder, *against)
    rows = _Rows(decoder, memory, memory_mask, start, end, max_tokens)
    tokens = None
    narrows = lexicon is not None and choose is None and isinstance(rows.state, Cache)
    if narrows and lexicon is not None and len(lexicon.tokens) < NARROW * len(lexicon.tokenizer):
        tokens = lexicon.tokens.to(memory.device)
        rows.state.write_only(tokens)
    choice = _Choice(uniform, top_p, temperature, first, [*banned], lexicon, tokens, wording, choose)
    if ending is not None:
        choice.forbid_ends(ending.may_end, end)
    if drafts is None or not decoder.ragged:
        _write_one_by_one(rows, choice)
    else:
        _write_with_drafts(rows, choice, drafts)
    texts = rows.texts
    if ending is not None:
        ending.ended = [text[-1:] == [end] for text in texts]
    if lexicon is not None:  # a text that was cut ends with a whole word
        texts = [text if text[-1] == end else text[: lexicon.whole(text)] for text in texts]
    ids = torch.full((len(texts), max(map(len, texts), default=0)), end, dtype=torch.long)
    for own, text in zip(ids, texts, strict=True):
        own[: len(text)] = torch.tensor(text, dtype=torch.long)
    return ids.to(memory.device)


class _Rows:
    """The unfinished texts of a batch: `left` are their numbers."""

    def __init__(
        self, decoder: Stepper, memory: Tensor, mask: Tensor | None, start: int, end: int, max_tokens: int
    ) -> None:
        self.decoder, self.end, self.max_tokens = decoder, end, max_tokens
        self.state = decoder.begin(memory, mask, len(memory), max_tokens)
        self.texts: list[list[int]] = [[] for _ in range(len(memory))]
        self.left = [*range(len(memory))]
        self.last = torch.full((len(memory), 1), start, dtype=torch.long, device=memory.device)

    def is_finished(self, row: int) -> bool:
        """Whether a text has its end token or all tokens that it may have."""
        text = self.texts[row]
        return len(text) == self.max_tokens or text[-1:] == [self.end]

    def keep(self, places: list[int]) -> None:
        """Leave out all unfinished texts but those at these places."""
        kept = torch.tensor(places, dtype=torch.long, device=self.last.device)
        self.state.keep(kept)
        self.left, self.last = [self.left[place] for place in places], self.last[kept]


class _Choice:
    """Chooses tokens from logits, and knows where the last word of each text stands in the lexicon.

    tokens: [U], of which the logits are; None: of the whole vocabulary.
    """

    def __init__(
        self,
        uniform: Tensor | None,
        top_p: float,
        temperature: float,
        first: int | None,
        banned: list[int],
        lexicon: Lexicon | None,
        tokens: Tensor | None,
        wording: Tensor | None,
        choose: Choose | None,
    ) -> None:
        self.choose = choose
        self.numbers = None if uniform is None or temperature == 0 else uniform.tolist()
        self.by_wording = wording is not None
        if wording is not None:
            self.numbers = F.pad(wording, (0, 1)).tolist()  # (beyond its end: the number in the middle)
        self.top_p, self.temperature, self.first, self.lexicon = top_p, temperature, first, lexicon
        self.tokens = tokens
        if tokens is not None and lexicon is not None:
            written = set(tokens.tolist())
            banned = [lexicon.places[token] for token in banned if token in written]
        self.banned = torch.tensor(banned, dtype=torch.long)
        self.nodes: dict[int, int] = {}
        self.may_end: Callable[[list[int]], bool] | None = None

    def forbid_ends(self, may_end: Callable[[list[int]], bool], end: int) -> None:
        """Choose no end token where a text may not end (`Ending`)."""
        narrow = self.tokens is not None and self.lexicon is not None
        self.may_end, self.end = may_end, self.lexicon.places[end] if narrow and self.lexicon else end
        self.free: set[int] = set()  # rows that may end

    def __call__(self, logits: Tensor, texts: list[list[int]], rows: list[int], guesses: list[list[int]]) -> Tensor:
        """logits [b, n, V or U] of the tokens that follow the texts of `rows`, each of them also after the row's n - 1
        guesses -> ids [b, n]. Changes logits."""
        size, device = logits.shape[1], logits.device
        if len(self.banned):
            logits.index_fill_(-1, self.banned.to(device), -torch.inf)
        if self.lexicon is not None:
            paths = [[*accumulate(own, self.lexicon.next_node, initial=self.nodes.get(row, ROOT))]
                     for row, own in zip(rows, guesses, strict=True)]  # fmt: skip
            forbidden = self.lexicon.forbidden([node for path in paths for node in path], self.tokens is not None)
            logits.masked_fill_(forbidden.to(device).view(logits.shape), -torch.inf)
        if self.may_end is not None:
            for place, (row, guessed) in enumerate(zip(rows, guesses, strict=True)):
                for ahead in range(size if row not in self.free else 0):
                    if self.may_end(texts[row] + guessed[:ahead]):
                        if ahead == 0:
                            self.free.add(row)
                        break
                    logits[place, ahead, self.end] = -torch.inf
        if self.choose is not None:
            each = [row for row in rows for _ in range(size)]
            known = [[*texts[row], *own[:i]] for row, own in zip(rows, guesses, strict=True) for i in range(size)]
            ids = self.choose(logits.flatten(0, 1), each, known).view(-1, size)
        elif self.numbers is None:
            ids = logits.argmax(-1)
        else:
            # (No number is behind the last place, which a guess may be.)
            own = [(self.numbers[row], len(texts[row])) for row in rows]
            numbers = [given[min(begin + i, len(given) - 1)] for given, begin in own for i in range(size)]
            chosen_by = torch.tensor(numbers, dtype=torch.float32, device=device)
            if self.by_wording:
                ids = ids_of_normals(logits.flatten(0, 1), chosen_by).view(-1, size)
            else:
                ids = chosen_ids(logits.flatten(0, 1), chosen_by, self.top_p, self.temperature).view(-1, size)
        if self.tokens is not None:
            ids = self.tokens[ids]
        if self.first is not None:
            for place, row in enumerate(rows):
                if not texts[row]:
                    ids[place, 0] = self.first
        return ids

    def note(self, row: int, tokens: list[int]) -> None:
        """These tokens were written."""
        if self.lexicon is not None:
            self.nodes[row] = reduce(self.lexicon.next_node, tokens, self.nodes.get(row, ROOT))


def _write_one_by_one(rows: _Rows, choice: _Choice) -> None:
    while True:
        none: list[list[int]] = [[] for _ in rows.left]
        ids = choice(rows.decoder.step(rows.last, rows.state), rows.texts, rows.left, none)
        alive = []
        for place, (row, token) in enumerate(zip(rows.left, ids[:, 0].tolist(), strict=True)):
            if not rows.is_finished(row):  # (a finished one may be still here)
                rows.texts[row].append(token)
                choice.note(row, [token])
                if not rows.is_finished(row):
                    alive.append(place)
        if not alive:
            return
        rows.last = ids
        if len(alive) < SHRINK_BELOW * len(rows.left):
            rows.keep(alive)


def _write_with_drafts(rows: _Rows, choice: _Choice, drafts: Sequence[Draft]) -> None:
    end, device = rows.end, rows.last.device
    while True:
        # (No row of the pass may go beyond the last place.)
        room = rows.max_tokens - 1 - max(len(rows.texts[row]) for row in rows.left)
        guesses = [drafts[row](rows.texts[row])[:room] for row in rows.left]
        size = max(map(len, guesses))
        filled = [own + [end] * (size - len(own)) for own in guesses]
        given = torch.tensor(filled, dtype=torch.long, device=device).view(len(filled), size)
        ids = choice(rows.decoder.step(torch.cat([rows.last, given], dim=1), rows.state), rows.texts, rows.left, filled)
        unfinished, last = [], []
        for place, (row, guessed, own) in enumerate(zip(rows.left, guesses, ids.tolist(), strict=True)):
            right = next(
                (i for i, pair in enumerate(zip(guessed, own, strict=False)) if pair[0] != pair[1]), len(guessed)
            )
            new = own[: right + 1]  # the guesses that the decoder would have written, and the token after them
            new = new[: new.index(end) + 1] if end in new else new
            rows.texts[row] += new
            choice.note(row, new)
            last.append([new[-1]])
            if not rows.is_finished(row):
                unfinished.append(place)
        if not unfinished:
            return
        rows.last = torch.tensor(last, device=device)
        if len(unfinished) < len(rows.left):
            rows.keep(unfinished)
        rows.state.lengths = [len(rows.texts[row]) for row in rows.left]  # forget the guesses that were wrong


class Lookup:
    """A draft that continues the last tokens of a text as some known sequences do (prompt lookup).

    sequences: token ids of sources, drafts or training texts. longest: tokens looked up at most; the longest match
    wins, of equal ones the nearest after the place of the last, so that a shifted draft is followed. size: guesses.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], start: int, longest: int = 3, size: int = 8):
        self.longest, self.size = longest, size
        self.tokens: list[int] = []
        self.places: dict[tuple[int, ...], list[int]] = {}
        for sequence in sequences:
            begin = len(self.tokens)
            self.tokens += [start, *sequence]
            for place in range(begin, len(self.tokens)):
                for length in range(1, min(longest, place - begin + 1) + 1):
                    key = tuple(self.tokens[place - length + 1 : place + 1])
                    self.places.setdefault(key, []).append(place)
        self.start, self.shift = start, 0  # shift: how much further on the place of the last match was than the text

    def __call__(self, text: list[int]) -> list[int]:
        known = [self.start, *text]
        if not text:
            self.shift = 0
        for length in range(min(self.longest, len(known)), 0, -1):
            places = self.places.get(tuple(known[-length:]))
            if places:
                place = min(places, key=lambda place: abs(place - len(text) - self.shift))
                self.shift = place - len(text)
                found = self.tokens[place + 1 : place + 1 + self.size]
                return found[: found.index(self.start)] if self.start in found else found
        return []


class Pushed:
    """A decoder whose log-probabilities are pushed away from those that it has with another memory: by `weight` times
    their difference (arXiv 2105.03023). A token that is far less likely than the likeliest one is not made likelier
    (arXiv 2210.15097): the difference of two tiny numbers says little."""

    ragged = False

    def __init__(self, decoder: Stepper, memory: Tensor, memory_mask: Tensor, weight: float):
        self.decoder, self.memory, self.memory_mask, self.weight = decoder, memory, memory_mask, weight

    def begin(self, memory: Tensor | None, memory_mask: Tensor | None, batch: int, max_tokens: int) -> Any:
        """As in `Stepper`."""
        other = self.decoder.begin(self.memory, self.memory_mask, batch, max_tokens)
        return _BothStates(self.decoder.begin(memory, memory_mask, batch, max_tokens), other)

    def step(self, ids: Tensor, state: "_BothStates") -> Tensor:
        """As in `Stepper`."""
        own, other = (self.decoder.step(ids, part).float().log_softmax(-1) for part in (state.own, state.other))
        difference = own - other
        unlikely = own < own.amax(-1, keepdim=True) + LIKELY
        return own + self.weight * torch.where(unlikely, difference.clamp_max(0), difference)


@dataclass
class _BothStates:
    own: Any
    other: Any

    def keep(self, rows: Tensor) -> None:
        """Leave out all rows but these."""
        self.own.keep(rows)
        self.other.keep(rows)


class TransformersStepper:
    """`Stepper` of an encoder-decoder of transformers."""

    ragged = False

    def __init__(self, model: Any):
        self.model = model

    def begin(self, memory: Tensor | None, memory_mask: Tensor | None, batch: int, max_tokens: int) -> Any:
        """As in `Stepper`."""
        return _TransformersState(memory, memory_mask, batch)

    def step(self, ids: Tensor, state: "_TransformersState") -> Tensor:
        """As in `Stepper`."""
        from transformers.modeling_outputs import BaseModelOutput

        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=state.memory), attention_mask=state.mask,
            decoder_input_ids=ids, past_key_values=state.cache, use_cache=True,
        )  # fmt: skip
        state.cache = output.past_key_values
        logits: Tensor = output.logits.float()
        return logits


class _TransformersState:
    """Keys and values in transformers' own cache."""

    def __init__(self, memory: Tensor | None, mask: Tensor | None, batch: int):
        self.memory, self.mask, self.cache = memory, None if mask is None else mask.long(), None
        self.lengths = [0] * batch

    def keep(self, rows: Tensor) -> None:
        """Leave out all rows but these."""
        if self.memory is not None:
            self.memory = self.memory[rows]
        if self.mask is not None:
            self.mask = self.mask[rows]
        if self.cache is not None:
            self.cache.batch_select_indices(rows)


def stepper_of(model: Any) -> Stepper:
    """The `Stepper` of a backbone's model."""
    decoder: Stepper | None = model.get_decoder()
    return decoder if isinstance(decoder, LanguageDecoder) else TransformersStepper(model)
