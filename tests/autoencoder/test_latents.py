"""Latents with their mask, and the normaliser that gives every channel mean 0 and variance 1."""

import pytest
import torch
from torch import Tensor

from ladle.autoencoder.latents import Latents, Normaliser


def raw_latents(rows: int = 40, length: int = 5, dim: int = 3) -> tuple[Tensor, Tensor]:
    """Channels of unlike mean and scale, [B, L, D], with nonsense where the mask is False."""
    torch.manual_seed(0)
    raw = torch.randn(rows, length, dim) * torch.tensor([0.1, 1.0, 30.0]) + torch.tensor([5.0, 0.0, -80.0])
    mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1))
    return raw.masked_fill(~mask[..., None], 1e6), mask


def fitted(raw: Tensor, mask: Tensor, normaliser: Normaliser, split: int) -> Normaliser:
    z0 = normaliser.normalise(raw)
    normaliser.fit(Latents(z0[i : i + split], mask[i : i + split]) for i in range(0, len(raw), split))
    return normaliser


@pytest.mark.parametrize("split", [1, 7, 40])
def test_fitting_gives_mean_0_and_variance_1_in_each_channel(split: int) -> None:
    """One schedule fits all models only then; how the texts are cut into batches and padded has no part in it."""
    raw, mask = raw_latents()
    z0 = fitted(raw, mask, Normaliser(3), split).normalise(raw)[mask]
    torch.testing.assert_close(z0.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z0.var(0, unbiased=False), torch.ones(3), atol=1e-3, rtol=0)


def test_fitting_composes_with_the_figures_that_were_there() -> None:
    """It is given normalised latents, so a second fit must change nothing and a shifted start must not matter."""
    raw, mask = raw_latents()
    shifted = Normaliser(3)
    shifted.mean.copy_(torch.tensor([1.0, -2.0, 3.0]))
    shifted.std.copy_(torch.tensor([0.5, 2.0, 10.0]))
    once = fitted(raw, mask, Normaliser(3), 8)
    torch.testing.assert_close(fitted(raw, mask, shifted, 8).state_dict(), once.state_dict(), atol=1e-4, rtol=1e-4)
    before = {name: tensor.clone() for name, tensor in once.state_dict().items()}
    torch.testing.assert_close(fitted(raw, mask, once, 8).state_dict(), before, atol=1e-4, rtol=1e-4)


def test_denormalising_undoes_normalising() -> None:
    """The decoder reads raw latents."""
    raw, mask = raw_latents()
    normaliser = fitted(raw, mask, Normaliser(3), 8)
    torch.testing.assert_close(normaliser.denormalise(normaliser.normalise(raw)), raw, atol=1e-3, rtol=1e-5)


def test_a_constant_channel_stays_finite() -> None:
    """A dead channel has no spread to divide by."""
    raw, mask = raw_latents()
    raw[..., 1] = 2.0
    assert fitted(raw, mask, Normaliser(3), 8).normalise(raw)[mask].isfinite().all()


def test_fitting_on_fewer_than_two_latents_is_refused() -> None:
    """There is no variance of one number."""
    with pytest.raises(ValueError, match="at least two latents; 1 given"):
        Normaliser(3).fit([Latents(torch.zeros(1, 2, 3), torch.tensor([[True, False]]))])


def test_the_running_figures_come_to_those_of_the_data_and_ignore_padding() -> None:
    """While the autoencoder trains there is no time to fit: a running mean has to do."""
    raw, mask = raw_latents()
    running = Normaliser(3, momentum=0.1)
    for _ in range(200):
        running.track(raw, mask)
    torch.testing.assert_close(running.mean, raw[mask].mean(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(running.std, raw[mask].std(0), atol=1e-3, rtol=1e-3)


def test_a_batch_of_one_latent_leaves_the_running_figures_alone() -> None:
    """One short text can be a batch of its own; the spread of one number is NaN, and NaN would stay for ever."""
    normaliser = Normaliser(3)
    normaliser.track(torch.randn(1, 2, 3), torch.tensor([[True, False]]))
    assert torch.equal(normaliser.mean, torch.zeros(3))
    assert torch.equal(normaliser.std, torch.ones(3))


def test_latents_are_cut_and_moved_with_their_mask() -> None:
    """Values and mask belong together; a dtype is for the values only."""
    latents = Latents(torch.randn(4, 2, 3), torch.rand(4, 2) > 0.5)
    part = latents[1:3].to(torch.float64)
    assert len(latents) == 4
    assert len(part) == 2
    assert part.values.dtype == torch.float64
    assert torch.equal(part.mask, latents.mask[1:3])
    assert torch.equal(part.values.float(), latents.values[1:3])
