"""How likely texts are under a causal language model of the library transformers, from token ids."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ladle.layers import lengths_to_mask

TokenRow = tuple[list[int], list[int]]  # ids of the prefix of a text, ids of the text


def padded(rows: Sequence[TokenRow], pad: int) -> dict[str, Tensor]:
    """B rows -> input_ids, attention_mask and is_text, each [B, longest]; filled up with `pad`."""
    ids = pad_sequence([torch.tensor(prefix + text) for prefix, text in rows], batch_first=True, padding_value=pad)
    before, all_ids = torch.tensor([(len(prefix), len(prefix) + len(text)) for prefix, text in rows]).unbind(1)
    mask = lengths_to_mask(all_ids, ids.shape[1])
    return {"input_ids": ids, "attention_mask": mask, "is_text": mask & ~lengths_to_mask(before, ids.shape[1])}


def logits_of(causal: Any, input_ids: Tensor, attention_mask: Tensor, wanted: Tensor) -> Tensor:
    """Logits [M, V] of the next token at the M places that `wanted` [B, S - 1] marks; ids and mask are [B, S].

    The other places have none: with a long source and a large vocabulary they would cost several times as much memory
    and time.
    """
    read = causal.base_model(input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False)
    logits: Tensor = causal.get_output_embeddings()(read.last_hidden_state[:, :-1][wanted])
    return logits


@torch.no_grad()
def negative_log_likelihood(causal: Any, rows: Sequence[TokenRow], pad: int, batch_size: int = 64) -> Tensor:
    """Nats [N] of each row's text, given its prefix. A prefix has at least one id."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    nll = torch.zeros(len(rows), dtype=torch.float32)
    device = next(causal.parameters()).device
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = padded([rows[i] for i in chosen], pad)
        input_ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        wanted = batch["is_text"][:, 1:]
        logits = logits_of(causal, input_ids, mask, wanted)
        lost = torch.zeros(wanted.shape)
        lost[wanted] = F.cross_entropy(logits.float(), input_ids[:, 1:][wanted], reduction="none").cpu()
        nll[chosen] = lost.sum(1)
    return nll
