"""`ladle inspect --health`: recovery from noise, the latents' geometry, and the advice that follows."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import memorised
import tiny
from ladle.autoencoder.encoding import store_latents, store_tokens
from ladle.cli import main
from ladle.diffusion.schedule import ScheduleConfig, build_schedule
from ladle.errors import UserError
from ladle.health.check import check_health
from ladle.health.geometry import channel_spectrum, midpoint_distances
from ladle.health.recovery import LOG_SNRS, accuracy, advised_shift, half_recovery
from ladle.health.report import advice, describe_health
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import save_parts
from ladle.training.small_denoiser import fit_small_denoiser


@pytest.fixture(scope="module")
def health() -> Any:
    """Of a model that knows eight texts; its own denoiser is random."""
    torch.set_num_threads(1)
    parts = memorised.memorised_parts("aligned")
    eight = memorised.EIGHT
    return check_health(LatentDiffusion(parts), eight, eight, fit_denoiser=fit_small_denoiser, denoiser_minutes=0.05)


def test_what_is_known_by_heart_comes_back_until_noise_covers_it(health: Any) -> None:
    assert health.texts == 8
    assert health.reconstruction == {"bleu": pytest.approx(100), "exact": 1.0, "tokens": 1.0}
    curve = {row.log_snr: row for row in health.recovery}
    assert tuple(curve) == LOG_SNRS
    assert curve[8.0].decoder == 1.0
    assert curve[-6.0].decoder < 0.8
    assert LOG_SNRS[-1] < health.half_log_snr < 6
    assert 0.2 < health.latents_per_token < 1


def test_a_denoiser_of_seconds_explains_more_than_none(health: Any) -> None:
    """It has seen these eight: near clean it gives z0 back, in noise it gives the mean at worst. The model's own is
    random: its estimate is off."""
    curve = {row.log_snr: row for row in health.recovery}
    assert curve[8.0].explained > 0.9
    assert curve[8.0].denoised == 1.0
    assert curve[0.0].explained > curve[-6.0].explained - 0.05
    assert curve[-2.0].explained > curve[-2.0].prior_explained
    assert all(row.prior is not None for row in health.recovery)


def test_without_denoisers_their_columns_are_empty() -> None:
    parts = memorised.memorised_parts("aligned")
    health = check_health(LatentDiffusion(replace(parts, diffusion=None)), memorised.EIGHT, memorised.EIGHT)
    assert {(row.denoised, row.explained, row.prior) for row in health.recovery} == {(None, None, None)}
    assert "| log-SNR | decoder alone |\n" in describe_health(health)


def test_accuracy_by_hand() -> None:
    """Every text's tokens count once, at any length; corrupted latents give what the decoder says of those."""
    autoencoder = memorised.memorised()
    tokens, latents = store_tokens(autoencoder, memorised.EIGHT), store_latents(autoencoder, memorised.EIGHT)
    found = accuracy(autoencoder, tokens, latents, lambda z0, mask: -z0)
    right = total = 0
    for row in range(8):
        batch = tokens.gather(torch.tensor([row]))
        z0, mask = latents.gather(torch.tensor([row]))
        memory = autoencoder.expand(tiny.Latents(-z0, mask))
        with torch.no_grad():
            guess = autoencoder.backbone.decode_logits(batch["input_ids"], *memory).argmax(-1)
        right, total = right + int((guess == batch["input_ids"]).sum()), total + guess.numel()
    assert found == pytest.approx(right / total)
    assert 0 < found < 1


@pytest.mark.parametrize(
    ("curve", "half"),
    [
        ([(2.0, 1.0), (0.0, 0.6), (-2.0, 0.2)], 0.0),
        ([(2.0, 1.0), (0.0, 0.8), (-2.0, 0.4), (-4.0, 0.2)], -1.0),
        ([(2.0, 0.3), (0.0, 0.3), (-2.0, 0.2)], 2.0),  # lost at once
        ([(2.0, 1.0), (0.0, 1.0), (-2.0, 1.0)], -2.0),  # never lost
    ],
)
def test_half_recovery(curve: list[tuple[float, float]], half: float) -> None:
    assert half_recovery(curve, 1.0) == pytest.approx(half)
    assert half_recovery(curve[::-1], 1.0) == pytest.approx(half)


