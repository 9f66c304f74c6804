"""Latents and source states of a whole data set in memory: each row its own, in half precision."""

import pytest
import torch

import memorised
import tiny
from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.encoding import fit_normaliser, store_latents, store_texts
from ladle.conditioning.config import ConditionConfig, SourceConfig
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.data.stores import VectorStore, length_batches
from ladle.errors import UserError


def test_rows_are_gathered_in_any_order_with_their_mask() -> None:
    """By hand: three sequences packed end to end, the last row among them."""
    store = VectorStore(torch.arange(12.0).view(6, 2).half(), torch.tensor([1, 3, 2]))
    values, mask = store.gather(torch.tensor([2, 0, 2]))
    assert len(store) == 3
    assert mask.tolist() == [[True, True], [True, False], [True, True]]
    assert values.tolist() == [[[8, 9], [10, 11]], [[0, 1], [0, 0]], [[8, 9], [10, 11]]]
    assert values.dtype == torch.float32
    assert store.gather(torch.tensor([1]))[0].tolist() == [[[2, 3], [4, 5], [6, 7]]]


def test_the_longest_texts_come_first() -> None:
    """Batches in this order hold little padding."""
    assert list(length_batches(["aa", "a", "aaaa", "aaa"], 3)) == [[2, 3, 0], [1]]
    for wrong in (0, -1):
        with pytest.raises(UserError, match="it must be at least 1"):
            list(length_batches(["aa"], wrong))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_each_row_has_its_own_latents(autoencoder: TextAutoencoder, batch_size: int) -> None:
    """In the rows' order, as encoding the text alone gives them, up to half precision."""
    texts = memorised.EIGHT

    def encode(tokens: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        latents = autoencoder.encode(**tokens)
        return latents.values, latents.mask

    store = store_texts(autoencoder, texts, encode, batch_size)
    for row, text in enumerate(texts):
        values, mask = store.gather(torch.tensor([row]))
        assert mask.all()
        torch.testing.assert_close(values, tiny.latents(autoencoder, [text]).values, atol=5e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", ["aligned", "perceiver"])
def test_after_fitting_the_latents_of_the_texts_have_mean_0_and_variance_1(kind: str) -> None:
    """What the diffusion stage trains on, each channel by itself."""
    autoencoder = tiny.tiny_autoencoder(kind)
    fit_normaliser(autoencoder, tiny.SENTENCES)
    z0 = store_latents(autoencoder, tiny.SENTENCES).vectors.float()
    torch.testing.assert_close(z0.mean(0), torch.zeros(16), atol=5e-3, rtol=0)
    torch.testing.assert_close(z0.var(0), torch.ones(16), atol=2e-2, rtol=0)


def test_the_normaliser_may_be_fitted_on_a_part_of_many_texts() -> None:
    """Random ones, the same at every call: a resumed run has to have the same latents."""
    first, second, whole = (tiny.tiny_autoencoder() for _ in range(3))
    fit_normaliser(first, tiny.SENTENCES, max_rows=20)
    fit_normaliser(second, tiny.SENTENCES, max_rows=20)
    fit_normaliser(whole, tiny.SENTENCES)
    assert torch.equal(first.normaliser.mean, second.normaliser.mean)
    assert not torch.equal(first.normaliser.mean, whole.normaliser.mean)
    torch.testing.assert_close(first.normaliser.std, whole.normaliser.std, atol=0.5, rtol=0.5)


@pytest.mark.parametrize("memory", ["states", "latents"])
def test_equal_sources_are_kept_once_and_a_missing_one_is_not_read(memory: str) -> None:
    """Data to text repeats its sources; a row without one has nothing that may be read."""
    autoencoder = tiny.tiny_autoencoder()
    sources = ["the old cat", None, "a cat.", "the old cat"]
    reader = SourceReader(autoencoder, ConditionConfig(source=SourceConfig(memory=memory)))
    store = ConditionStore(reader, [None] * 4, sources)
    assert len(store.sources) == 2
    raw = store.gather(torch.arange(4))
    values, mask = raw.source, raw.source_mask
    for row, source in enumerate(sources):
        if source is None:
            assert not mask[row].any()
            continue
        expected, expected_mask = reader.read(tiny.tokens(autoencoder, [source]))
        torch.testing.assert_close(values[row][mask[row]], expected[expected_mask], atol=5e-3, rtol=2e-3)
    assert torch.equal(values[0], values[3])
    assert values.shape[-1] == (32 if memory == "states" else 16)
