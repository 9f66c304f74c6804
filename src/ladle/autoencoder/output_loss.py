"""The loss of a decoder's output layer, without ever holding the logits of a whole batch.

A batch of 4,096 tokens has 50 million logits with a vocabulary of 12,288. Written out, they pass through memory a dozen
times, which takes longer than the products themselves. Here a few hundred tokens at a time go through the layer, the
loss and its gradient, so that their logits stay in the processor's cache (as in Cut Cross-Entropy, arXiv 2411.09009).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
AT_ONCE = 512  # tokens whose logits exist at the same time


def output_loss(states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy, a scalar in float32, of logits `states @ vectors.T`.

    states: [..., W]. vectors: [V, W], one for each token. targets: [...], ids, or -100 where there is none. Under
    autocast the products have its dtype. If there is no target at all, the loss is NaN, as that of torch.
    """
    states, targets = states.flatten(0, -2), targets.flatten()
    kind = states.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        states, vectors = states.to(dtype), vectors.to(dtype)
    with torch.autocast(kind, enabled=False):
        if torch.is_grad_enabled() and (states.requires_grad or vectors.requires_grad):
            loss: Tensor = _OutputLoss.apply(states, vectors, targets)
            return loss
        total = sum(_part(states[i : i + AT_ONCE], vectors, targets[i : i + AT_ONCE]) for i in _begins(targets))
        return total / (targets != IGNORED).sum()


def _begins(targets: Tensor) -> range:
    return range(0, len(targets), AT_ONCE)


def _part(states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((states @ vectors.t()).float(), targets, ignore_index=IGNORED, reduction="sum")


class _OutputLoss(torch.autograd.Function):
    """The gradient is worked out with the loss: the logits are not there any more when it is asked for."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
        there = (targets != IGNORED)[:, None]
        count = there.sum()
        of_states = torch.empty_like(states)
        of_vectors = torch.zeros_like(vectors, dtype=torch.float32)
        total = torch.zeros((), device=states.device)
        for begin in _begins(targets):
            rows = slice(begin, begin + AT_ONCE)
            own, known = targets[rows, None].clamp_min(0), there[rows]
            logits = (states[rows] @ vectors.t()).float()
            logits -= logits.amax(1, keepdim=True)
            chosen = logits.gather(1, own)
            sums = logits.exp_().sum(1, keepdim=True)
            total += ((sums.log() - chosen) * known).sum()
            logits *= known / (sums * count)
            logits.scatter_add_(1, own, -(known / count))
            errors = logits.to(states.dtype)
            of_states[rows] = errors @ vectors
            of_vectors += errors.t() @ states[rows]
        ctx.save_for_backward(of_states, of_vectors.to(vectors.dtype))
        return total / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        of_states, of_vectors = ctx.saved_tensors
        return of_states * gradients[0].to(of_states.dtype), of_vectors * gradients[0].to(of_vectors.dtype), None
