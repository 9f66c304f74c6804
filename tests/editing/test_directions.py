"""Directions of the latent space: learnt from made latents whose direction is known, stored, and tried."""

from pathlib import Path

import numpy as np
import pytest
import torch

import memorised
import tiny
from knowing import EIGHT, knowing
from ladle.autoencoder.latents import Latents
from ladle.editing.directions import Direction, _learn, fit_direction, held_out
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.sampling.words import encode_texts

ROWS = [{"text": text, "label": "cat" if "cat" in text or "hen" in text else "other"} for text in tiny.SENTENCES]


def made(count: int = 400, gap: float = 3.0) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Latents [N, 2, 4] of two classes, unit Gaussians whose means are `gap` apart along one direction."""
    torch.manual_seed(0)
    true = torch.nn.functional.normalize(torch.randn(2, 4).flatten(), dim=0).reshape(2, 4)
    right = np.arange(count) % 2 == 1
    return torch.randn(count, 2, 4) + gap * torch.tensor(right)[:, None, None] * true, right, true


@pytest.mark.parametrize("kind", ["mean", "probe"])
def test_a_known_direction_is_found(kind: str) -> None:
    """Its way and its length: strength 1 takes the mean of one class to that of the other."""
    features, right, true = made(4000)
    held = np.arange(len(right)) < 800
    found = _learn(features, right, held, kind, "there", "here", "")  # type: ignore[arg-type]
    values = found.values
    assert float(torch.cosine_similarity(values.flatten(), true.flatten(), dim=0)) > 0.98
    assert float((values * true).sum()) == pytest.approx(3.0, abs=0.15)
    assert found.accuracy["n"] == 800
    assert found.accuracy["value"] == pytest.approx(0.933, abs=0.03)  # of a Gaussian beyond 1.5 deviations
    low, high = found.accuracy["interval"]
    assert low < found.accuracy["value"] < high
    chances = found.probability(Latents(features[held], torch.ones(800, 2, dtype=torch.bool)))
    hits = sum((chance > 0.5) == own for chance, own in zip(chances, right[held].tolist(), strict=True))
    assert hits / 800 == pytest.approx(found.accuracy["value"], abs=2e-3)


def test_the_probe_leaves_alone_what_differs_by_chance() -> None:
    """With few rows the difference of means points into the noise of all channels, a penalised probe less so. Both are
    as long along their way as the means are apart."""
    features, right, _ = made(40)
    held = np.arange(40) < 8
    mean, probe = (_learn(features, right, held, kind, "a", "b", "") for kind in ("mean", "probe"))  # type: ignore[arg-type]
    assert not torch.allclose(mean.values, probe.values)
    assert float((probe.weight * probe.values).sum()) == pytest.approx(
        float((probe.weight * mean.values).sum()), rel=1e-4
    )


def test_rows_of_both_sides_are_held_out() -> None:
    """A fifth of each, and one at least, however rare one side is: else the accuracy would be that of one side."""
    right = np.arange(40) >= 35
    held = held_out(right)
    assert (held & right).sum() == 1 and (held & ~right).sum() == 7
    assert held_out(np.array([True, False])).all()


def test_a_direction_is_of_the_rows_and_of_the_model(tmp_path: Path) -> None:
    """By hand: the mean of one side less that of the other; the probe's rows are held out on both sides."""
    parts = tiny.tiny_plan_parts()
    found = fit_direction(parts, ROWS, towards="cat")
    z0 = encode_texts(parts.autoencoder, [row["text"] for row in ROWS], 64).values
    right = torch.tensor([row["label"] == "cat" for row in ROWS])
    torch.testing.assert_close(found.values, z0[right].mean(0) - z0[~right].mean(0), atol=1e-4, rtol=1e-3)
    assert found.accuracy["n"] == int(0.2 * int(right.sum())) + int(0.2 * int((~right).sum()))
    assert (found.towards, found.away, found.space) == ("cat", "other", parts.autoencoder.normaliser.fingerprint())


