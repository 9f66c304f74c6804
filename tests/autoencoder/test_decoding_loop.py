"""The decoding loop: what it writes is the decoder's own, in any batch and with any drafts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
from ladle.autoencoder.backbone import Backbone
from ladle.autoencoder.language import LanguageDecoder
from ladle.autoencoder.loop import Draft, Lookup, Stepper, TransformersStepper, write

VOCABULARY, START, END, SIZE, ROWS = 12, 1, 2, 24, 16
TOKENS: dict[str, Any] = {"start": START, "end": END, "max_tokens": SIZE}
DRAWN: dict[str, Any] = {"top_p": 0.95, "temperature": 1.3}


class Counting:
    """A decoder that notes the number of rows and of tokens of each of its passes."""

    def __init__(self, decoder: Stepper) -> None:
        self.decoder, self.ragged, self.passes = decoder, decoder.ragged, list[tuple[int, int]]()

    def begin(self, *given: Any) -> Any:
        return self.decoder.begin(*given)

    def step(self, ids: Tensor, state: Any) -> Tensor:
        self.passes.append((ids.shape[0], ids.shape[1]))
        return self.decoder.step(ids, state)


def memories(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Different memories [rows, 4, 32], some with masked vectors."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(rows, 4, generator=generator) < 0.7
    mask[:, 0] = True
    return 1.5 * torch.randn(rows, 4, 32, generator=generator), mask


def numbers(rows: int = ROWS, seed: int = 4) -> Tensor:
    return torch.rand(rows, SIZE, generator=torch.Generator().manual_seed(seed))


def texts(ids: Tensor) -> list[list[int]]:
    """Rows up to their end token, which is kept."""
    rows = ids.tolist()
    return [row[: row.index(END) + 1] if END in row else row for row in rows]


DECODER = tiny.tiny_decoder(VOCABULARY)
HOW: dict[str, dict[str, Any]] = {"greedy": {}, "drawn": {"uniform": numbers(), **DRAWN}}
EXPECTED = {name: texts(write(DECODER, *memories(), **TOKENS, **how)) for name, how in HOW.items()}


def test_the_texts_of_these_tests_end_at_different_places() -> None:
    """Else the other tests would show little."""
    for found in EXPECTED.values():
        assert len({len(text) for text in found}) > 3
        assert len({tuple(text) for text in found}) > 8
        assert any(text[-1] != END for text in found)  # it is cut


# ------------------------------------------------------------------------------------------------ what is written


@torch.no_grad()
def test_greedy_is_a_plain_loop_over_whole_passes() -> None:
    """The likeliest token after each text so far, worked out without a cache, and row by row."""
    memory, mask = memories()
    for number, expected in enumerate(EXPECTED["greedy"]):
        text = [START]
        while len(text) <= SIZE and text[-1] != END:
            logits = DECODER(torch.tensor([text]), memory[number : number + 1], mask[number : number + 1])
            text.append(int(logits[0, -1].argmax()))
        assert text[1:] == expected


def test_a_text_has_only_end_tokens_behind_its_end() -> None:
    """What is returned is as long as the longest text."""
    ids = write(DECODER, *memories(), **TOKENS, **HOW["drawn"])
    for row, text in zip(ids.tolist(), texts(ids), strict=True):
        assert row[len(text) :] == [END] * (ids.shape[1] - len(text))
    assert ids.shape[1] == max(map(len, texts(ids)))


@pytest.mark.parametrize("how", HOW)
def test_a_text_is_the_same_in_any_batch(how: str) -> None:
    """Alone, in other company, in another order: its own numbers decide. Finished rows leave the batch on the way."""
    memory, mask = memories()
    counting = Counting(DECODER)
    write(counting, memory, mask, **TOKENS, **HOW[how])
    assert len({rows for rows, _ in counting.passes}) > 2  # rows have left
    for rows in ([3], [0], [5, 2, 9], list(range(ROWS))[::-1]):
        own = {"uniform": HOW[how]["uniform"][rows], **DRAWN} if how == "drawn" else {}
        assert texts(write(DECODER, memory[rows], mask[rows], **TOKENS, **own)) == [EXPECTED[how][i] for i in rows]


def test_the_random_numbers_decide_token_by_token() -> None:
    """The same numbers, the same text; the j-th number changes nothing before the j-th token."""
    memory, mask = memories()
    uniform = numbers()
    assert texts(write(DECODER, memory, mask, **TOKENS, uniform=uniform.clone(), **DRAWN)) == EXPECTED["drawn"]
    uniform[:, 5:] = (uniform[:, 5:] + 0.5) % 1
    other = texts(write(DECODER, memory, mask, **TOKENS, uniform=uniform, **DRAWN))
    assert [text[:5] for text in other] == [text[:5] for text in EXPECTED["drawn"]]
    assert sum(len(text) > 5 and text != own for text, own in zip(other, EXPECTED["drawn"], strict=True)) > 5


@pytest.mark.parametrize("drafted", [False, True])
def test_banned_tokens_are_never_written_and_the_first_is_as_it_is_set(drafted: bool) -> None:
    """Padding is no word; BART begins its texts with a token of its own. A draft may not smuggle in either."""
    how: dict[str, Any] = {**TOKENS, **DRAWN, "uniform": numbers(seed=7)}
    free, banned = write(DECODER, *memories(), **how), torch.tensor([3, 5])
    drafts = [KINDS["right"](own, []) for own in texts(free)] if drafted else None
    assert torch.isin(free, banned).sum() > 5 and (free[:, 0] != 9).any()
    for first in (None, 9):
        ids = write(DECODER, *memories(), **how, first=first, banned=[3, 5], drafts=drafts)
        assert not torch.isin(ids, banned).any()
        assert first is None or (ids[:, 0] == first).all()


def test_the_families_of_transformers_write_what_their_own_greedy_search_writes(
    pretrained_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BART, T5 and mT5 by one loop: start tokens, caches that rows leave, and masks are those of `generate`."""
    from transformers.modeling_outputs import BaseModelOutput

    backbone = Backbone.from_pretrained(pretrained_folder, tiny.MAX_TOKENS)
    backbone.eval().model.generation_config.forced_eos_token_id = None  # (it ends a text that is cut anyway)
    with torch.no_grad():  # random models write one token over and over; larger weights make them read
        for name, weight in backbone.model.get_decoder().named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.normal_()
    given = backbone.tokenize([*tiny.SENTENCES[::4], "a cat.", "the sea"])
    with torch.no_grad():
        memory, mask = backbone.encode(**given), given["attention_mask"]
    ids = backbone.write(memory, mask)
    special = [token for token in backbone.tokenizer.all_special_ids if token != backbone.tokenizer.eos_token_id]
    theirs = backbone.model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=memory), attention_mask=mask.long(), num_beams=1,
        do_sample=False, max_new_tokens=tiny.MAX_TOKENS, suppress_tokens=special,
    )  # fmt: skip
    found = backbone.detokenize(ids)
    assert found == backbone.detokenize(theirs)
    assert len(set(found)) > 3
    monkeypatch.setattr("ladle.autoencoder.loop.SHRINK_BELOW", 1.0)  # every finished row leaves at once
    assert torch.equal(backbone.write(memory, mask), ids)
    wrong: list[Draft] = [lambda text: [5, 6, 7]] * len(memory)
    assert torch.equal(backbone.write(memory, mask, drafts=wrong), ids)  # it cannot use them, and stays right


