"""The choice of a token from logits by a number, and the number by which a token is chosen."""

import torch
from torch import Tensor

FEW = (128, 1024)  # of the likeliest tokens, which mostly hold `top_p` of the probability: a sort of all takes longer


def chosen_ids(logits: Tensor, uniform: Tensor, top_p: float, temperature: float) -> Tensor:
    """logits [B, V], uniform [B] in [0, 1) -> ids [B]: the inverse of the distribution function, likeliest first.

    top_p: draw only among the likeliest tokens that together have this probability (arXiv 1904.09751). temperature: 0
    takes the likeliest token.
    """
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits.float()
    return _drawn(scaled if temperature == 1 else scaled / temperature, uniform, top_p, FEW)


def _drawn(scaled: Tensor, uniform: Tensor, top_p: float, sizes: tuple[int, ...]) -> Tensor:
    """Look among so many of the likeliest tokens first, then, where they hold less than `top_p`, among more."""
    if top_p == 1 or not sizes or scaled.shape[-1] <= 4 * sizes[0]:
        return _of_all(scaled, uniform, top_p)
    values, order = scaled.topk(sizes[0], dim=-1)
    probabilities = (values - scaled.logsumexp(-1, keepdim=True)).exp()
    enough = probabilities.sum(-1) >= top_p
    if bool(enough.all()):
        return _inverse(probabilities, order, uniform, top_p)
    found = torch.empty_like(uniform, dtype=torch.long)
    found[enough] = _inverse(probabilities[enough], order[enough], uniform[enough], top_p)
    found[~enough] = _drawn(scaled[~enough], uniform[~enough], top_p, sizes[1:])
    return found


def _of_all(scaled: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    probabilities, order = scaled.softmax(-1).sort(-1, descending=True)
    return _inverse(probabilities, order, uniform, top_p)


def _inverse(probabilities: Tensor, order: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Falling probabilities [B, K] of tokens `order` [B, K] -> ids [B]."""
    below = probabilities.cumsum(-1) - probabilities  # mass of the likelier tokens
    probabilities = probabilities.masked_fill(below >= top_p, 0.0)
    total = probabilities.cumsum(-1)
    place = torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    return order.gather(1, torch.minimum(place, last))[:, 0]


def ids_of_normals(logits: Tensor, normals: Tensor) -> Tensor:
    """logits [N, V], standard normal numbers [N] -> ids [N], as `chosen_ids` with uniform numbers Phi(normals) and
    top_p 1, but exact for the least likely tokens too: in double precision, and summed from the least likely token."""
    probabilities, order = logits.flip(-1).double().softmax(-1).sort(dim=-1, stable=True)
    above = torch.special.erfc(normals.double() * 0.5**0.5) / 2  # 1 - Phi, which `ndtr` gives fewer digits of
    place = torch.searchsorted(probabilities.cumsum(-1), above[:, None], right=True).clamp_max(logits.shape[-1] - 1)
    return logits.shape[-1] - 1 - order.gather(-1, place)[:, 0]


def normals_of_ids(logits: Tensor, ids: Tensor) -> Tensor:
    """The inverse of `ids_of_normals`: logits [N, V], ids [N] -> the middle of the numbers that choose each id, [N]. Of
    equally likely tokens the one with the smaller id has the smaller numbers."""
    own = logits.gather(-1, ids[:, None])
    first = torch.arange(logits.shape[-1], device=ids.device) < ids[:, None]
    likelier = (logits > own) | ((logits == own) & first)
    probabilities = logits.softmax(-1)
    half = probabilities.gather(-1, ids[:, None])[:, 0] / 2
    below = (probabilities * likelier).sum(-1) + half
    above = (probabilities * ~likelier).sum(-1) - half  # (a small number has more digits than its difference from 1)
    return torch.where(below < above, torch.special.ndtri(below.double()), -torch.special.ndtri(above.double())).float()
