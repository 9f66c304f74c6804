"""The conditions as the decoder of a plan reads them: a plan says what a text is about, but holds no names."""

import torch
from torch import Tensor, nn

from ladle.autoencoder.autoencoder import Memory, TextAutoencoder
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.encoder import RawCondition, attribute_vectors
from ladle.layers import Block, sinusoids


class DecoderCondition(nn.Module):
    """RawCondition -> memory for the decoder: a vector for the label, for each attribute and for each token of the
    source.

    embedding: the decoder's token vectors, which sources share. width: W of the decoder.
    """

    def __init__(self, config: ConditionConfig, width: int, num_heads: int):
        super().__init__()
        self.config, self.width = config, width
        self.label = nn.Embedding(len(config.labels) + 1, width)  # the last row stands for "no label"
        self.attributes = nn.ModuleList(nn.Embedding(len(v) + 1, width) for v in config.attributes.values())
        self.layers = nn.ModuleList()
        if config.source is not None:
            self.positions = nn.Parameter(sinusoids(config.source.max_tokens, width, scale=0.02))
            self.layers.extend(Block(width, num_heads) for _ in range(config.source.num_layers))

    def forward(self, raw: RawCondition, batch: int, embedding: Tensor) -> Memory:
        """Conditions of `batch` rows, embedding [V, W] -> memory [B, M, W] and its mask [B, M]."""
        device = self.label.weight.device
        ids = torch.full((batch,), -1, device=device) if raw.label_ids is None else raw.label_ids.to(device)
        label = self.label(torch.where(ids < 0, len(self.config.labels), ids))
        memory = torch.stack([label, *attribute_vectors(self.attributes, raw, batch)], dim=1)
        mask = memory.new_ones(memory.shape[:2], dtype=torch.bool)
        if self.config.source is not None and raw.source_ids is not None and raw.source_ids_mask is not None:
            longest = self.config.source.max_tokens
            ids, source_mask = raw.source_ids[:, :longest].to(device), raw.source_ids_mask[:, :longest].to(device)
            states = embedding[ids] + self.positions[: ids.shape[1]]
            memory, mask = torch.cat([memory, states.to(memory)], dim=1), torch.cat([mask, source_mask], dim=1)
        # A row without a source has the other vectors alone, also in a batch where no row has a source.
        for layer in self.layers:
            memory = layer(memory, mask)
        return memory, mask


def attach(autoencoder: TextAutoencoder, config: ConditionConfig) -> None:
    """Let the decoder of a plan read these conditions, if there are any."""
    if autoencoder.is_plan and config.names:
        backbone = autoencoder.backbone
        autoencoder.condition = DecoderCondition(config, backbone.width, backbone.num_heads).to(autoencoder.device)


def read_conditions(autoencoder: TextAutoencoder, raw: RawCondition | None, batch: int) -> Memory | None:
    """The memory of the conditions of `batch` rows; None if the decoder reads none."""
    if autoencoder.condition is None:
        return None
    memory: Memory = autoencoder.condition(raw or RawCondition(), batch, autoencoder.backbone.embedding)
    return memory
