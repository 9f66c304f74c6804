"""How may a text go on at a blank? Continuations that a decoder draws, with the probability of every token."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ladle.autoencoder.choice import chosen_ids
from ladle.autoencoder.lexicon import PART, ROOT, Lexicon
from ladle.autoencoder.loop import SHRINK_BELOW, Stepper
from ladle.editing.vocabulary import Vocabulary


@dataclass(frozen=True)
class Blank:
    """What a continuation must keep to.

    context: the tokens before it. size: tokens that it may have. space: whether it begins with a space (None: as the
    decoder likes). is_open: whether nothing follows the blank, so that the end token ends it. after: the token that
    follows it. lexicon: the words that it may have; None: any.
    """

    context: list[int]
    size: int
    space: bool | None
    is_open: bool
    after: int
    lexicon: Lexicon | None = None


@dataclass
class Continuation:
    """Tokens that may stand in a blank. log_probs: of each of them. log_after: after each of them, the log-probability
    of the token that follows the blank. nodes: where the lexicon is after each of them."""

    blank: Blank
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    log_after: list[float] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    has_word: bool = False
    node: int = ROOT

    def __post_init__(self) -> None:
        if self.blank.lexicon is not None:
            self.node = reduce(self.blank.lexicon.next_node, self.blank.context, ROOT)

    def add(self, token: int, log_prob: float, vocabulary: Vocabulary) -> None:
        """Go on by a token."""
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        self.has_word = self.has_word or bool(vocabulary.wordy[token])
        if self.blank.lexicon is not None:
            self.node = self.blank.lexicon.next_node(self.node, token)
        self.nodes.append(self.node)

    def is_finished(self, vocabulary: Vocabulary) -> bool:
        """Whether it has its end token, or all tokens that it may have."""
        return len(self.tokens) == self.blank.size or self.tokens[-1:] == [vocabulary.end]

    def is_whole(self, size: int) -> bool:
        """Whether the first `size` tokens end with a whole word."""
        return self.blank.lexicon is None or self.blank.lexicon.kinds[self.nodes[size - 1]] != PART


def draw_continuations(
    decoder: Stepper,
    vocabulary: Vocabulary,
    state: Any,
    logits: Tensor,
    blanks: Sequence[Blank],
    uniform: Tensor,
    *,
    temperature: float,
    top_p: float,
) -> list[list[Continuation]]:
    """Several continuations of every text.

    Args:
        state: of the decoder after the contexts of the B blanks. The rows of this one are used up.
        logits: [B, V], of the tokens that follow the contexts.
        uniform: [B, N, longest size] in [0, 1), for N continuations of each text, which `spread` makes differ.
        temperature, top_p: as in `chosen_ids`. 0: the N likeliest first tokens, each with its likeliest continuation.

    Returns [text][continuation].
    """
    count, device = uniform.shape[1], logits.device
    rows = torch.arange(len(blanks), device=device).repeat_interleave(count)
    state.keep(rows)
    logits = logits[rows]
    numbers = spread(uniform).flatten(0, 1)
    every = [Continuation(blank) for blank in blanks for _ in range(count)]
    left = [*range(len(every))]  # those in the state, in the order of its rows
    place = 0
    while True:
        own = [every[number] for number in left]
        log_probs = logits.log_softmax(-1)
        masked = logits.masked_fill(~allowed(vocabulary, own).to(device), -torch.inf)
        if temperature == 0 and place == 0:
            ids = _likeliest(masked, count)
        else:
            ids = chosen_ids(masked, numbers[left, place].to(device), top_p, temperature)
        values = log_probs.gather(1, ids[:, None])[:, 0].tolist()
        for one, token, value in zip(own, ids.tolist(), values, strict=True):
            if not one.is_finished(vocabulary):
                one.add(token, value, vocabulary)
        logits = decoder.step(ids[:, None], state)[:, -1].float()
        after = torch.tensor([one.blank.after for one in own], device=device)
        follows = logits.log_softmax(-1).gather(1, after[:, None])[:, 0].tolist()
        for one, value in zip(own, follows, strict=True):
            if len(one.log_after) < len(one.tokens):
                one.log_after.append(value)
        place += 1
        alive = [i for i, one in enumerate(own) if not one.is_finished(vocabulary)]
        if not alive:
            return [every[start : start + count] for start in range(0, len(every), count)]
        if len(alive) < SHRINK_BELOW * len(own):
            kept = torch.tensor(alive, dtype=torch.long, device=device)
            state.keep(kept)
            logits, left = logits[kept], [left[i] for i in alive]
        elif decoder.ragged:  # a finished one that stays must not leave the decoder's places
            state.lengths = [length if i in {*alive} else 1 for i, length in enumerate(state.lengths)]


def spread(uniform: Tensor) -> Tensor:
    """Uniform numbers [B, N, K] -> uniform numbers of which, at each of the K places, one is in each Nth part of [0, 1)
    (Latin hypercube sampling, McKay et al. 1979). So N continuations miss a likely token less often."""
    count = uniform.shape[1]
    part = uniform.argsort(1).argsort(1)
    return (part + uniform.mul(997).frac()) / count  # (digits that say nothing of the order)


def allowed(vocabulary: Vocabulary, own: Sequence[Continuation]) -> Tensor:
    """Which tokens may come next, bool [b, V]. Of the rules of a row, one that would leave no token is not kept."""
    rules = torch.ones(len(own), len(vocabulary.wordy), dtype=torch.bool)

    def keep_to(rule: Tensor, rows: Sequence[int]) -> None:
        both = rules[rows] & rule
        rules[rows] = both.where(both.any(1, keepdim=True), rules[rows])

    rules &= ~vocabulary.banned
    no_end = [i for i, one in enumerate(own) if not one.blank.is_open or not one.has_word]
    rules[no_end, vocabulary.end] = False
    for space in (True, False):
        first = [i for i, one in enumerate(own) if not one.tokens and one.blank.space is space]
        keep_to(vocabulary.begins if space else ~vocabulary.begins, first)
    by_lexicon: dict[int, list[int]] = {}
    for i, one in enumerate(own):
        if one.blank.lexicon is not None:
            by_lexicon.setdefault(id(one.blank.lexicon), []).append(i)
    for rows in by_lexicon.values():
        lexicon = own[rows[0]].blank.lexicon
        assert lexicon is not None
        size = min(rules.shape[1], len(lexicon.no_letters))
        rule = torch.zeros(len(rows), rules.shape[1], dtype=torch.bool)
        rule[:, :size] = ~lexicon.forbidden([own[i].node for i in rows])[:, :size]
        keep_to(rule, rows)
    return rules


def _likeliest(masked: Tensor, count: int) -> Tensor:
    """masked logits [B * count, V], equal for the `count` rows of a text -> ids: each row another of the likeliest."""
    best = masked[::count].topk(min(count, masked.shape[1]), dim=-1)
    ids = best.indices.where(best.values > -torch.inf, best.indices[:, :1])
    return ids[:, torch.arange(count, device=ids.device) % ids.shape[1]].flatten()
