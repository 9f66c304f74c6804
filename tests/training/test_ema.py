"""The average is the closed form, does not hold the initialisation, and steps aside without a trace."""

import pytest
import torch
from torch import nn

from ladle.training.ema import EMA


def set_all(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def test_long_run_is_the_exponential_average() -> None:
    """Past the warm-up the recurrence has the decay asked for, by hand in float64."""
    module = nn.Linear(2, 2)
    set_all(module, 0.0)
    ema = EMA(module, decay=0.9)
    expected = 0.0
    for n in range(300):
        value = float(n % 7)
        set_all(module, value)
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.tensors()["weight"], torch.full((2, 2), expected), rtol=1e-5, atol=1e-5)


def test_short_run_does_not_average_in_the_initialisation() -> None:
    """Thirty updates with a decay of 0.9999 would otherwise leave 99.7 % of the initial weights."""
    module = nn.Linear(2, 2)
    set_all(module, 1000.0)
    ema = EMA(module, decay=0.9999)
    set_all(module, 1.0)
    for _ in range(30):
        ema.update()
    assert torch.allclose(ema.tensors()["weight"], torch.ones(2, 2), atol=1e-3)


def test_applied_gives_the_parameters_back_bit_by_bit_also_after_an_error() -> None:
    """A failing validation must not leave averages in the model that goes on training."""
    module = nn.Linear(3, 3)
    ema = EMA(module, decay=0.9)
    with torch.no_grad():
        module.weight.add_(1.0)
    before = module.weight.detach().clone()
    with pytest.raises(RuntimeError, match="stop"), ema.applied():
        assert torch.equal(module.weight, ema.tensors()["weight"])
        assert not torch.equal(module.weight, before)
        raise RuntimeError("stop")
    assert torch.equal(module.weight, before)


def test_frozen_parameters_are_not_averaged() -> None:
    """A frozen backbone costs no second copy."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    assert set(EMA(module, 0.9).tensors()) == {"1.weight", "1.bias"}


def test_bf16_parameters_are_averaged_in_float32() -> None:
    """A small change vanishes in bf16, where 1 + 0.001 is 1."""
    module = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    set_all(module, 1.0)
    ema = EMA(module, decay=0.999)
    ema.load(ema.tensors(), num_updates=100_000)
    set_all(module, 2.0)
    ema.update()
    assert ema.tensors()["weight"].item() == pytest.approx(1.001, abs=1e-6)
    ema.copy_to_module()
    assert module.weight.dtype == torch.bfloat16
