"""A text coming out of noise, a map of texts, and the pictures of both."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import memorised
import tiny
from knowing import EIGHT, knowing
from ladle.diffusion.schedule import ScheduleConfig, build_schedule
from ladle.editing.change import Change
from ladle.editing.pictures import draw_changes, draw_map, draw_trajectory, draw_way
from ladle.editing.plane import plane_of, principal
from ladle.editing.trajectory import Reading, _watched, time_of, trajectory
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.seeding import SampleNoise
from ladle.storage.checks import check_writable


@cache
def plan() -> LatentDiffusion:
    return LatentDiffusion(knowing())


@cache
def aligned() -> LatentDiffusion:
    return LatentDiffusion(memorised.memorised_parts(source=False))


MODELS = pytest.mark.parametrize("model", [plan, aligned], ids=["plan", "aligned"])


@MODELS
@pytest.mark.parametrize("options", [{}, {"stop_time": 0.0}, {"sampler": "heun"}, {"temperature": 1.0}], ids=str)
@pytest.mark.parametrize("label", [None, "good"])
def test_the_last_text_is_the_one_that_generate_draws(model, options, label) -> None:
    """By the same seed and options: the way is that of the text, not of another."""
    parts = model().parts
    how = parts.sampling.override(num_inference_steps=8, candidates=1, **options)
    readings = trajectory(parts, 5, 4, label=label, options=how)
    (text,) = model().generate(seed=5, label=label, num_inference_steps=8, candidates=1, **options)
    assert readings[-1].text == text
    assert {(one.seed, one.label) for one in readings} == {(5, label)}


def test_levels_go_from_noise_to_where_the_plan_is_handed_over() -> None:
    """Evenly in time on a grid of times; noise is the share of the variance that is noise."""
    parts = plan().parts
    how = parts.sampling.override(num_inference_steps=20, stop_time=0.2, grid="time")
    readings = trajectory(parts, 0, 5, options=how)
    assert [one.time for one in readings] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2], abs=1e-3)
    shares = [one.noise for one in readings]
    levels = [parts.diffusion.schedule.level(torch.tensor(time)) for time in (1, 0.8, 0.6, 0.4, 0.2)]
    assert shares == pytest.approx([float(level.sigma**2) for level in levels], abs=1e-3)
    whole = trajectory(parts, 0, 5, options=how.override(stop_time=0.0))
    assert [whole[0].time, whole[-1].time] == [1, 0] and whole[-1].noise < 1e-3


def test_at_most_as_many_levels_as_the_sampler_visits() -> None:
    """Each of them once."""
    how = aligned().parts.sampling.override(num_inference_steps=3)
    readings = trajectory(aligned().parts, 0, 50, options=how)
    assert len(readings) == 4
    times = [one.time for one in readings]
    assert times == sorted(times, reverse=True) and len(set(times)) == 4


def test_a_reading_does_not_depend_on_the_others() -> None:
    """Each level draws its words by the same numbers, so that texts differ by their latents alone."""
    how = plan().parts.sampling.override(num_inference_steps=8, temperature=1.0, stop_time=0.0)
    many, few = (trajectory(plan().parts, 3, count, options=how) for count in (9, 3))
    assert few == many[::4]
    assert len({one.text for one in many}) > 1


def test_noised_plans_are_read_at_unit_variance() -> None:
    """On every path, as the decoder learnt them; what the sampler sees does not change."""
    seen: dict[float, torch.Tensor] = {}
    level = build_schedule(ScheduleConfig(kind="flow")).level(torch.tensor(0.5))
    denoise = _watched(seen, plan().diffusion)(lambda zt, level, z0_prev=None: 2 * zt)
    zt = torch.ones(1, 2, 3)
    assert torch.equal(denoise(zt, level), 2 * zt)
    torch.testing.assert_close(seen[float(level.log_snr)], zt / (0.5**2 + 0.5**2) ** 0.5)
    assert torch.equal(_watched(seen, aligned().diffusion)(lambda zt, level, z0_prev=None: 2 * zt)(zt, level), 2 * zt)
    assert torch.equal(seen[float(level.log_snr)], 2 * zt)  # (of other latents the estimate is read)


@pytest.mark.parametrize("kind", ["cosine", "flow", "linear"])
def test_the_time_of_a_level_is_the_inverse_of_the_schedule(kind: str) -> None:
    """Where it is not clamped; at its ends 0 and 1."""
    schedule = build_schedule(ScheduleConfig(kind=kind, shift=2.0))  # type: ignore[arg-type]
    for time in (0.05, 0.3, 0.77, 0.9):
        assert time_of(schedule, float(schedule.log_snr(torch.tensor(time)))) == pytest.approx(time, abs=1e-4)
    assert [time_of(schedule, float(schedule.log_snr(torch.tensor(end)))) for end in (0.0, 1.0)] == [0, 1]


def test_a_copy_of_streams_goes_on_alone() -> None:
    """From the same place, and what it draws does not move the others."""
    noise = SampleNoise([1, 2])
    noise.uniform()
    copied = noise.copy()
    first = copied.normal([(3,), (3,)])
    copied.uniform()
    assert torch.equal(first, noise.normal([(3,), (3,)]))
    assert torch.equal(noise.copy().uniform(), noise.uniform())


def test_bad_input_is_one_line() -> None:
    with pytest.raises(UserError, match="unknown label 'god': did you mean 'good'"):
        trajectory(plan().parts, 0, label="god")
    with pytest.raises(UserError, match="has no diffusion model, so nothing comes out of noise"):
        trajectory(replace(tiny.tiny_plan_parts(), diffusion=None), 0)


# ------------------------------------------------------------------------------------------------ a map


def test_the_plane_is_that_of_the_largest_variance() -> None:
    """Made points: an axis of variance 9, one of 4 and one of 1, turned; both shares and the places are known."""
    torch.manual_seed(0)
    made = torch.randn(5000, 3) * torch.tensor([3.0, 2.0, 1.0])
    turned, _ = torch.linalg.qr(torch.randn(3, 3))
    points, shares = principal(made @ turned.T + 7)
    assert shares == pytest.approx((9 / 14, 4 / 14), abs=0.02)
    assert points.mean(0).tolist() == pytest.approx([0, 0], abs=1e-4)
    for axis in (0, 1):
        alike = torch.cosine_similarity(points[:, axis], made[:, axis] - made[:, axis].mean(), dim=0)
        assert abs(float(alike)) > 0.99
    torch.testing.assert_close(principal(made).points, principal(made.flip(0)).points.flip(0), atol=1e-4, rtol=1e-3)


@MODELS
def test_texts_are_points_of_a_plane(model) -> None:
    """Equal texts have one place, whatever else is drawn beside them at what batch size."""
    plane = plane_of(model().parts, [*EIGHT, EIGHT[0]], batch_size=3)
    assert plane.points.shape == (9, 2) and plane.points.isfinite().all()
    torch.testing.assert_close(plane.points[0], plane.points[8], atol=1e-4, rtol=1e-3)
    assert 1 >= plane.shares[0] >= plane.shares[1] >= 0
    with pytest.raises(UserError, match="2 different texts make no map; give at least 3"):
        plane_of(model().parts, [EIGHT[0], EIGHT[1], EIGHT[0]])


# ------------------------------------------------------------------------------------------------ pictures

STRANGE = "It costs $5 and $6_x, 100 % of 東京 \\frac{1}{2} <b>&amp; " * 9  # formulas, markup, signs without a glyph


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_pictures_take_any_text_and_may_be_drawn_again(tmp_path: Path, ending: str) -> None:
    """A `$` must begin no formula, and a second run of the same command must not refuse its own picture."""
    readings = [Reading(text, time, time, 0) for text, time in ((STRANGE, 1.0), ("", 0.5), ("a", 0.0))]
    way = [Change(STRANGE, "a", 0, "b", share, 0.5, 0.4) for share in (0.0, 0.5, 1.0)]
    other = [replace(one, source="c") for one in way]
    edits = [Change("a", "b", bleu=20.0, similarity=0.5, attribute_after=share) for share in (0.1, 0.9, None)]
    labels = [STRANGE, None, *(f"${number}_" for number in range(10))]
    points = torch.randn(len(labels), 2)
    draws = {
        "trajectory": lambda path: draw_trajectory(readings, path),
        "way": lambda path: draw_way(way, path),
        "ways": lambda path: draw_changes(way + other, path),
        "edits": lambda path: draw_changes(edits[:2], path),
        "changes": lambda path: draw_changes(edits, path),
        "map": lambda path: draw_map(points, (0.5, 0.1), labels, path),
        "plain": lambda path: draw_map(points, (0.5, 0.1), [None] * len(labels), path),
    }
    for name in draws if ending == "png" else ("trajectory", "map"):
        path = tmp_path / f"{name}.{ending}"
        draws[name](path)
        assert path.stat().st_size > 1000
        check_writable(path)
    (tmp_path / f"mine.{ending}").write_bytes({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending] + b" mine")
    with pytest.raises(UserError, match="Ladle did not write it"):
        check_writable(tmp_path / f"mine.{ending}")


def test_texts_stand_beside_the_picture(tmp_path: Path) -> None:
    """SVG holds them as they are."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        draw_trajectory([Reading("from $5_ to $6 & more", 1.0, 1.0, 0), Reading("", 0.25, 0.1, 0)], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for said in ("from $5_ to $6 &amp; more", "(an empty text)", "1.00", "0.25", "diffusion time"):
        assert f">{said}</text>" in text, said  # (one piece: no formula)
