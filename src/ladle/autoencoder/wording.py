"""The wording of a text: what a plan leaves open, as one number for each token. Plan and wording give back the text.

A decoder that draws each token by a uniform number u is a map from (memory, u_1 ... u_n) to texts. Here it is inverted:
the number of a token is the middle of those numbers for which the decoder draws this token. It is given as a standard
normal number, w = Phi^-1(u). So the decoder is an autoregressive flow (arXiv 1606.04934) whose base is noise, as in the
counterfactual texts of arXiv 2411.07180. The wording of a likely text looks like standard normal noise, whatever its
plan is. Thus its prior is known and needs no training: other noise is another wording of the same plan.
"""

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import Memory, TextAutoencoder
from ladle.autoencoder.choice import normals_of_ids
from ladle.autoencoder.latents import Latents

ROWS = 32  # at once: each of their tokens has a number for every token of the vocabulary
MOST = 12.0  # of a token that has a probability of 1e-33


@torch.no_grad()
def wording_of(
    autoencoder: TextAutoencoder, latents: Latents, input_ids: Tensor, mask: Tensor, read: Memory | None = None
) -> Tensor:
    """The wording of texts input_ids [B, S], with mask [B, S], given their latents: [B, S], float32, 0 after a text.

    read: the memory of labels and sources, as in `TextAutoencoder.expand`. `TextAutoencoder.decode` with the same
    latents, the same `read` and this wording gives input_ids, if the weights are float32. (With rounded weights it may
    take another token where two are nearly as likely.)
    """
    wording = torch.zeros(input_ids.shape, device=input_ids.device)
    memory, memory_mask = autoencoder.expand(latents, read=read)
    for start in range(0, len(input_ids), ROWS):
        rows = slice(start, start + ROWS)
        ids, own = input_ids[rows], mask[rows]
        logits = autoencoder.backbone.decode_logits(ids, memory[rows], memory_mask[rows])[own].float()
        logits[:, autoencoder.backbone.banned] = -torch.inf
        wording[rows][own] = normals_of_ids(logits, ids[own]).clamp(-MOST, MOST)
    return wording