# ------------------------------------------------------------------------------------------------ drafts

KINDS: dict[str, Callable[[list[int], list[int]], Draft]] = {
    "right": lambda own, junk: lambda text: own[len(text) :],
    "two at a time": lambda own, junk: lambda text: own[len(text) : len(text) + 2],
    "wrong": lambda own, junk: lambda text: [(token + 1) % VOCABULARY for token in own[len(text) : len(text) + 6]],
    "right, then wrong": lambda own, junk: lambda text: own[len(text) : len(text) + 3] + junk,
    "shifted": lambda own, junk: lambda text: own[len(text) + 1 : len(text) + 9],
    "random": lambda own, junk: lambda text: junk,
    "empty": lambda own, junk: lambda text: [],
    "now and then": lambda own, junk: lambda text: own[len(text) :] if len(text) % 3 == 0 else [],
    "longer than the text": lambda own, junk: lambda text: own[len(text) :] + 3 * junk + [END, 4] * SIZE,
    "looked up": lambda own, junk: Lookup([junk, own], START, size=5),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_drafts_of_one_kind_change_no_text(kind: str, how: str) -> None:
    """Greedy and drawn alike: a draft saves passes and decides nothing."""
    drafts = [KINDS[kind](own, [4, 2, 7, 7, 1]) for own in EXPECTED[how]]
    assert texts(write(DECODER, *memories(), **TOKENS, **HOW[how], drafts=drafts)) == EXPECTED[how]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(list(HOW)),
    st.lists(st.tuples(st.integers(0, ROWS - 1), st.sampled_from(list(KINDS))), min_size=1, max_size=6),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=2 * SIZE),
    st.integers(1, SIZE),
)
def test_drafts_of_all_kinds_together_change_no_text(
    how: str, rows: list[tuple[int, str]], junk: list[int], size: int
) -> None:
    """Rows advance by different numbers of tokens then, near the longest text too, and each remains its own."""
    chosen = [row for row, _ in rows]
    memory, mask = (x[chosen] for x in memories())
    own = {"uniform": HOW[how]["uniform"][chosen], **DRAWN} if how == "drawn" else {}
    drafts = [KINDS[kind](EXPECTED[how][row], junk) for row, kind in rows]
    found = texts(write(DECODER, memory, mask, **TOKENS | {"max_tokens": size}, **own, drafts=drafts))
    assert found == [EXPECTED[how][row][:size] for row in chosen]


