"""The decoding loop of all autoregressive decoders: greedy, or drawn from each row's own random stream.

A row's j-th token depends on its own memory and tokens, and on the j-th number of its stream: not on its batch, and not
on drafts. Drafts (guessed continuations) only save passes: several tokens are checked in one pass, and the first one
that the decoder would not have written itself is replaced. With a draft that is one guess for each place, this is
speculative sampling (arXiv 2211.17192): a guess is accepted with the probability that the decoder gives it.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor

from ladle.autoencoder.choice import chosen_ids
from ladle.autoencoder.language import LanguageDecoder
from ladle.autoencoder.lexicon import ROOT, Lexicon

SHRINK_BELOW = 0.75  # share of unfinished rows in a batch below which the finished rows leave it
Draft = Callable[[list[int]], list[int]]
"""The tokens of a text so far, without the start token -> guesses of the tokens that follow, possibly none."""


class Stepper(Protocol):
    """A decoder that continues texts. `LanguageDecoder` is one; `TransformersStepper` makes one of transformers'
    models."""

    ragged: bool
    """Whether the rows of a batch may have texts of different lengths, as drafts need it."""

    def begin(self, memory: Tensor | None, memory_mask: Tensor | None, batch: int, max_tokens: int) -> Any:
        """The state of empty texts, with an attribute `lengths` [B], and `keep(rows)`."""

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
) -> Tensor:
    """Continue every row until its end token, at most `max_tokens` tokens.

    Args:
        memory: [B, N, W], with memory_mask [B, N].
        start, end: ids of the token before a text and of its last token. first: the text's first token, if it is set.
        uniform: [B, max_tokens] in [0, 1): the random numbers of each row's tokens. None: the likeliest tokens.
        top_p, temperature: as in `chosen_ids`.
        drafts: one for each row. A decoder whose rows must have texts of one length makes no use of them.
        banned: tokens that are never written. lexicon: the words that may be written; None: any.

    Returns ids [B, S], with only `end` after a row's end token.
    """
    batch, device = len(memory), memory.device
    written = torch.full((batch, max_tokens), end, dtype=torch.long, device=device)
    banned = [*banned]
    rows = torch.arange(batch, device=device)
    state = decoder.begin(memory, memory_mask, batch, max_tokens)
    count = torch.zeros(batch, dtype=torch.long, device=device)  # tokens written, of the rows still here
    last = torch.full((batch, 1), start, dtype=torch.long, device=device)

    nodes = [ROOT] * batch  # where the last word of each row stands in the lexicon

    def choose(logits: Tensor, places: Tensor, given: Tensor | None = None) -> Tensor:
        """logits [b, n, V] of the tokens at `places` [b, n], which follow the guesses `given` [b, n - 1] -> [b, n]."""
        if banned:
            logits[..., banned] = -torch.inf
        if lexicon is not None:
            paths = [[node] for node in nodes]
            for path, guesses in zip(paths, [] if given is None else given.tolist(), strict=given is not None):
                for guess in guesses:
                    path.append(lexicon.next_node(path[-1], guess))
            allowed = lexicon.allowed([node for path in paths for node in path]).to(device)
            logits = logits.masked_fill(~allowed.view(logits.shape), -torch.inf)
        if uniform is None or temperature == 0:
            ids = logits.argmax(-1)
        else:
            numbers = uniform[rows[:, None], places.clamp_max(max_tokens - 1)]
            ids = chosen_ids(logits.flatten(0, 1), numbers.flatten(), top_p, temperature).view(places.shape)
        return ids if first is None else ids.masked_fill(places == 0, first)

    if drafts is None or not decoder.ragged:
        alive = torch.ones_like(rows, dtype=torch.bool)
        for place in range(max_tokens):
            # (a finished row may be still here)
            ids = choose(decoder.step(last, state), count[:, None]).masked_fill(~alive[:, None], end)
            written[rows, place] = ids[:, 0]
            if lexicon is not None:
                nodes = [lexicon.next_node(*pair) for pair in zip(nodes, ids[:, 0].tolist(), strict=True)]
            alive = ids[:, 0] != end
            number = int(alive.sum())
            if not number:
                break
            count, last = count + 1, ids
            if number < SHRINK_BELOW * len(rows):
                here = alive.nonzero()[:, 0]
                state.keep(here)
                rows, count, last, alive = rows[here], count[here], last[here], alive[here]
                nodes = [nodes[i] for i in here.tolist()]
        return _until_end(written, end, lexicon)
    texts: list[list[int]] = [[] for _ in range(batch)]
    while len(rows):
        room = max_tokens - 1 - int(count.max())  # (no row of the pass may go beyond the last place)
        guesses = [drafts[row](texts[row])[:room] for row in rows.tolist()]
        size = max(map(len, guesses))
        given = torch.tensor([own + [end] * (size - len(own)) for own in guesses], dtype=torch.long, device=device)
        given = given.view(len(rows), size)
        places = count[:, None] + torch.arange(size + 1, device=device)
        ids = choose(decoder.step(torch.cat([last, given], dim=1), state), places, given)
        right = (ids[:, :-1] == given).long().cumprod(1).sum(1)  # guesses that the decoder would have written
        right = torch.minimum(right, torch.tensor([len(own) for own in guesses], device=device))
        unfinished = []
        for i, (row, good, own) in enumerate(zip(rows.tolist(), right.tolist(), ids.tolist(), strict=True)):
            new = own[: good + 1]
            new = new[: new.index(end) + 1] if end in new else new
            texts[row] += new[: max_tokens - len(texts[row])]
            if lexicon is not None:
                nodes[i] = reduce(lexicon.next_node, new, nodes[i])
            if new[-1] != end and len(texts[row]) < max_tokens:
                unfinished.append(i)
        kept = torch.tensor(unfinished, dtype=torch.long, device=device)
        last = ids.gather(1, right[:, None])[kept]
        count = (count + right + 1)[kept]
        nodes = [nodes[i] for i in unfinished]
        if len(unfinished) < len(rows):
            state.keep(kept)
            rows = rows[kept]
        state.lengths = count.clone()  # forget the guesses that were wrong
    for row, text in enumerate(texts):
        written[row, : len(text)] = torch.tensor(text, dtype=torch.long)
    return _until_end(written, end, lexicon)


def _until_end(written: Tensor, end: int, lexicon: Lexicon | None) -> Tensor:
    """The columns up to the last end token. A text without one ends with a whole word of the lexicon."""
    for row in (written != end).all(1).nonzero()[:, 0].tolist() if lexicon is not None else ():
        written[row, lexicon.whole(written[row].tolist()) :] = end  # type: ignore[union-attr]
    size = int((written != end).sum(1).max()) if len(written) else 0
    return written[:, : min(size + 1, written.shape[1])]


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
        self.lengths = torch.zeros(batch, dtype=torch.long)

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
