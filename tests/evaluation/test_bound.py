"""The bound of latents against models whose likelihood is known exactly: a linear Gaussian one, and a few points."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ladle.diffusion.prediction import add_noise
from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Level, Schedule, ScheduleConfig, build_schedule
from ladle.evaluation.bound import draw_like, ends, latent_nats, profile, with_own_estimate
from ladle.seeding import SampleNoise

SHAPE = (2, 3)  # L, D of the latents
SIZE = 6
SCHEDULES = {
    "cosine": ScheduleConfig(),
    "shifted": ScheduleConfig(shift=3.0),
    "sigmoid": ScheduleConfig(kind="sigmoid"),
    "linear": ScheduleConfig(kind="linear"),
    "flow": ScheduleConfig(kind="flow"),
}


def streams(count: int, first: int = 0) -> SampleNoise:
    return SampleNoise(range(first, first + count))


class Gaussian(NamedTuple):
    """x ~ N(0, C), mu = A x ~ N(0, S), with the exact posterior of mu, and so of x, given zl."""

    mix: Tensor  # A
    x: Tensor
    z0: Tensor  # mu as latents
    nll: Tensor  # exact, of each x
    values: Tensor  # eigenvalues of S
    vectors: Tensor

    def denoise(self, schedule: Schedule, shrink: float = 1.0) -> Denoise:
        def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
            y = (zt / level.expand(zt).alpha).flatten(1) @ self.vectors
            gain = self.values / (self.values + (-level.log_snr).exp()[:, None])
            return (shrink * (gain * y) @ self.vectors.T).view(zt.shape)

        return denoise

    def wording(self, schedule: Schedule, l_max: float, noise: SampleNoise) -> Tensor:
        """-log p(x | z) of a decoder that knows the posterior, [N]."""
        level = schedule.level_from_log_snr(torch.full((len(self.z0),), l_max, dtype=torch.float64))
        mask = torch.ones(self.z0.shape[:2], dtype=torch.bool)
        zt = add_noise(self.z0, draw_like(self.z0, mask, noise), level)
        away = (self.z0 - self.denoise(schedule)(zt, level)).flatten(1) @ self.vectors
        variance = 1 / (1 / self.values + math.exp(l_max))
        of_mu = 0.5 * (away.square() / variance + variance.log() + math.log(2 * math.pi)).sum(1)
        return of_mu - self.mix.det().abs().log()


def gaussian(count: int) -> Gaussian:
    generator = torch.Generator().manual_seed(0)
    mix, root = (torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) / 2 for _ in range(2))
    covariance = root @ root.T + 0.1 * torch.eye(SIZE, dtype=torch.float64)
    x = torch.randn(count, SIZE, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    normal = torch.distributions.MultivariateNormal(torch.zeros(SIZE, dtype=torch.float64), covariance)
    values, vectors = torch.linalg.eigh(mix @ covariance @ mix.T)
    return Gaussian(mix, x, (x @ mix.T).view(-1, *SHAPE), -normal.log_prob(x), values, vectors)


def ones(z0: Tensor) -> Tensor:
    return torch.ones(z0.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("l_max", [1.0, 5.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_bound_of_a_linear_gaussian_is_its_exact_likelihood(name: str, l_max: float) -> None:
    """With the best denoiser and the best decoder nothing is lost, on both paths, whatever the schedule between its
    ends, and for a wide Gaussian as for a narrow one: it only moves nats from the latents to the words."""
    model, schedule = gaussian(500), build_schedule(SCHEDULES[name])
    noise = streams(500)
    found = latent_nats(model.denoise(schedule), schedule, model.z0, ones(model.z0), l_max, noise, 24)
    bound = found.nats + sum(model.wording(schedule, l_max, noise) for _ in range(8)) / 8
    assert float(bound.mean()) == pytest.approx(float(model.nll.mean()), rel=0.01)
    # Also text by text, as far as the draws tell.
    assert float(torch.corrcoef(torch.stack([bound, model.nll]))[0, 1]) > 0.7


def test_a_worse_denoiser_has_a_larger_bound() -> None:
    """A bound that could fall below the truth would be none."""
    model, schedule = gaussian(600), build_schedule(ScheduleConfig())
    bounds = []
    for shrink in (1.0, 0.9, 0.7, 1.2):
        found = latent_nats(model.denoise(schedule, shrink), schedule, model.z0, ones(model.z0), 3.0, streams(600))
        bounds.append(float(found.nats.mean()))
    best, error = bounds[0], float(found.error.square().sum().sqrt() / 600)
    assert best + 4 * error < min(bounds[1:])
    assert best < bounds[1] < bounds[2]


def test_few_draws_have_no_bias_and_their_error_is_told() -> None:
    """One text with two draws from each of many streams: the mean is that of many draws. Half of the errors are
    beside the point if they are too small."""
    model, schedule = gaussian(1), build_schedule(ScheduleConfig(kind="flow"))
    z0 = model.z0.expand(800, -1, -1)
    denoise = model.denoise(schedule)
    first = profile(denoise, schedule, z0[:64], ones(z0[:64]), torch.linspace(-15, 4, 20).double(), streams(64, 9000))
    many = latent_nats(denoise, schedule, z0[:100], ones(z0[:100]), 4.0, streams(100, 5000), 200)
    truth = float(many.nats.mean())
    assert first.nats().sum() == pytest.approx(truth, rel=0.1)
    for proposal in (None, first.proposal(4.0)):
        few = latent_nats(denoise, schedule, z0, ones(z0), 4.0, streams(800), 2, proposal)
        real = float(few.nats.std())
        assert float(few.nats.mean()) == pytest.approx(truth, abs=4 * real / math.sqrt(800))
        assert 0.9 * real < float(few.error.square().mean().sqrt()) < 2 * real
    # More draws, one from each share, beat as many independent ones.
    sixteen = latent_nats(denoise, schedule, z0, ones(z0), 4.0, streams(800), 16)
    assert float(sixteen.nats.std()) < real / math.sqrt(8)


def test_draws_fall_where_the_integrand_is() -> None:
    """Importance: a first pass knows that nothing is to be seen near pure noise."""
    model, schedule = gaussian(64), build_schedule(ScheduleConfig())
    found = latent_nats(model.denoise(schedule), schedule, model.z0, ones(model.z0), 6.0, streams(64), 32)
    assert float((found.log_snr > -3).double().mean()) > 0.75 > 9 / 21
    assert (found.log_snr.diff(dim=1) > 0).all() and float(found.log_snr.max()) <= 6
    assert torch.allclose(found.start + found.parts.mean(1), found.nats)


class Points(NamedTuple):
    """x is one of K points with probability p; their latents are `table` [K, L, D]."""

    p: Tensor
    table: Tensor

    def posterior(self, zt: Tensor, level: Level) -> Tensor:
        y = zt / level.expand(zt).alpha
        squares = (y[:, None] - self.table).square().flatten(2).sum(2)
        return (self.p.log() - level.log_snr.exp()[:, None] / 2 * squares).log_softmax(1)

    def denoise(self, zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        return torch.einsum("bk,kld->bld", self.posterior(zt, level).exp(), self.table)


@pytest.mark.parametrize("kind", ["cosine", "flow"])
@pytest.mark.parametrize("l_max", [-15.0, -1.0, 2.0, 8.0])
def test_points_far_apart_cost_their_entropy(kind: str, l_max: float) -> None:
    """Embeddings of tokens are such points. Near the clean end the latents cost all nats, near noise the decoder
    does; the sum stays the same."""
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
    points = Points(p, 2 * torch.randn(5, *SHAPE, generator=generator, dtype=torch.float64))
    schedule = build_schedule(ScheduleConfig(kind=kind))
    x = torch.arange(5).repeat(160)
    z0, noise = points.table[x], streams(800)
    found = latent_nats(points.denoise, schedule, z0, ones(z0), l_max, noise, 32)
    level = schedule.level_from_log_snr(torch.full((800,), l_max, dtype=torch.float64))
    wording = torch.zeros(800, dtype=torch.float64)
    for _ in range(8):
        zt = add_noise(z0, draw_like(z0, ones(z0), noise), level)
        wording -= points.posterior(zt, level).gather(1, x[:, None])[:, 0] / 8
    bound = (found.nats + wording).view(160, 5).mean(0)
    assert float(bound @ p) == pytest.approx(float(-(p * p.log()).sum()), rel=0.04)
    assert torch.allclose(bound, -p.log(), atol=0.15)
    share = float((found.nats.view(160, 5).mean(0) @ p) / (bound @ p))
    least, most = {-15.0: (0, 0.01), -1.0: (0.1, 0.99), 2.0: (0.9, 1), 8.0: (0.999, 1)}[l_max]
    assert least <= share <= most + 1e-9


def test_latents_of_a_text_do_not_depend_on_its_batch() -> None:
    """Nor on the padding beside it."""
    model, schedule = gaussian(4), build_schedule(ScheduleConfig())
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    z0 = model.z0 * mask[..., None]
    edges = torch.linspace(-15, 3, 9, dtype=torch.float64)
    proposal = profile(model.denoise(schedule), schedule, z0, mask, edges, streams(4, 50)).proposal(3.0)

    def halved(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        return zt / 2 + 1  # (also where there is no latent)

    whole = latent_nats(halved, schedule, z0, mask, 3.0, streams(4), 4, proposal)
    alone = latent_nats(halved, schedule, z0[3:, :1], mask[3:, :1], 3.0, SampleNoise([3]), 4, proposal)
    assert float(alone.nats) == pytest.approx(float(whole.nats[3]), rel=1e-9)


def test_nothing_left_of_the_latents_costs_nothing() -> None:
    """At the sampler's own start only its first term is left."""
    model, schedule = gaussian(8), build_schedule(ScheduleConfig(kind="linear"))
    low, high = ends(schedule)
    assert -11 < low < -9 and high == 15
    found = latent_nats(model.denoise(schedule), schedule, model.z0, ones(model.z0), low, streams(8))
    assert torch.allclose(found.nats, math.exp(low) / 2 * model.z0.square().flatten(1).sum(1))
    assert not found.error.any()


def test_a_denoiser_is_shown_its_own_estimate() -> None:
    """Of the same zt: what comes from another one would make the bound invalid."""
    seen = []

    def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        seen.append(z0_prev)
        return zt / 2 if z0_prev is None else z0_prev + 1

    zt, level = torch.ones(1, 2, 3), build_schedule(ScheduleConfig()).level(torch.tensor([0.5]))
    assert torch.equal(with_own_estimate(denoise)(zt, level), zt / 2 + 1)
    assert seen[0] is None and torch.equal(seen[1], zt / 2)


@pytest.mark.parametrize(("l_max", "draws"), [(16.0, 16), (-15.1, 16), (3.0, 1)])
def test_what_cannot_be_bounded_is_an_error(l_max: float, draws: int) -> None:
    """A level that no sampler of this schedule reaches; one draw, whose error nobody can tell."""
    model, schedule = gaussian(2), build_schedule(ScheduleConfig())
    with pytest.raises(ValueError, match="give 2 draws or more"):
        latent_nats(model.denoise(schedule), schedule, model.z0, ones(model.z0), l_max, streams(2), draws)
