"""How likely are texts under latent diffusion? An upper bound of -log p(text), with its terms:

    -log p(text) <= E_q[-log p(text | z)]   wording: the decoder reads latents noised to log-SNR l_max
                    + KL(q(z | text) || p(z))   latent: the diffusion's own bound (`evaluation.bound`)
                    - log p(L)   length: where a model draws the number of latents first

Any l_max in the range of the schedule gives a valid bound. A wide Gaussian costs words, a narrow one costs latents. At
the noise end the decoder is told nothing and the latents cost nothing. So l_max is chosen, on other texts than those
that are measured: half of the texts get the level that is best for the other half.

The model is p(text) at guidance 1, temperature 1 and full noise, in continuous time, with all tokens allowed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ladle.autoencoder.autoencoder import DecoderName, TextAutoencoder
from ladle.autoencoder.backbone import padded_tokens
from ladle.autoencoder.latents import Latents
from ladle.checks import check_number, check_whole
from ladle.conditioning.decoder import read_conditions
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.data.stores import length_batches
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.prediction import add_noise
from ladle.diffusion.samplers import Denoise
from ladle.errors import UserError
from ladle.evaluation.bound import Profile, draw_like, ends, latent_nats, profile, start_nats, with_own_estimate
from ladle.evaluation.likelihood_report import Counts, Level, LikelihoodReport, Nats
from ladle.layers import lengths_to_mask
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request, Values
from ladle.sampling.words import check_decoder
from ladle.seeding import SampleNoise

MOST_TUNING = 64  # texts of each half by which levels are chosen
STEPS = range(-8, 13, 2)  # log-SNRs to choose from, beside the ends and the sampler's own; beyond them little changes
DECODER_ALONE = 0.02  # share of the nats below which latents take no part
WORDING_SHARE = 4  # draws of the latents for each draw of the words, whose nats vary less


class Batch(NamedTuple):
    """Some texts: their rows, z0 [B, L, D] with mask [B, L], ids [B, S] with there [B, S], conditions, denoiser."""

    rows: list[int]
    z0: Tensor
    mask: Tensor
    ids: Tensor
    there: Tensor
    raw: RawCondition
    denoise: Denoise


@dataclass(frozen=True)
class Survey:
    """Where the nats of some texts go. start: the latents' first term. wording: [K + 1], of the words at each level of
    the profile. Both are means over the texts."""

    profile: Profile
    start: float
    wording: np.ndarray

    @property
    def latent(self) -> np.ndarray:
        """[K + 1], mean nats of the latents up to each level."""
        return self.start + np.concatenate([[0.0], self.profile.nats().cumsum(0).numpy()])

    @property
    def best(self) -> float:
        """The level at which the sum is least."""
        return float(self.profile.edges[int(np.argmin(self.latent + self.wording))])


@dataclass(frozen=True)
class TextBound:
    """A model in eval mode, with texts and their conditions.

    ids: of each text, [S] with the end token. latents: of each text, [L, D], clean and normalised. decoder: None: the
    autoregressive one.
    """

    autoencoder: TextAutoencoder
    diffusion: LatentDiffusionModel
    conditions: ConditionStore
    ids: list[Tensor]
    latents: list[Tensor]
    decoder: DecoderName | None = None
    batch_size: int = 32

    @classmethod
    def of(
        cls,
        autoencoder: TextAutoencoder,
        diffusion: LatentDiffusionModel,
        conditions: ConditionStore,
        texts: Sequence[str],
        decoder: DecoderName | None,
        batch_size: int,
    ) -> tuple["TextBound", Counts]:
        """Encodes the texts, and counts what is scored of them."""
        check_decoder(autoencoder, decoder)
        tokenizer, group = autoencoder.backbone.tokenizer, autoencoder.bottleneck.tokens_per_latent
        most = autoencoder.backbone.max_tokens  # (of latents too, the longest training text has most)
        most = most if group is None else min(most, group * diffusion.max_latents)
        ids: list[Tensor] = [torch.empty(0)] * len(texts)
        latents: list[Tensor] = [torch.empty(0)] * len(texts)
        scored, changed, cut = list(texts), [], 0
        for rows in length_batches(texts, batch_size):
            own = [texts[row] for row in rows]
            tokens = padded_tokens(tokenizer, own, most)
            tokens = {name: tensor.to(autoencoder.device) for name, tensor in tokens.items()}
            z0 = autoencoder.encode_texts(own) if autoencoder.is_plan else autoencoder.encode(**tokens)
            back = autoencoder.backbone.detokenize(tokens["input_ids"], any_sign=True)
            uncut = tokenizer(own)["input_ids"]
            for i, row in enumerate(rows):
                ids[row] = tokens["input_ids"][i][tokens["attention_mask"][i]]
                latents[row] = z0.values[i][z0.mask[i]].float()
                if len(uncut[i]) > most:
                    cut, scored[row] = cut + 1, back[i]
                elif back[i] != texts[row].strip():
                    changed.append(texts[row])
        counts = Counts.of([len(own) for own in ids], scored, cut, changed)
        return cls(autoencoder, diffusion, conditions, ids, latents, decoder, batch_size), counts

    def batches(self, rows: Sequence[int]) -> Iterator[Batch]:
        """The texts of these rows, in batches of similar length."""
        device = self.autoencoder.device
        for part in length_batches([self.ids[row] for row in rows], self.batch_size):
            own = [rows[i] for i in part]
            values, ids = (pad_sequence([x[row] for row in own], batch_first=True) for x in (self.latents, self.ids))
            mask, there = (lengths_to_mask(torch.tensor([len(x[row]) for row in own]), size).to(device)
                           for x, size in ((self.latents, values.shape[1]), (self.ids, ids.shape[1])))  # fmt: skip
            raw = self.conditions.gather(torch.tensor(own)).to(device)
            denoise = self.diffusion.denoise(mask, self.diffusion.condition.encode(raw, len(own)))
            if self.diffusion.config.self_condition:
                denoise = with_own_estimate(denoise)
            yield Batch(own, values, mask, ids, there, raw, denoise)

    def wording(self, batch: Batch, log_snr: float, eps: Tensor) -> Tensor:
        """-log p(text | z) in nats, [B], of latents noised with eps to `log_snr`. As in sampling, the decoder of a plan
        reads the noised plan and is told its level, and another one reads the denoiser's estimate."""
        level = self.diffusion.schedule.level_from_log_snr(batch.z0.new_full((len(batch.z0),), log_snr))
        zt = add_noise(batch.z0, eps, level)
        if self.autoencoder.is_plan:
            latents = Latents(zt, batch.mask, level=level)
        else:
            latents = Latents(batch.denoise(zt, level) * batch.mask[..., None], batch.mask)
        read = read_conditions(self.autoencoder, batch.raw, len(batch.z0))
        if self.decoder != "parallel":
            mean = self.autoencoder.log_likelihood(latents, batch.ids, batch.there, read=read)
            return -mean * batch.there.sum(1)
        assert self.autoencoder.parallel_decoder is not None
        memory, mask = self.autoencoder.expand(latents, read=read)
        logits = self.autoencoder.parallel_decoder(memory, mask, self.autoencoder.backbone.embedding)
        chosen = logits[:, : batch.ids.shape[1]].float().log_softmax(-1).gather(-1, batch.ids[..., None])[..., 0]
        return -(chosen * batch.there).sum(1)

    def length(self, batch: Batch) -> Tensor:
        """-log p(L | condition) in nats, [B]; 0 where all texts have as many latents."""
        if self.diffusion.length is None:
            return batch.z0.new_zeros(len(batch.z0))
        logits = self.diffusion.length(batch.raw, len(batch.z0)).float()
        return -logits.log_softmax(-1).gather(-1, batch.mask.sum(1, keepdim=True) - 1)[:, 0]

    @torch.no_grad()
    def survey(self, rows: Sequence[int], edges: Tensor, noise: Sequence[SampleNoise]) -> "Survey":
        """A coarse first pass over these rows, between the levels `edges` [K + 1] and at each of them."""
        parts, words, start = [], np.zeros(len(edges)), 0.0
        for batch in self.batches(rows):
            own = SampleNoise.join([noise[row] for row in batch.rows])
            parts.append(profile(batch.denoise, self.diffusion.schedule, batch.z0, batch.mask, edges, own))
            eps = draw_like(batch.z0, batch.mask, own)  # the same at all levels, which are compared
            words += [float(self.wording(batch, level, eps).sum()) for level in edges.tolist()]
            start += float(start_nats(self.diffusion.schedule, batch.z0, batch.mask).sum())
        return Survey(Profile.joined(parts), start / len(rows), words / len(rows))

    @torch.no_grad()
    def measure(
        self, rows: Sequence[int], log_snr: float, found: Profile, noise: Sequence[SampleNoise], draws: int
    ) -> tuple[np.ndarray, ...]:
        """wording, latent, length and error of these rows, in their order: [len(rows)] each. found: of other texts."""
        terms = np.zeros((4, len(self.ids)))
        schedule, proposal = self.diffusion.schedule, found.proposal(log_snr)
        for batch in self.batches(rows):
            own = SampleNoise.join([noise[row] for row in batch.rows])
            latent = latent_nats(batch.denoise, schedule, batch.z0, batch.mask, log_snr, own, draws, proposal)
            count = max(2, draws // WORDING_SHARE)
            words = torch.stack([self.wording(batch, log_snr, draw_like(batch.z0, batch.mask, own))
                                 for _ in range(count)]).double().cpu()  # fmt: skip
            error = (latent.error.square() + words.var(0) / count).sqrt()
            for place, term in enumerate((words.mean(0), latent.nats, self.length(batch).cpu(), error)):
                terms[place, batch.rows] = term.numpy()
        return tuple(terms[:, rows])


def text_likelihood(
    autoencoder: TextAutoencoder,
    diffusion: LatentDiffusionModel,
    reader: SourceReader,
    sampling: SamplingOptions,
    texts: Sequence[str],
    *,
    name: str = "model",
    label: Values = None,
    source: str | Iterable[str | None] | None = None,
    attributes: Mapping[str, Values] | None = None,
    seed: int = 0,
    draws: int = 16,
    log_snr: float | None = None,
    decoder: DecoderName | None = None,
    batch_size: int = 32,
) -> LikelihoodReport:
    """The bound of each text given its conditions. The models are in eval mode and on one device.

    Args:
        sampling: says where the sampler stops.
        name: of the model, for the report.
        label, source, attributes: one for all texts, or one for each (None: none), as in `LatentDiffusion.generate`.
        seed: of the first text's random draws; seeds count up. A text's draws do not depend on the batch.
        draws: of levels for each text, at least 2. More draws give smaller errors.
        log_snr: to which the latents are noised; None: the level that is best for the other half of the texts, and in
            a second row the one at which the sampler stops. A single text has the second row alone.
        decoder: as in `TextAutoencoder.decode`.

    Raises:
        UserError: an unknown label or value, lengths that disagree, a source for a model that takes none, no such
            decoder, log_snr outside the range of the schedule, a seed, draws or a batch size out of range.
    """
    request = Request.line_up(len(texts), seed, None, label, source, attributes, reader.config, counted="texts")
    if reader.config.source is None and any(own is not None for own in request.sources):
        raise UserError("this model was not trained with source texts; give no source")
    low, high = ends(diffusion.schedule)
    if log_snr is not None and not low <= check_number("log_snr", log_snr) <= high:
        raise UserError(f"log_snr is {log_snr:g}; this model's schedule allows {low:g} to {high:g}")
    draws = check_whole("draws", draws, 2)
    conditions = ConditionStore(reader, request.labels, request.sources, request.attributes)
    bound, counts = TextBound.of(autoencoder, diffusion, conditions, texts, decoder, batch_size)
    noise = [SampleNoise([seed]) for seed in request.seeds]
    stops = _stops(diffusion, sampling, request)
    edges = sorted({low, high, *stops, *(float(step) for step in STEPS if low < step < high)})
    halves = [half for half in (range(0, len(texts), 2), range(1, len(texts), 2)) if len(half)]
    # Each half is surveyed on the other one. (One text has no other: its draws of the survey serve only to place more.)
    surveys = [bound.survey(_some(half), torch.tensor(edges, dtype=torch.float64), noise) for half in halves[::-1]]

    def measured(levels: Sequence[Sequence[float]]) -> Nats:
        """levels: of each text of each half."""
        found = np.zeros((5, len(texts)))
        for half, survey, own in zip(halves, surveys, levels, strict=True):
            for level in sorted({*own}):
                rows = [row for row, its in zip(half, own, strict=True) if its == level]
                found[:4, rows] = bound.measure(rows, level, survey.profile, noise, draws)
                found[4, rows] = level
        wording, latent, length, error, where = found
        return Nats(wording, latent, length, where, error)

    rows: dict[str, Nats] = {}
    if log_snr is not None:
        rows["given"] = measured([[log_snr] * len(half) for half in halves])
    else:
        if len(halves) == 2:
            rows["best"] = measured([[survey.best] * len(half) for half, survey in zip(halves, surveys, strict=True)])
        rows["sampler"] = measured([[stops[row] for row in half] for half in halves])
    notes, best = [], rows.get("best")
    if best is not None and best.latent is not None and best.latent.mean() < DECODER_ALONE * best.total.mean():
        notes.append("At the best level hardly anything is left of the latents: that row is the decoder alone.")
    latents, words = (sum(getattr(own, what) for own in surveys) / len(surveys) for what in ("latent", "wording"))
    levels = tuple(Level(*map(float, own)) for own in zip(edges, latents, words, strict=True))
    return LikelihoodReport(name, counts, rows, levels, tuple(notes))


def _stops(diffusion: LatentDiffusionModel, sampling: SamplingOptions, request: Request) -> list[float]:
    """The log-SNR at which the sampler stops, of each text."""
    halves = [sampling.conditional if request.names(row) else sampling.unconditional for row in range(len(request))]
    times = torch.tensor([half.stop_time for half in halves], dtype=torch.float64)
    found: list[float] = diffusion.schedule.log_snr(times).tolist()
    return found


def _some(half: Sequence[int]) -> list[int]:
    """At most MOST_TUNING rows, from the whole half."""
    return list(half)[:: -(-len(half) // MOST_TUNING)]
