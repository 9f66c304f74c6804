"""How many latents does a text have? A categorical distribution given the condition, sampled before diffusion.

With position-aligned latents the number is part of the text. Drawing it first needs one small network and saves the
denoiser the padding: E2E texts have 11 latents on average, and the longest has 30.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.encoder import RawCondition
from ladle.layers import zero_linear

WIDTH = 256  # of the network's hidden layer
RARE = 0.002  # lengths less probable than this are never drawn, since a network gives every length some probability


class LengthModel(nn.Module):
    """p(L | condition) over 1 .. max_latents: the training set's distribution, moved by the conditions.

    It reads the raw condition (the mean of the source's vectors, and their number), not the denoiser's encoding of it,
    because the two train on different batches.
    """

    def __init__(self, condition: ConditionConfig, source_dim: int, max_latents: int):
        super().__init__()
        self.num_labels, self.source_dim = len(condition.labels), source_dim if condition.source else 0
        self.num_values = [len(values) for values in condition.attributes.values()]
        self.base = nn.Parameter(torch.zeros(max_latents))
        features = self.num_labels + sum(self.num_values) + (self.source_dim + 3 if condition.source else 0)
        self.network = None
        if features:
            self.network = nn.Sequential(nn.Linear(features, WIDTH), nn.SiLU(), zero_linear(WIDTH, max_latents))

    @torch.no_grad()
    def fit_base(self, lengths: Tensor) -> None:
        """Start from the counts of lengths [N]. A length that never occurs counts as a tenth of a text."""
        counts = torch.bincount(lengths.cpu() - 1, minlength=len(self.base)).float()
        self.base.copy_((counts + 0.1).log() - (counts + 0.1).sum().log())

    def forward(self, raw: RawCondition, batch: int) -> Tensor:
        """raw condition of `batch` rows -> logits [B, max_latents]; index i stands for i + 1 latents."""
        logits = self.base.expand(batch, -1)
        return logits if self.network is None else logits + self.network(self._features(raw, batch))

    def loss(self, raw: RawCondition, lengths: Tensor) -> Tensor:
        """Cross-entropy of numbers of latents [B]."""
        return F.cross_entropy(self(raw, len(lengths)).float(), lengths - 1)

    @torch.no_grad()
    def sample(self, raw: RawCondition, uniform: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """Inverse of the cumulative distribution at uniform [B] in [0, 1) -> numbers of latents [B].

        temperature: one value, or [B]. Below 1, common lengths become more common; 0 takes the most common length.
        """
        logits = self(raw, len(uniform)).float()
        scale = torch.as_tensor(temperature, device=logits.device).clamp_min(1e-4).reshape(-1, 1)
        probabilities = (logits / scale).softmax(-1)
        rare = probabilities < RARE
        probabilities = probabilities.masked_fill(rare & ~rare.all(-1, keepdim=True), 0.0)
        cumulative = probabilities.double().cumsum(-1)
        wanted = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
        return (cumulative <= wanted).sum(-1).clamp_max(probabilities.shape[-1] - 1) + 1

    def _features(self, raw: RawCondition, batch: int) -> Tensor:
        parts, like = [], self.base
        if self.num_labels:
            ids = like.new_full((batch,), -1).long() if raw.label_ids is None else raw.label_ids
            parts.append(F.one_hot(ids + 1, self.num_labels + 1)[:, 1:].to(like))
        for number, size in enumerate(self.num_values):
            ids = like.new_full((batch,), -1).long() if raw.attribute_ids is None else raw.attribute_ids[:, number]
            parts.append(F.one_hot(ids + 1, size + 1)[:, 1:].to(like))
        if self.source_dim:
            if raw.source is None or raw.source_mask is None:
                parts.append(like.new_zeros(batch, self.source_dim + 3))
            else:
                count = raw.source_mask.sum(1, keepdim=True).to(like)
                mean = (raw.source.to(like) * raw.source_mask[..., None]).sum(1) / count.clamp_min(1)
                parts += [mean, (count > 0).to(like), count / 32, (1 + count).log() / 4]
        return torch.cat(parts, dim=-1)
