"""The one object that says how texts are drawn: what it takes, what it refuses, what it inherits."""

import subprocess
import sys
from typing import Any

import pytest

from ladle.errors import UserError
from ladle.sampling.options import LatentDraw, SamplingOptions


def test_every_option_says_what_it_does() -> None:
    """The command line's help is made of it."""
    fields = SamplingOptions.flat_fields() | SamplingOptions.model_fields
    assert len(fields) == len(SamplingOptions.model_fields) + len(LatentDraw.model_fields)
    for name, field in fields.items():
        assert (field.description or "").endswith("."), name


def test_none_leaves_a_value_as_it_is() -> None:
    saved = SamplingOptions(num_inference_steps=7, temperature=0.5)
    assert saved.override() == saved
    assert saved.override(temperature=None, sampler=None, conditional=None) == saved
    assert saved.override(temperature=0.0, top_p=0.9) == SamplingOptions(num_inference_steps=7, top_p=0.9)


def test_a_name_of_the_pair_holds_for_both_halves() -> None:
    saved = SamplingOptions(conditional=LatentDraw(stop_time=0.4), unconditional=LatentDraw(noise_scale=0.5))
    both = saved.override(stop_time=0.2)
    assert both.conditional == LatentDraw(stop_time=0.2)
    assert both.unconditional == LatentDraw(stop_time=0.2, noise_scale=0.5)


def test_a_half_is_changed_where_it_is_given() -> None:
    """By a dict or by an object, the other half and the other fields stay; it goes before a name for both."""
    saved = SamplingOptions(conditional=LatentDraw(stop_time=0.4), unconditional=LatentDraw(stop_time=0.6))
    changed = saved.override(conditional={"noise_scale": 0.3})
    assert changed.conditional == LatentDraw(noise_scale=0.3, stop_time=0.4)
    assert changed.unconditional == saved.unconditional
    assert saved.override(conditional={"noise_scale": 0.3}, noise_scale=0.8).conditional.noise_scale == 0.3
    assert saved.override(conditional={"noise_scale": 0.3}, noise_scale=0.8).unconditional.noise_scale == 0.8
    assert saved.override(unconditional=LatentDraw()).unconditional == LatentDraw()


def test_to_the_end_there_is_no_early_stop_and_no_open_word() -> None:
    early = SamplingOptions(temperature=0.8, guidance_scale=2.0, conditional=LatentDraw(stop_time=0.4, noise_scale=0.3))
    assert early.to_the_end() == SamplingOptions(guidance_scale=2.0, conditional=LatentDraw(noise_scale=0.3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampler": "ddmp"}, "did you mean 'ddpm'"),
        ({"num_inference_steps": 0}, "num_inference_steps: must be greater than or equal to 1"),
        ({"grid": "even"}, "grid"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"label_confidence": 1.5}, "label_confidence"),
        ({"stop_time": 1.0}, "sampling: stop_time: must be less than 1"),
        ({"conditional": {"noise_scale": 9}}, r"conditional\.noise_scale"),
        ({"conditional": {"noise_scal": 0.5}}, r"unknown key 'conditional\.noise_scal': did you mean 'noise_scale'"),
        ({"unconditional": 3}, "unconditional is 3; give a dict"),
        ({"num_beams": 4, "temperature": 0.5}, "num_beams needs temperature = 0"),
        ({"num_beams": 4, "decoder": "parallel"}, "and the autoregressive decoder"),
        ({"guidance_scal": 2.0}, r"there is no sampling option 'guidance_scal': did you mean 'guidance_scale'\?"),
        ({"guidance_scales": {"food": float("nan")}}, r"guidance_scales\.food: must be a finite number"),
        ({"guidance_scales": 3}, "guidance_scales: must be a valid dictionary"),
        ({"guidance_from": 1.5}, "guidance_from: must be less than or equal to 1"),
        ({"guidance_from": 0.3, "guidance_to": 0.6}, r"guidance_to = 0\.6 is above guidance_from = 0\.3"),
        ({"decoder_temperature": 0.5}, "there is no sampling option 'decoder_temperature'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong: dict[str, Any], message: str) -> None:
    """Before anything is drawn."""
    with pytest.raises(UserError, match=message) as error:
        SamplingOptions().override(**wrong)
    assert "\n" not in str(error.value) and str(error.value).count("noise_scale:") <= 1


def modules_after(code: str) -> set[str]:
    """What an import brings along."""
    code = f"{code}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_options_come_without_torch() -> None:
    """The command line's help is made from them and must not wait for it."""
    assert "torch" not in modules_after("import ladle.sampling.options, ladle.cli")


def test_sampling_knows_nothing_of_what_stands_above_it() -> None:
    """Parts of a model and functions are passed in: it works without folders, recipes and judges."""
    found = modules_after("import ladle.sampling.generation")
    assert "ladle.sampling.candidates" in found
    for above in ("training", "storage", "evaluation", "pipeline", "benchmark", "cli"):
        assert not [name for name in found if name.startswith(f"ladle.{above}")]
