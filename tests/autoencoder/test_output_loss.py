"""The loss of the output layer in parts is that of all logits at once, and so is its gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ladle.autoencoder.output_loss import AT_ONCE, IGNORED, output_loss

WIDTH, VOCABULARY = 16, 300


def made(rows: int, *, without: float = 0.2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    states = 3 * torch.randn(2, rows // 2, WIDTH, generator=generator)
    vectors = torch.randn(VOCABULARY, WIDTH, generator=generator)
    targets = torch.randint(VOCABULARY, (2, rows // 2), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < without] = IGNORED
    return states.requires_grad_(), vectors.requires_grad_(), targets


def at_once(states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(states, vectors).flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)


@pytest.mark.parametrize("rows", [2, AT_ONCE - 2, AT_ONCE, AT_ONCE + 2, 3 * AT_ONCE])
def test_loss_and_gradients_are_those_of_all_logits_at_once(rows: int) -> None:
    states, vectors, targets = made(rows, without=0.0 if rows == 2 else 0.2)
    expected = at_once(states, vectors, targets)
    wanted = torch.autograd.grad(3 * expected, (states, vectors))
    loss = output_loss(states, vectors, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, (states, vectors)), wanted, rtol=1e-4, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(output_loss(states, vectors, targets), expected)


def test_in_bf16_it_is_as_near_to_the_exact_loss_as_torch_is() -> None:
    states, vectors, targets = made(2 * AT_ONCE)
    exact = torch.autograd.grad(at_once(states, vectors, targets), (states, vectors))
    errors = []
    for loss_of in (at_once, output_loss):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = torch.autograd.grad(loss_of(states, vectors, targets), (states, vectors))
        assert [x.dtype for x in found] == [torch.float32] * 2
        errors.append([float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)])
    for torchs, own in zip(*errors, strict=True):
        assert own < 1.3 * torchs < 0.05


def test_without_a_target_it_is_no_number() -> None:
    states, vectors, targets = made(8)
    assert output_loss(states, vectors, targets.fill_(IGNORED)).isnan()