def test_of_latents_of_any_number_the_direction_is_of_their_mean() -> None:
    """One vector, added to each latent."""
    parts = memorised.memorised_parts()
    found = fit_direction(parts, ROWS, towards="cat")
    assert found.values.shape == (1, parts.autoencoder.latent_dim)
    latents = encode_texts(parts.autoencoder, EIGHT[:2], 2)
    alone = encode_texts(parts.autoencoder, EIGHT[:1], 1)
    assert found.probability(latents)[0] == pytest.approx(found.probability(alone)[0], abs=1e-4)
    moved = found.moved(latents.values[0], 2.0)
    torch.testing.assert_close(moved - latents.values[0], (2 * found.values).expand_as(moved), atol=1e-5, rtol=1e-4)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    """And an edit by the folder is an edit by the direction."""
    model = LatentDiffusion(knowing())
    found = fit_direction(model.parts, ROWS, tmp_path / "way", towards="cat", kind="probe", seed=3)
    again = Direction.load(tmp_path / "way")
    assert torch.equal(found.values, again.values) and torch.equal(found.weight, again.weight)
    for name in ("towards", "away", "kind", "bias", "space", "accuracy"):
        assert getattr(found, name) == getattr(again, name)
    one, other = (model.edit(EIGHT[1], direction=given, candidates=2, seed=0)[0] for given in (found, tmp_path / "way"))
    assert one == other
    fit_direction(model.parts, ROWS, tmp_path / "way", towards="other")  # (its own folder may be written again)
    assert Direction.load(tmp_path / "way").towards == "other"


@pytest.mark.parametrize("damage", ["record", "weights", "format", "none"])
def test_a_damaged_folder_is_one_line(tmp_path: Path, damage: str) -> None:
    """It says what is wrong and what to do."""
    folder = tmp_path / "way"
    if damage != "none":
        fit_direction(tiny.tiny_plan_parts(), ROWS, folder, towards="cat")
    if damage == "record":
        (folder / "direction.json").write_text("{")
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes(b"")
    elif damage == "format":
        text = (folder / "direction.json").read_text()
        (folder / "direction.json").write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="make one with `ladle fit direction`") as caught:
        Direction.load(folder)
    assert "\n" not in str(caught.value)


def test_with_two_labels_both_are_known() -> None:
    """The second is gone to, if nothing else is said; naming one names the other."""
    parts = tiny.tiny_plan_parts()
    for asked, both in (
        ({}, ("other", "cat")),
        ({"away": "other"}, ("cat", "other")),
        ({"towards": "cat"}, ("cat", "other")),
    ):
        found = fit_direction(parts, ROWS, **asked)
        assert (found.towards, found.away) == both


@pytest.mark.parametrize(
    ("rows", "asked", "says"),
    [
        (ROWS, {"towards": "dog"}, "no row has the label 'dog'; the labels are cat, other"),
        (ROWS, {"towards": "cat", "away": "cat"}, "cannot lead from 'cat' to itself"),
        (ROWS, {"kind": "line"}, "there is no kind of direction 'line'; allowed are mean, probe"),
        ([{**row, "label": f"{i % 3}"} for i, row in enumerate(ROWS)], {}, "give the label to go to"),
        ([{**row, "label": "cat"} for row in ROWS], {"towards": "cat"}, "at least 5 texts on each side"),
        (ROWS[:3] + [row for row in ROWS if row["label"] == "other"], {}, "at least 5 texts on each side"),
        ([{"text": row["text"]} for row in ROWS], {}, "label"),
    ],
)
def test_bad_input_is_one_line(rows, asked, says: str, tmp_path: Path) -> None:
    """And nothing is written."""
    with pytest.raises(UserError) as caught:
        fit_direction(tiny.tiny_plan_parts(), rows, tmp_path / "way", **asked)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "way").exists()


def test_five_texts_on_each_side_are_enough() -> None:
    """Whichever rows are held out: one of each side."""
    cats = [row for row in ROWS if row["label"] == "cat"][:5]
    others = [row for row in ROWS if row["label"] == "other"][:5]
    for seed in range(5):
        assert fit_direction(tiny.tiny_plan_parts(), cats + others, seed=seed).accuracy["n"] == 2