@pytest.mark.parametrize("how", HOW)
def test_a_right_draft_saves_passes_and_a_wrong_one_costs_none(how: str) -> None:
    """What drafts are for. With eight right guesses each pass writes nine tokens."""
    passes = {}
    for kind in ("empty", "right", "wrong", "eight"):
        counting = Counting(DECODER)
        drafts = [
            (lambda text, own=own: own[len(text) :][:8]) if kind == "eight" else KINDS[kind](own, [])
            for own in EXPECTED[how]
        ]
        write(counting, *memories(), **TOKENS, **HOW[how], drafts=drafts)
        passes[kind] = len(counting.passes)
    longest = max(map(len, EXPECTED[how]))
    assert passes["empty"] == passes["wrong"] == longest
    assert passes["right"] <= 2
    assert passes["eight"] <= math.ceil(longest / 9) + 1


@torch.no_grad()
def test_drawn_texts_with_drafts_have_the_decoders_distribution() -> None:
    """Speculative sampling is exact: the shares of all possible texts of three tokens, over 6,000 draws with a draft
    that is often right, against the probabilities that the decoder gives them (chi-square)."""
    from scipy.stats import chisquare

    count, decoder = 6000, tiny.tiny_decoder(5, 3, seed=6)
    memory = torch.randn(1, 2, 32)
    exact: dict[tuple[int, ...], float] = {}
    waiting: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    while waiting:
        text, share = waiting.pop()
        if len(text) == 3 or END in text:
            exact[text] = share
            continue
        log_p = decoder(torch.tensor([[START, *text]]), memory)[0, -1].log_softmax(-1)
        waiting += [((*text, token), share * float(p)) for token, p in enumerate(log_p.exp())]
    likeliest = list(max(exact, key=lambda text: exact[text]))
    drafts: list[Draft] = [lambda text: likeliest[len(text) :]] * count
    counting = Counting(decoder)
    uniform = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    tokens = TOKENS | {"max_tokens": 3}
    ids = write(counting, memory.expand(count, -1, -1), None, **tokens, uniform=uniform, drafts=drafts)
    found = [tuple(text) for text in texts(ids)]
    assert counting.passes[1][0] < 0.99 * count  # some drafts were right to the end
    rare = {text for text, share in exact.items() if share * count < 5}
    usual = [text for text in exact if text not in rare]
    seen = [found.count(text) for text in usual] + [sum(text in rare for text in found)]
    expected = [exact[text] * count for text in usual] + [count * sum(exact[text] for text in rare)]
    expected = [share * count / sum(expected) for share in expected]  # (rounding)
    assert len(usual) > 20
    assert chisquare(seen, expected).pvalue > 0.01


# ------------------------------------------------------------------------------------------------ looked up


def test_a_lookup_continues_the_longest_match() -> None:
    """Three tokens in a row say more than one; the match of one is nearer, and is not taken."""
    lookup = Lookup([[3, 7, 9, 4, 5, 6, 7, 8, 3]], START, size=2)
    assert lookup([5, 6, 7]) == [8, 3]
    assert Lookup([[3, 7, 9, 4, 5, 6, 7, 8, 3]], START, size=2)([0, 0, 7]) == [9, 4]  # only the last token is known
    assert lookup([0]) == []


def test_a_lookup_begins_at_the_beginnings_and_stops_at_the_ends() -> None:
    """An empty text is continued as a sequence begins; no guess runs from one sequence into the next."""
    lookup = Lookup([[5, 6, END], [7, 8, END]], START, size=8)
    assert lookup([]) == [5, 6, END]
    assert lookup([7]) == [8, END]
    assert lookup([5, 6, END]) == []
    assert Lookup([[5, 6, 7, 8, 9]], START, size=3)([]) == [5, 6, 7]
    assert Lookup([], START)([4]) == []


def test_a_lookup_takes_the_nearest_of_equal_matches() -> None:
    """A word that occurs again and again ("the") is continued as it is at this place of the draft."""
    draft = [4, 5, 4, 6, 4, 7, 4, 8]
    lookup = Lookup([draft], START, longest=1, size=1)
    assert [lookup([0] * place + [4]) for place in (0, 2, 4, 6)] == [[5], [6], [7], [8]]


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_a_lookup_follows_a_shifted_draft(shift: int) -> None:
    """Words put in front of a draft, or left out, are passed once; then its repeated words are told apart again."""
    draft = [4, 5, 4, 6, 9, 3, 4, 7, 4, 8, 4, 10, 11, END]
    longer, shorter = [0] * shift + draft, draft[shift:]
    for text in (longer, shorter):
        lookup = Lookup([draft], START, longest=1, size=1)
        wrong = sum(lookup(text[:place]) != text[place : place + 1] for place in range(shift or 1, len(text)))
        assert wrong <= (0 if shift == 0 else 2)


def test_a_stepper_of_transformers_says_that_its_rows_go_together() -> None:
    """`ragged` decides whether drafts can be used."""
    assert LanguageDecoder.ragged and not TransformersStepper.ragged
