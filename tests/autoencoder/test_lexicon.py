"""The words that a model may write: whatever the decoder's scores, a text holds known words only."""

import random
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from ladle.autoencoder.lexicon import Lexicon, learnt_words, words_of
from ladle.autoencoder.loop import write

WORDS = learnt_words([*tiny.SENTENCES, *["The End"] * 20], tiny.SENTENCES) or frozenset()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tiny_tokenizer()


@pytest.fixture(scope="module")
def lexicon(tokenizer: Any) -> Lexicon:
    return Lexicon(WORDS, tokenizer)


def test_words_are_cut_whole_whatever_the_tokenizer_did_before(lexicon: Lexicon) -> None:
    """It keeps the padding and the length of its last call: words would end with padding, and no text could go on."""
    tokenizer = tiny.tiny_tokenizer()
    tokenizer(["a", "the old cat"], padding=True, truncation=True, max_length=2)
    assert Lexicon(WORDS, tokenizer).kinds == lexicon.kinds


class Wild:
    """A decoder whose scores are random: it would write anything."""

    ragged = True

    def __init__(self, size: int, seed: int):
        self.size, self.generator = size, torch.Generator().manual_seed(seed)

    def begin(self, memory: Any, memory_mask: Any, batch: int, max_tokens: int) -> Any:
        class State:
            lengths = torch.zeros(batch, dtype=torch.long)

            def keep(self, rows: torch.Tensor) -> None:
                pass

        return State()

    def step(self, ids: torch.Tensor, state: Any) -> torch.Tensor:
        return 4 * torch.randn(*ids.shape, self.size, generator=self.generator)


def wild_texts(tokenizer: Any, lexicon: Lexicon | None, seed: int, drafts: Any = None) -> list[str]:
    size, end = len(tokenizer), tokenizer.eos_token_id
    uniform = torch.rand(6, 30, generator=torch.Generator().manual_seed(seed))
    banned = [token for token in tokenizer.all_special_ids if token != end]
    ids = write(
        Wild(size, seed), torch.zeros(6, 1, 8), None, start=1, end=end, max_tokens=30, uniform=uniform, banned=banned,
        lexicon=lexicon, drafts=drafts,
    )  # fmt: skip
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_texts_of_the_data_are_allowed(tokenizer: Any, lexicon: Lexicon) -> None:
    """Nothing that the model has learnt may be refused, nor any other sentence of these words."""
    rng = random.Random(0)
    shuffled = [" ".join(rng.sample(sorted(WORDS), 5)) + "! 42 (ok) It's a well-known" for _ in range(50)]
    extended = lexicon.extended(words_of(shuffled))
    for text in [*tiny.SENTENCES, *shuffled, "The Cat, 'the' cat-the"]:
        node = 0
        for token in tokenizer(text)["input_ids"]:
            assert not extended.forbidden([node])[0, token], (text, token)
            node = extended.next_node(node, token)


@given(seed=st.integers(0, 10_000))
def test_a_decoder_that_would_write_anything_writes_known_words(tokenizer: Any, lexicon: Lexicon, seed: int) -> None:
    """The promise to a reader: no word that is none, also where a text is cut at its longest."""
    for text in wild_texts(tokenizer, lexicon, seed):
        # (The end of a contraction, as in "'s", is a token of its own.)
        words = re.findall(r"[^\W\d_]+", re.sub(r"'(s|t|re|ve|m|ll|d)(?![^\W\d_])", " ", text))
        assert set(words) <= WORDS, text


def test_without_a_lexicon_it_writes_what_is_no_word(tokenizer: Any) -> None:
    """Else the test above could not fail."""
    assert not words_of(wild_texts(tokenizer, None, 0)).keys() <= WORDS


def test_guesses_of_a_draft_must_be_known_words_too(tokenizer: Any, lexicon: Lexicon) -> None:
    """A draft is followed where the decoder would write the same, and the words after it are looked at from there."""
    rng = random.Random(1)
    drafts = [lambda text: [rng.randrange(4, len(tokenizer)) for _ in range(4)] for _ in range(6)]
    for seed in range(20):
        for text in wild_texts(tokenizer, lexicon, seed, drafts):
            assert words_of([re.sub(r"'(s|t|re|ve|m|ll|d)\b", " ", text)]).keys() <= WORDS, text


