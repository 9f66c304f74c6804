"""Words for the blanks of a template, from a decoder that writes from left to right.

What follows a blank is known, and the decoder has not read it yet. By Bayes' rule

    p(blank | before, after) ~ p(blank | before) p(after | before, blank)

So the decoder draws several continuations, from p(blank | before). Each of them, cut at each of its tokens, is a fill.
A fill is drawn with its weight p(after | before, blank), which the decoder works out for many fills in one pass
(sampling importance resampling, Rubin 1988). Draws and weights together have the right distribution, so neither short
nor long fills are favoured. What is given is never written by the decoder: it is put together with the fills as text.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ladle.autoencoder.autoencoder import Memory
from ladle.autoencoder.backbone import Backbone
from ladle.autoencoder.lexicon import Lexicon
from ladle.autoencoder.loop import Stepper, stepper_of
from ladle.editing.continuations import Blank, Continuation, allowed, draw_continuations
from ladle.editing.template import BREAK, LEAST, Template
from ladle.editing.vocabulary import Vocabulary
from ladle.seeding import SampleNoise

DRAWS = 8  # continuations of a text at each blank
BLANK_TOKENS, SENTENCE_TOKENS = 8, 24  # of a continuation at most, in a sentence and between two sentences
TOKEN_LOG_PROB = -0.3  # a fill has so much for each token: without it more words stand in blanks than people leave out
REPEATED_LOG_PROB = -2.0  # and so much for each long word that the text has already: it likes to say what it was given
LONG_WORD = regex.compile(r"\p{L}{4,}")
SHARPNESS = 2  # fills are drawn at the temperature over this
WEIGHED = 16  # fills of a text at each blank whose weight is worked out: those before which the next token fits best
LOGITS_AT_ONCE = 2**25  # of a pass that works out weights: 128 MiB


@dataclass
class Draft:
    """A text on its way: its template, its own random stream, the words it may have (None: any) and its fills."""

    template: Template
    noise: SampleNoise
    lexicon: Lexicon | None = None
    fills: list[str] = field(default_factory=list)

    @property
    def before(self) -> str:
        """The text up to the next blank."""
        return self.template.before(self.fills)

    @property
    def rest(self) -> str:
        """What is given between the next blank and the one after it, or the end."""
        return self.template.pieces[len(self.fills) + 1]

    @property
    def blanks_left(self) -> int:
        """Blanks without a fill."""
        return self.template.num_blanks - len(self.fills)

    @property
    def is_sentence(self) -> bool:
        """Whether the next blank stands between two sentences."""
        return self.template.is_between_sentences(self.fills)

    @property
    def is_open(self) -> bool:
        """Whether nothing follows the next blank, so that the decoder ends the text."""
        return self.blanks_left == 1 and not self.rest


@torch.no_grad()
def fill_blanks(
    backbone: Backbone, drafts: Sequence[Draft], memory: Memory, *, temperature: float, top_p: float
) -> None:
    """Fill every blank of the drafts, from the left to the right. A draft's fills depend on its own memory and stream.

    Args:
        memory: what the decoder reads, [B, N, W] with its mask [B, N], a row for each draft.
        temperature, top_p: as in `chosen_ids`, of the words. Temperature 0 takes the likeliest words and fills.
    """
    writer = _Writer(backbone, temperature, top_p)
    while rows := [row for row, draft in enumerate(drafts) if draft.blanks_left]:
        for group in writer.groups(rows, drafts):
            chosen = torch.tensor(group, device=memory[0].device)
            writer.fill_next([drafts[row] for row in group], (memory[0][chosen], memory[1][chosen]))


@dataclass
class _Fill:
    """A text for a blank. score: how likely what follows is after it; times: how many draws gave it."""

    draft: int
    text: str
    size: int
    score: float
    repeated: int
    times: int = 0

    @property
    def log_weight(self) -> float:
        """It counts once for each draw that gave it."""
        prior = TOKEN_LOG_PROB * self.size + REPEATED_LOG_PROB * self.repeated
        return self.score + math.log(self.times) + prior


class _Writer:
    """A decoder at the blanks of several drafts."""

    def __init__(self, backbone: Backbone, temperature: float, top_p: float):
        self.backbone, self.vocabulary = backbone, Vocabulary(backbone)
        self.temperature, self.top_p = temperature, top_p
        self.decoder: Stepper = stepper_of(backbone.model)
        self.start = int(backbone.model.generation_config.decoder_start_token_id)

    def groups(self, rows: list[int], drafts: Sequence[Draft]) -> Iterator[list[int]]:
        """Rows that can be continued together: those whose blank ends the text apart from the others; and only rows of
        one length, if the decoder needs that."""
        contexts = self.vocabulary.contexts([drafts[row].before for row in rows])
        keys = [
            (drafts[row].is_open, 0 if self.decoder.ragged else len(ids))
            for row, ids in zip(rows, contexts, strict=True)
        ]
        for key in sorted(set(keys)):
            yield [row for row, own in zip(rows, keys, strict=True) if own == key]

    def fill_next(self, drafts: list[Draft], memory: Memory) -> None:
        """Fill the next blank of each draft. All of them are open, or none is."""
        blanks = self._blanks(drafts)
        is_open = drafts[0].is_open
        state, logits = self._begin(blanks, memory)
        size = (1, self.backbone.max_tokens) if is_open else (DRAWS, SENTENCE_TOKENS)
        uniform, pick = (torch.cat([draft.noise.uniform(shape) for draft in drafts]) for shape in (size, ()))
        found = draw_continuations(
            self.decoder, self.vocabulary, copy.copy(state), logits, blanks, uniform,
            temperature=self.temperature, top_p=self.top_p,
        )  # fmt: skip
        if is_open:
            fills = [self._longest(draft, own[0]) for draft, own in zip(drafts, found, strict=True)]
        else:
            fills = self._choose(state, memory, drafts, blanks, found, pick.tolist())
        for row, (draft, fill) in enumerate(zip(drafts, fills, strict=True)):
            # (Where no continuation has a word in the right place.)
            draft.fills.append(fill or self._single(draft, blanks[row], logits[row]))

    def _blanks(self, drafts: list[Draft]) -> list[Blank]:
        contexts = self.vocabulary.contexts([draft.before for draft in drafts])
        blanks = []
        for draft, ids in zip(drafts, contexts, strict=True):
            rest = draft.template.pieces[len(draft.fills) + 1 :]
            after = sum(len(own) for own in self.vocabulary.contexts(rest)) + LEAST * (draft.blanks_left - 1)
            room = self.backbone.max_tokens - 1 - len(ids) - after
            most = SENTENCE_TOKENS if draft.is_sentence else BLANK_TOKENS
            size = max(1, room if draft.is_open else min(room, most))
            # (Only a text whose fills were longer in their places than alone has too many tokens before a blank.)
            ids = ids[max(0, len(ids) + size - self.backbone.max_tokens + 1) :]
            follows = [*self.vocabulary.after(draft.rest), self.vocabulary.end][0]
            space = self.vocabulary.space_wanted(draft.before)
            blanks.append(Blank(ids, size, space, draft.is_open, follows, draft.lexicon))
        return blanks

    def _begin(self, blanks: list[Blank], memory: Memory) -> tuple[Any, Tensor]:
        """The decoder's state after the contexts, and the logits [B, V] of the tokens that follow them."""
        device = memory[0].device
        state = self.decoder.begin(*memory, len(blanks), self.backbone.max_tokens)
        lengths = [1 + len(blank.context) for blank in blanks]
        ids = pad_sequence([torch.tensor([self.start, *blank.context]) for blank in blanks], batch_first=True)
        logits = self.decoder.step(ids.to(device), state)
        state.lengths = [*lengths]
        return state, logits[torch.arange(len(blanks)), torch.tensor(lengths) - 1].float()

    def _longest(self, draft: Draft, own: Continuation) -> str:
        """The whole of a continuation to the end of the text, without a part of a word where it was cut."""
        size = len(own.tokens)
        while size and not (own.tokens[size - 1] == self.vocabulary.end or own.is_whole(size)):
            size -= 1
        return self.vocabulary.fills([own.tokens[:size]], draft.before)[0]

    def _single(self, draft: Draft, blank: Blank, logits: Tensor) -> str:
        """The likeliest token that is a word, or a part of one, in its place."""
        rules = allowed(self.vocabulary, [Continuation(blank)])[0]
        for rule in (rules & self.vocabulary.wordy, self.vocabulary.wordy):
            order = logits.masked_fill(~rule.to(logits.device), -torch.inf).topk(min(64, int(rule.sum()))).indices
            texts = self.vocabulary.fills([[token] for token in order.tolist()], draft.before)
            if found := next((text for text in texts if text), ""):
                return found
        return "a"  # (no tokenizer is known that comes here: a letter is a token of all)

    def _choose(
        self,
        state: Any,
        memory: Memory,
        drafts: list[Draft],
        blanks: list[Blank],
        found: list[list[Continuation]],
        pick: list[float],
    ) -> list[str]:
        """A fill for each draft, drawn by its weight; "" where there is none."""
        fills = [
            fill
            for row, (draft, own) in enumerate(zip(drafts, found, strict=True))
            for fill in self._candidates(row, draft, own)
        ]
        self._weigh(state, memory, drafts, blanks, fills)
        chosen = []
        for row, number in enumerate(pick):
            own = [fill for fill in fills if fill.draft == row]
            chosen.append(
                own[_drawn([fill.log_weight for fill in own], number, self.temperature / SHARPNESS)].text if own else ""
            )
        return chosen

    def _candidates(self, row: int, draft: Draft, continuations: list[Continuation]) -> list[_Fill]:
        """The fills that the continuations hold, and of them those before which the next token fits best."""
        glued = bool(draft.rest) and draft.rest[0].isalpha()  # (what is given ends the word)
        found: dict[str, _Fill] = {}
        given = LONG_WORD.findall(f"{draft.before} {' '.join(draft.template.pieces)}".casefold())
        one_word = draft.rest.isspace()  # (nothing but spaces follows: each blank is a word)
        for one in continuations:
            parts = [one.tokens[:size] for size in range(1, len(one.tokens) + 1) if glued or one.is_whole(size)]
            texts = self.vocabulary.fills(parts, draft.before) if parts else []
            seen = set()
            for part, text in zip(parts, texts, strict=True):
                if text and text not in seen and not (one_word and len(text.split()) > 1):
                    seen.add(text)  # (the same with a space behind it is the same fill)
                    log_after = one.log_after[len(part) - 1]
                    known = found.setdefault(text, _Fill(row, text, len(part), log_after, repeated(text, given)))
                    known.times += 1
        fills = sorted(found.values(), key=lambda fill: -fill.log_weight)
        if not draft.is_sentence:  # a blank in a sentence does not end it, if that can be
            fills = [fill for fill in fills if not BREAK.search(fill.text)] or fills
        return fills[:WEIGHED]

    def _weigh(self, state: Any, memory: Memory, drafts: list[Draft], blanks: list[Blank], fills: list[_Fill]) -> None:
        """Give each fill the log-probability of all that is given up to the next blank, or to the end of the text."""
        befores = [drafts[fill.draft].before + fill.text for fill in fills]
        parts, wholes = (
            self.vocabulary.contexts(texts)
            for texts in (befores, [b + drafts[f.draft].rest for b, f in zip(befores, fills, strict=True)])
        )
        starts = []
        for part, whole, fill in zip(parts, wholes, fills, strict=True):
            if drafts[fill.draft].blanks_left == 1:
                whole.append(self.vocabulary.end)
            starts.append(_common(part, whole))
            del whole[self.backbone.max_tokens :]
        size = max(map(len, wholes), default=1)
        step = max(1, LOGITS_AT_ONCE // (size * len(self.vocabulary.wordy)))
        for begin in range(0, len(fills), step):
            batch = slice(begin, begin + step)
            rows = [fill.draft for fill in fills[batch]]
            values = self._log_probs(state, memory, [blanks[row].context for row in rows], rows, wholes[batch])
            for fill, start, own in zip(fills[batch], starts[batch], values, strict=True):
                fill.score = sum(own[start:])

    def _log_probs(
        self, state: Any, memory: Memory, contexts: list[list[int]], rows: list[int], texts: list[list[int]]
    ) -> list[list[float]]:
        """The log-probability of each token of texts that begin with the contexts, for these rows of the state. (Tokens
        of the context that did not change have 0, for they are not worked out again.)"""
        device = memory[0].device
        index = torch.tensor(rows, device=device)
        if not self.decoder.ragged:
            ids = pad_sequence([torch.tensor(own) for own in texts], batch_first=True).to(device)
            logits = self.backbone.decode_logits(ids, memory[0][index], memory[1][index]).float()
            values = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0].tolist()
            return [own[: len(text)] for own, text in zip(values, texts, strict=True)]
        known = [min(_common(context, text), len(text) - 1) for context, text in zip(contexts, texts, strict=True)]
        longest = max(len(text) - size for size, text in zip(known, texts, strict=True))
        known = [min(size, self.backbone.max_tokens - longest) for size in known]  # (or padding leaves its places)
        state = copy.copy(state)
        state.keep(index)
        state.lengths = [*known]
        given = [torch.tensor([self.start, *text][size:-1]) for size, text in zip(known, texts, strict=True)]
        targets = [torch.tensor(text[size:]) for size, text in zip(known, texts, strict=True)]
        logits = self.decoder.step(pad_sequence(given, batch_first=True).to(device), state).float()
        wanted = pad_sequence(targets, batch_first=True).to(device)
        values = (logits.gather(-1, wanted[..., None])[..., 0] - logits.logsumexp(-1)).tolist()
        return [[0.0] * size + own[: len(text) - size] for size, text, own in zip(known, texts, values, strict=True)]


def repeated(fill: str, given: Sequence[str] = ()) -> int:
    """How many long words of a fill are among the given ones (in lower case), or come again in it."""
    words = LONG_WORD.findall(fill.casefold())
    return len(words) - len({*words}.difference(given))


def _drawn(log_weights: list[float], number: float, temperature: float) -> int:
    """A place, drawn by its weight with a number in [0, 1); temperature 0: the place of the largest weight."""
    best = max(range(len(log_weights)), key=log_weights.__getitem__)
    if temperature == 0:
        return best
    shares = [math.exp((value - log_weights[best]) / temperature) for value in log_weights]
    left = number * sum(shares)
    for place, share in enumerate(shares):
        left -= share
        if left < 0:
            return place
    return best


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
