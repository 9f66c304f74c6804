"""The evidence is judged where log p(z0 | class) is known: Gaussian classes and their exact denoisers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ladle.diffusion import classifier
from ladle.diffusion.classifier import log_evidence
from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Level, ScheduleConfig, build_schedule

MEANS = torch.tensor([[-0.6, 0.0], [0.6, 0.3], [0.2, -0.8]])
SPREADS = (0.5, 0.5, 0.9)


def exact(label: int) -> Denoise:
    def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        """E[z0 | zt, label]."""
        at, spread = level.expand(zt), SPREADS[label]
        shrink = at.alpha * spread**2 / (at.alpha**2 * spread**2 + at.sigma**2)
        return MEANS[label] + shrink * (zt - at.alpha * MEANS[label])

    return denoise


def draws(z0: Tensor, count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(z0.shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("kind", ["cosine", "flow"])
def test_the_evidence_is_the_log_likelihood_of_gaussian_classes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to one constant for all classes, whatever the path: summed over latents, half of the integral is exact."""
    schedule = build_schedule(ScheduleConfig.parse({"kind": kind}))
    z0 = torch.tensor([[[0.5, 0.2], [0.9, -0.3]], [[-0.7, 0.1], [-0.2, -1.2]]])
    known = torch.stack(
        [torch.distributions.Normal(MEANS[c], SPREADS[c]).log_prob(z0).sum((1, 2)) for c in range(3)], dim=1
    )
    many = z0.repeat(4000, 1, 1)  # the expectation over noise
    noise = draws(many, 60)
    monkeypatch.setattr(classifier, "LOG_SNR_RANGE", (-12.0, 12.0))
    found = torch.stack([log_evidence(exact(c), schedule, many, noise) for c in range(3)], dim=1)
    found = found.reshape(4000, 2, 3).mean(0)
    torch.testing.assert_close(found - found[:, :1], known - known[:, :1], atol=0.15, rtol=0.02)


def test_the_likeliest_class_is_the_one_that_bayes_would_choose() -> None:
    """With the default levels and one draw each, for nearly all points; those near the border may go either way."""
    schedule = build_schedule(ScheduleConfig(shift=2.0))
    labels = torch.arange(3).repeat(300)
    z0 = (MEANS[labels] + 0.2 * draws(torch.empty(900, 2), 1, 5)[0])[:, None].expand(-1, 6, -1)
    evidence = torch.stack([log_evidence(exact(c), schedule, z0, draws(z0, 8)) for c in range(3)], dim=1)
    likelihood = torch.stack(
        [torch.distributions.Normal(MEANS[c], SPREADS[c]).log_prob(z0).sum((1, 2)) for c in range(3)], dim=1
    )
    assert (evidence.argmax(1) == likelihood.argmax(1)).float().mean() > 0.93


def test_padding_counts_for_nothing() -> None:
    """Whatever the noise there, since denoisers are zero outside the mask."""
    schedule = build_schedule(ScheduleConfig())

    def masked(mask: Tensor) -> Callable[..., Tensor]:
        return lambda zt, level, z0_prev=None: exact(1)(zt, level) * mask[..., None]

    z0 = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(3))
    padded = torch.cat([z0, torch.zeros(1, 3, 2)], dim=1)
    mask = torch.tensor([[True, True, False, False, False]])
    noise = draws(padded, 4)
    alone = log_evidence(masked(mask[:, :2]), schedule, z0, [eps[:, :2] for eps in noise])
    torch.testing.assert_close(log_evidence(masked(mask), schedule, padded, noise), alone)
