"""A text as its decoder would have written it under other conditions: what the conditions do not touch stays.

A decoder draws a token when it adds Gumbel noise to the log-probabilities and takes the largest sum. For a text that is
there already, the noise is drawn as it must have been (top-down, arXiv 1411.0030). The same noise and the
log-probabilities of another plan or label then draw the counterfactual text (arXiv 2411.07180). A token stays unless
another one has become likelier beside it (arXiv 1905.05824). Other noise of the same text gives other rewritten texts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import Memory, TextAutoencoder
from ladle.autoencoder.lexicon import Lexicon
from ladle.seeding import SampleNoise

AHEAD = 4  # tokens of the text that a rewritten text may leave out at once without losing its place in it
SMALLEST = 1e-30  # uniform number, of which the logarithm is taken twice


@torch.no_grad()
def counterfactual_ids(
    autoencoder: TextAutoencoder,
    input_ids: Tensor,
    mask: Tensor,
    old: Memory,
    new: Memory,
    streams: Sequence[SampleNoise],
    *,
    temperature: float = 1.0,
    push: float = 0.0,
    keep: float = 0.0,
    lexicon: Lexicon | None = None,
) -> Tensor:
    """Texts input_ids [B, S], with mask [B, S], rewritten -> ids [B, S'].

    It takes B S V numbers of memory, V those of the vocabulary.

    Args:
        old: what the decoder read when it wrote the texts (`TextAutoencoder.expand`). new: what it reads now. With the
            same memory the texts come back.
        streams: of each row, which go on.
        temperature: above 0. A low one takes likelier words in place of those that change.
        push: by how many times itself the change of the log-probabilities, new minus old, is enlarged (arXiv
            2105.03023).
        keep: nats by which each token of a text is made likelier at its place. Above 0 fewer tokens change.
        lexicon: the words that may be written; None: any.
    """
    backbone = autoencoder.backbone
    logits = backbone.decode_logits(input_ids, *old).float()
    logits[..., backbone.banned] = -torch.inf
    own = PosteriorNoise(logits, input_ids, mask, streams, temperature, keep)
    against = (*old, push) if push else None
    return backbone.write(*new, choose=own, against=against, lexicon=lexicon)


class PosteriorNoise:
    """Gumbel noise [V] for each token of B texts, with which the decoder draws these texts.

    logits: [B, S, V], of the decoder for the texts ids [B, S] with mask [B, S]. streams: of each row.
    """

    def __init__(
        self,
        logits: Tensor,
        ids: Tensor,
        mask: Tensor,
        streams: Sequence[SampleNoise],
        temperature: float = 1.0,
        keep: float = 0.0,
    ):
        log_probs, self.temperature = (logits / temperature).log_softmax(-1), temperature
        self.texts = [row[own].tolist() for row, own in zip(ids, mask, strict=True)]
        self.streams, self.size, self.device = streams, log_probs.shape[-1], log_probs.device
        self.later: list[list[Tensor]] = [[] for _ in self.texts]  # of places behind the end of each text
        uniform = torch.zeros_like(log_probs)
        for row, text in enumerate(self.texts):  # (no numbers for padding: a row does not depend on its batch)
            uniform[row, : len(text)] = streams[row].uniform((len(text), self.size))[0].to(self.device)
        chosen = ids[..., None]
        # The largest sum is a standard Gumbel number. All other sums are Gumbel numbers below it.
        largest = _gumbel(uniform.gather(-1, chosen))
        others = -torch.log(torch.exp(log_probs - largest) - torch.log(uniform.clamp(SMALLEST, 1 - 1e-7)))
        self.noise = others.scatter(-1, chosen, keep + largest - log_probs.gather(-1, chosen))

    def __call__(self, logits: Tensor, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """logits [N, V] of the tokens that follow the rewritten `texts` of `rows` -> their ids [N]."""
        places = [place_in(self.texts[row], text) for row, text in zip(rows, texts, strict=True)]
        return (
            logits / self.temperature + torch.stack([self._at(*place) for place in zip(rows, places, strict=True)])
        ).argmax(-1)

    def _at(self, row: int, place: int) -> Tensor:
        """The noise at a place of a row's text, or behind its end."""
        beyond = place - len(self.texts[row])
        if beyond < 0:
            return self.noise[row, place]
        while len(self.later[row]) <= beyond:
            self.later[row].append(_gumbel(self.streams[row].uniform((self.size,))[0].to(self.device)))
        return self.later[row][beyond]


def place_in(source: Sequence[int], text: Sequence[int]) -> int:
    """The place in `source` at which a rewritten text goes on. A token that is not in the source there stands in place
    of one that was; a token that comes a little later shows that some were left out; one that has just been replaced
    shows that the other was put before it."""
    place, replaced = 0, False
    for token in text:
        ahead = range(place - replaced, min(place + AHEAD, len(source)))
        found = next((i for i in sorted(ahead, key=lambda i: (i != place, i)) if source[i] == token), None)
        replaced = found is None
        place = (place if found is None else found) + 1
    return place


def _gumbel(uniform: Tensor) -> Tensor:
    return -torch.log(-torch.log(uniform.clamp(SMALLEST, 1 - 1e-7)))
