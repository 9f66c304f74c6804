"""How likely are texts under the diffusion over tokens? The same bound as of latent diffusion."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ladle.autoencoder.signs import written
from ladle.baselines.inputs import Given
from ladle.baselines.token_diffusion import TokenDiffusionModel
from ladle.diffusion.loss import DiffusionBatch
from ladle.diffusion.prediction import add_noise
from ladle.errors import UserError
from ladle.evaluation.bound import draw_like, latent_nats, with_own_estimate
from ladle.evaluation.likelihood_report import Counts, LikelihoodReport, Nats
from ladle.seeding import SampleNoise

SURE = 6.0  # log-SNR at which the tokens are read off: there is hardly any doubt left


@torch.no_grad()
def token_likelihood(
    model: TokenDiffusionModel,
    texts: Sequence[str],
    *,
    label: Given = None,
    source: Given = None,
    seed: int = 0,
    draws: int = 16,
    batch_size: int = 64,
    name: str = "token diffusion",
) -> LikelihoodReport:
    """An upper bound of -log p(text): the number of tokens, their vectors up to log-SNR SURE
    (`ladle.evaluation.bound`), and the tokens that are read off there. An end token is counted, so that perplexities a
    token can be compared with those of other models.

    Args:
        model: in eval mode, on the CPU.
        label, source: one for each text, or None.
        seed: of the first text's draws; the others count up.
        draws: of noise levels for each text. name: of the model, for the report.

    Raises:
        UserError: an unknown label, a source for a model that reads none, no texts.
    """
    if not texts:
        raise UserError("no texts given; give one or more")
    nothing = [None] * len(texts)
    raw, rows = model.raw_condition(label or nothing, source or nothing), model.encode(texts)
    terms = torch.zeros(4, len(texts), dtype=torch.float64)
    order = sorted(range(len(texts)), key=lambda row: len(rows[row]))
    for start in range(0, len(order), batch_size):
        own = order[start : start + batch_size]
        part, lengths = torch.tensor(own), torch.tensor([len(rows[row]) for row in own])
        batch = model.with_vectors(model.batch([rows[row] for row in own], raw[part], lengths, raw[part]))
        terms[:, part] = _nats(model, batch, SampleNoise([seed + row for row in own]), draws)
    wording, latent, length, error = terms.numpy()
    nats = Nats(wording, latent, length, np.full(len(texts), SURE), error)
    return LikelihoodReport(name, _counts(model, texts, rows), {"sampler": nats})


def _nats(model: TokenDiffusionModel, batch: DiffusionBatch, noise: SampleNoise, draws: int) -> Tensor:
    """[4, B] of one batch with vectors: nats of words, vectors and numbers of tokens, and the error of their sum."""
    assert batch.ids is not None
    condition = model.condition.encode(batch.condition, len(batch.mask))
    denoise, schedule = model.denoise(batch.mask, condition), model.own_schedule
    denoise = with_own_estimate(denoise) if model.self_conditions else denoise
    latent = latent_nats(denoise, schedule, batch.z0, batch.mask, SURE, noise, draws)
    level = schedule.level_from_log_snr(torch.full((len(batch.mask),), SURE))
    zt = add_noise(batch.z0, draw_like(batch.z0, batch.mask, noise), level)
    logits = model.denoiser.logits(zt, level.log_snr, mask=batch.mask, condition=condition)
    words = F.cross_entropy(logits.flatten(0, 1), batch.ids.flatten(), reduction="none").view_as(batch.mask)
    shares = model.length(batch.condition, len(batch.mask)).log_softmax(-1)
    length = -shares.gather(1, batch.lengths[:, None] - 1)[:, 0]
    return torch.stack([(words * batch.mask).sum(1).double(), latent.nats, length.double(), latent.error])


def _counts(model: TokenDiffusionModel, texts: Sequence[str], rows: Sequence[list[int]]) -> Counts:
    """What is scored of the texts: their tokens with an end, without what is cut."""
    back = [written(text, None).strip() for text in model.tokenizer.batch_decode(rows, skip_special_tokens=True)]
    uncut = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    cut = [len(ids) > model.config.max_tokens for ids in uncut]
    changed = [text for text, own, is_cut in zip(texts, back, cut, strict=True) if not is_cut and own != text.strip()]
    return Counts.of([len(row) + 1 for row in rows], back, sum(cut), changed)