@pytest.mark.parametrize("half", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize("kind", ["cosine", "flow"])
def test_the_advised_shift_puts_half_recovery_in_the_middle(half: float, kind: str) -> None:
    schedule = build_schedule(ScheduleConfig.model_validate({"kind": kind, "shift": advised_shift(half)}))
    assert float(schedule.log_snr(torch.tensor(0.5))) == pytest.approx(half, abs=0.05)


def test_the_advised_shift_stays_within_reason() -> None:
    assert advised_shift(-15.0) == 8
    assert advised_shift(8.0) == 0.25


def test_the_spectrum_of_a_known_covariance() -> None:
    """Two of four directions in use, evenly: effective rank 2; a Gaussian's kurtosis is 3, a coin's is 1."""
    torch.manual_seed(0)
    plane = torch.randn(20_000, 2)
    spectrum = channel_spectrum(torch.cat([plane + 1.0, torch.zeros(20_000, 2)], dim=1))
    assert spectrum.effective_rank == pytest.approx(2, abs=0.01)
    assert (spectrum.half, spectrum.most) == (1, 2)
    assert spectrum.mean == pytest.approx((0, 1), abs=0.03)
    assert spectrum.std == pytest.approx((0, 1), abs=0.03)
    assert channel_spectrum(plane).kurtosis == pytest.approx((3, 3), abs=0.2)
    coins = torch.randint(0, 2, (20_000, 3)).float()
    assert channel_spectrum(coins).kurtosis == pytest.approx((1, 1), abs=0.01)
    assert channel_spectrum(torch.randn(20_000, 3)).effective_rank == pytest.approx(3, abs=0.01)


def test_midpoints_of_two_far_clusters_lie_in_the_hole_between() -> None:
    torch.manual_seed(0)
    whole = torch.randn(4_000, 4)
    evenly = midpoint_distances(whole[:3_000], whole[3_000:])
    assert evenly["ratio"] < 1.2
    apart = whole + 20.0 * torch.randint(0, 2, (4_000, 1))
    holed = midpoint_distances(apart[:3_000], apart[3_000:])
    assert holed["ratio"] > 3
    assert holed["held_out"] < 1 < holed["midpoints"]
    assert midpoint_distances(whole[:3_000], whole[3_000:]) == evenly


def test_advice_follows_the_figures(health: Any) -> None:
    parts = memorised.memorised_parts("aligned")
    good = advice(health, parts)
    assert good["diffusion.schedule.shift"].startswith(f"{advised_shift(health.half_log_snr):g} ")
    assert good["number of latents"].startswith("as now")
    worn = [replace(row, decoder=0.5 if row.log_snr < 0 else 0.8) for row in health.recovery]
    lossy = replace(health, recovery=worn, reconstruction={**health.reconstruction, "tokens": 0.9}, half_log_snr=3.0)
    bad = advice(lossy, parts)
    assert "tokens_per_latent=" in bad["number of latents"]
    assert "smaller than the latents" in bad["training.autoencoder.latent_noise"]
    dull = replace(health, recovery=[replace(row, decoder=0.9) for row in health.recovery])
    untold = advice(dull, parts)
    for setting in ("diffusion.schedule.shift", "training.autoencoder.latent_noise"):
        assert untold[setting].startswith("as now") and untold[setting].endswith(
            "too little is recovered to give advice"
        )
    full = replace(lossy, spectrum=replace(health.spectrum, effective_rank=0.95 * health.spectrum.channels))
    assert advice(full, parts)["autoencoder.bottleneck.latent_dim"].startswith("more than")
    thin = replace(health, spectrum=replace(health.spectrum, effective_rank=3.0, channels=64))
    assert advice(thin, parts)["autoencoder.bottleneck.latent_dim"].startswith("8 is enough (now 64)")


def test_too_few_texts() -> None:
    model = LatentDiffusion(memorised.memorised_parts("aligned"))
    with pytest.raises(UserError, match="needs training texts and held-out texts"):
        check_health(model, memorised.EIGHT, [" "])
    one = check_health(model, ["a cat."], ["no."])
    assert one.texts == 1
    assert "nan" not in describe_health(one)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables and advice below what `inspect` always says; the figures as JSON."""
    parts = memorised.memorised_parts("aligned")
    save_parts(parts, tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join(memorised.EIGHT * 10), encoding="utf-8")
    base = ["inspect", "--model", str(tmp_path / "model")]
    given = [*base, "--health", "--data", str(tmp_path / "texts.txt"), "--minutes", "0"]
    assert main([*given, "-o", str(tmp_path / "health.json")]) == 0
    out = capsys.readouterr().out
    assert "latent channels" in out
    assert "| log-SNR | decoder alone | own prior | z0 explained by that |" in out
    assert "* diffusion.schedule.shift: " in out
    report = json.loads((tmp_path / "health.json").read_text(encoding="utf-8"))
    assert [row["log_snr"] for row in report["recovery"]] == list(LOG_SNRS)
    assert math.isfinite(report["half_log_snr"])
    assert main([*given, "-o", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    for words, complaint in (
        ([*base, "--health"], "give --data FILE"),
        ([*base, "--data", "texts.txt"], "--data and --output need --health"),
        ([*given[:-1], "-1"], "--minutes is -1"),
        ([*base, "--health", "--data", str(tmp_path / "none.txt")], "none.txt"),
    ):
        assert main(words) == 2
        assert complaint in capsys.readouterr().err


def test_the_health_of_plans_gives_no_advice_on_words() -> None:
    """A plan is not there to give words back: "more latents" would be wrong advice."""
    health = check_health(LatentDiffusion(tiny.tiny_plan_parts()), tiny.SENTENCES, memorised.EIGHT, denoiser_minutes=0)
    assert list(health.advice) == ["plans"]
