"""The choice of a token among many: the short cut over the likeliest tokens chooses what the sort of all chooses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ladle.autoencoder.choice import FEW, chosen_ids

VOCABULARY = 1000  # the short cut is for more than 512


def logits_of(rows: int, spread: float, seed: int = 0) -> Tensor:
    """The larger the spread, the fewer tokens hold most of the probability."""
    return spread * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def uniform_of(rows: int) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(1))


def nucleus(logits: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """In double precision, by a sort of all: where each token's part of [0, 1) begins and ends, [B, V] each. A token
    outside the nucleus has none."""
    probabilities, order = logits.double().softmax(-1).sort(-1, descending=True)
    kept = probabilities.masked_fill(probabilities.cumsum(-1) - probabilities >= top_p, 0.0)
    ends = (kept / kept.sum(-1, keepdim=True)).cumsum(-1)
    begins = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], dim=-1)
    places = order.argsort(-1)
    return begins.gather(-1, places), ends.gather(-1, places)


def check(logits: Tensor, uniform: Tensor, top_p: float, temperature: float) -> None:
    """Each chosen token's part of [0, 1) holds its number (up to rounding), and is not empty."""
    ids = chosen_ids(logits, uniform, top_p, temperature)[:, None]
    begins, ends = (x.gather(-1, ids)[:, 0] for x in nucleus(logits / temperature, top_p))
    assert (begins - 1e-5 <= uniform).all() and (uniform <= ends + 1e-5).all()
    assert (ends > begins).all()


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 8.0), st.floats(0.05, 1.0), st.floats(0.3, 2.0), st.integers(0, 1000))
def test_the_choice_among_many_tokens_is_the_nucleus(
    spread: float, top_p: float, temperature: float, seed: int
) -> None:
    """From peaked to flat: arXiv 1904.09751, whatever the way it is computed."""
    check(logits_of(50, spread, seed), uniform_of(50), top_p, temperature)


@pytest.mark.parametrize("how", ["enough", "not enough", "of some rows"])
def test_the_likeliest_tokens_alone_choose_as_all_do(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they hold `top_p` of the probability, where they do not, and where some rows do and others do not."""
    spreads = {"enough": (6.0, 5.0), "not enough": (0.3, 1.0), "of some rows": (6.0, 0.3)}[how]
    logits, uniform = torch.cat([logits_of(200, spread) for spread in spreads]), uniform_of(400)
    enough = logits.softmax(-1).topk(FEW[0]).values.sum(-1) >= 0.9
    assert int(enough.sum()) == {"enough": 400, "not enough": 0, "of some rows": 200}[how]
    check(logits, uniform, 0.9, 1.0)
    found = chosen_ids(logits, uniform, 0.9, 1.0)
    monkeypatch.setattr("ladle.autoencoder.choice.FEW", ())  # no short cut
    assert (chosen_ids(logits, uniform, 0.9, 1.0) != found).sum() <= 1  # (a number on the edge of two tokens)


def test_more_of_the_likeliest_tokens_choose_as_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in which the fewest are enough, rows that need more of them, and rows that need all."""
    spreads = (6.0, 2.5, 0.3)
    normal = torch.randn(100, 5000, generator=torch.Generator().manual_seed(2))
    logits = torch.cat([spread * normal for spread in spreads])
    uniform = uniform_of(300)
    held = [logits.softmax(-1).topk(few).values.sum(-1) >= 0.9 for few in FEW]
    assert [int(enough.sum()) for enough in held] == [100, 200]
    found = chosen_ids(logits, uniform, 0.9, 1.0)
    monkeypatch.setattr("ladle.autoencoder.choice.FEW", ())  # no short cut
    assert (chosen_ids(logits, uniform, 0.9, 1.0) != found).sum() <= 1


def test_rows_choose_by_themselves() -> None:
    """A row that needs the sort of all does not change the choice of the others, nor they its own."""
    logits, uniform = torch.cat([logits_of(5, 6.0), logits_of(5, 0.3, seed=1)]), uniform_of(10)
    together = chosen_ids(logits, uniform, 0.9, 1.0)
    alone = [int(chosen_ids(logits[i : i + 1], uniform[i : i + 1], 0.9, 1.0)) for i in range(10)]
    assert together.tolist() == alone


def test_the_likeliest_tokens_alone_are_only_looked_at_to_cut() -> None:
    """With `top_p` 1 every token can be drawn, the 1000th too."""
    logits = logits_of(1, 0.1).expand(5000, -1)
    ids = chosen_ids(logits, torch.linspace(0, 0.9999, 5000), 1.0, 1.0)
    assert len(ids.unique()) == VOCABULARY
    assert len(chosen_ids(logits, torch.linspace(0, 0.9999, 5000), 0.5, 1.0).unique()) > FEW[0]


def test_banned_tokens_are_not_chosen_by_the_short_cut() -> None:
    """They come with a logit of -inf, also where only a few others are left."""
    logits = logits_of(200, 1.0)
    logits[:, 5:] = -torch.inf
    for top_p in (0.9, 1.0):
        ids = chosen_ids(logits, torch.linspace(0, 0.99999, 200), top_p, 1.0)
        assert int(ids.max()) < 5
        assert len(ids.unique()) > 1