@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("drafted", [True, False])
def test_the_logits_of_tokens_that_no_word_has_are_not_needed(
    tokenizer: Any, lexicon: Lexicon, drawn: bool, drafted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that works out only those that may be written writes the same."""
    decoder, end = tiny.tiny_decoder(len(tokenizer)), tokenizer.eos_token_id
    uniform = torch.rand(12, 24, generator=torch.Generator().manual_seed(0)) if drawn else None
    assert 50 < len(lexicon.tokens) < len(tokenizer)
    memory = 1.5 * torch.randn(12, 3, 32, generator=torch.Generator().manual_seed(1))
    banned = [token for token in tokenizer.all_special_ids if token != end]
    drafts = [lambda text: [*range(60, 64)]] * 12 if drafted else None
    found = []
    for share in (0.0, 2.0):
        monkeypatch.setattr("ladle.autoencoder.loop.NARROW", share)
        found.append(write(
            decoder, memory, None, start=1, end=end, max_tokens=24, uniform=uniform, banned=banned, lexicon=lexicon,
            drafts=drafts,
        ))  # fmt: skip
    assert torch.equal(*found)
    assert len(found[0].unique()) > 10


def test_words_of_a_source_may_be_written(lexicon: Lexicon, tokenizer: Any) -> None:
    """A name that the training has never seen must reach the text; the model's own lexicon stays as it was."""
    more = lexicon.extended(["Zizzi"])
    ids = tokenizer("Zizzi")["input_ids"][:-1]
    for given_words, wanted in ((more, True), (lexicon, False)):
        node, allowed = 0, []
        for token in ids:
            allowed.append(not given_words.forbidden([node])[0, token])
            node = given_words.next_node(node, token)
        assert all(allowed) == wanted
    assert lexicon.extended(["cat"]) is lexicon


def test_signs_outside_the_alphabet_are_not_written(tokenizer: Any) -> None:
    """They would vanish from the text, and join what stands around them."""
    small = Lexicon(WORDS, tokenizer, frozenset("abcdefghijklmnopqrstuvwxyz. "))
    allowed = ~small.forbidden([0])[0]
    assert allowed[tokenizer.eos_token_id]  # or no text would end
    texts = [tokenizer.decode([token]) for token in allowed.nonzero()[:, 0].tolist()]
    special = set(tokenizer.all_special_tokens)
    assert texts and all(set(text) <= set("abcdefghijklmnopqrstuvwxyz. ") for text in texts if text not in special)


@pytest.mark.parametrize(
    ("texts", "held_out", "there"),
    [(["a cat sat"] * 3, ["the cat sat"], True), (["a cat"], ["one dog ran"], False), (["a cat"], [], False)],
)
def test_a_language_without_spaces_has_no_lexicon(texts: list[str], held_out: list[str], there: bool) -> None:
    """A sentence in Chinese is one run of letters: only sentences of the training would be allowed."""
    assert (learnt_words(texts, held_out) is not None) == there


def test_a_word_may_begin_with_a_capital_where_texts_hold_capitals() -> None:
    """A sentence may begin with any word; but texts in lower case stay in lower case, whatever the start knows."""
    assert learnt_words(["The cat sat. The dog ran."], ["The cat"], ["Rome"]) == {
        *("The", "cat", "sat", "dog", "ran", "Rome", "Cat", "Sat", "Dog", "Ran"),
    }
    assert learnt_words(["the cat sat"], ["the cat"], ["Rome", "owl"]) == {"the", "cat", "sat", "owl"}


def test_a_lexicon_does_not_depend_on_what_its_tokenizer_did_before() -> None:
    """A call that pads leaves that in the tokenizer: the pieces of words had padding then, and no word had an end."""
    fresh, used = tiny.tiny_tokenizer(), tiny.tiny_tokenizer()
    used(["the old cat sat on a mat.", "no."], padding=True, truncation=True, max_length=2)
    words = ["cat", "slept", "the"]
    assert Lexicon(words, used).children == Lexicon(words, fresh).children
