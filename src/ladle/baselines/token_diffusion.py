"""The second rival: continuous diffusion over the vectors of tokens, one for each token of the text.

It is Diffusion-LM (Li et al., arXiv 2205.14217) with what has been found to help since:

* vectors of one length, learnt by a cross-entropy through the softmax over all of them (arXiv 2211.15089, 2604.11748);
* the output prior of Plaid (arXiv 2305.18619): what the noised vectors alone say of each token is worked out exactly,
  and the network learns the rest;
* vectors that start where tokens have like neighbours (`neighbour_vectors`);
* self-conditioning, and times that follow the cross-entropy (`AdaptiveTimes`), in training and in sampling.

Denoiser, schedules, conditions, lengths and samplers are Ladle's own.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ladle.autoencoder.signs import literal, written
from ladle.baselines.folder import load_module, save_module
from ladle.baselines.inputs import Given, sample_seeds
from ladle.conditioning.config import ConditionConfig, SourceConfig
from ladle.conditioning.encoder import Condition, ConditionEncoder, RawCondition
from ladle.config import Config
from ladle.diffusion.lengths import LengthModel
from ladle.diffusion.loss import AdaptiveTimes, DenoisingConfig, DiffusionBatch, Noised
from ladle.diffusion.samplers import SAMPLERS, Denoise
from ladle.diffusion.schedule import Level, Schedule, ScheduleConfig, build_schedule, sampling_levels
from ladle.diffusion.transformer import CompactConfig, DenoisingTransformer
from ladle.diffusion.wrappers import guided_at_once
from ladle.errors import UserError
from ladle.layers import lengths_to_mask
from ladle.seeding import SampleNoise
from ladle.storage.kinds import TOKEN_DIFFUSION

RECORD = "token_diffusion.json"
NUM_STEPS = 64  # of a sampler
DIRECTION_STD = 0.05  # of a new vector's channels before it gets its length
NEIGHBOURS = 0.7  # share of a new vector that its token's neighbours decide
SMOOTHED = 0.75  # power of the neighbours' frequencies, which keeps rare ones from counting most
PLACES = 512  # whose tokens are weighed at once
MOST_LOG_SNR = 6.0  # where the noised vectors alone are taken for sure: beyond, their part of the logits stays the same


class TokenDiffusionConfig(Config):
    """Sizes, noise and conditions.

    dim: D, channels of a token's vector. schedule, times: the noise, and which times are drawn (`adaptive`: also which
    times a sampler visits). labels: names of the classes. source: whether there is a source text, read by so many
    `source_layers`. drop_prob: share of samples that lose each condition in training. Longer texts and sources are cut.
    """

    dim: int = Field(64, ge=2)
    network: CompactConfig = CompactConfig(width=384, num_layers=9, num_heads=6, dropout=0.1)
    schedule: ScheduleConfig = ScheduleConfig(shift=2.0)
    times: Literal["uniform", "adaptive"] = "adaptive"
    self_condition: bool = True
    labels: tuple[str, ...] = ()
    source: bool = False
    source_layers: int = Field(2, ge=0)
    drop_prob: float = Field(0.1, ge=0, le=1)
    max_tokens: int = Field(96, ge=1)
    max_source_tokens: int = Field(96, ge=1)


class TokenDenoiser(nn.Module):
    """Noised vectors [B, L, D] -> how likely each token of the vocabulary is at each place.

    network: Ladle's denoiser; its output is a vector of tokens like those that are wanted. schedule: gives alpha and
    sigma of a log-SNR.
    """

    def __init__(self, network: DenoisingTransformer, vocab_size: int, dim: int, schedule: Schedule):
        super().__init__()
        self.network, self.schedule, self.dim = network, schedule, dim
        # Their lengths do not matter but for one thing: an optimiser's step turns short ones further.
        self.directions = nn.Parameter(DIRECTION_STD * torch.randn(vocab_size, dim))
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    @property
    def table(self) -> Tensor:
        """The vectors of all tokens, [V, D], each of length sqrt(D), so that a channel has variance 1."""
        return math.sqrt(self.dim) * F.normalize(self.directions, dim=-1)

    def logits(self, zt: Tensor, log_snr: Tensor, **given: Any) -> Tensor:
        """[B, L, V]; see `told`."""
        return F.linear(self.told(zt, log_snr, **given), self.table, self.bias).float()

    def told(
        self,
        zt: Tensor,
        log_snr: Tensor,
        *,
        self_condition: Tensor | None = None,
        self_condition_mask: Tensor | None = None,
        **given: Any,
    ) -> Tensor:
        """[B, L, D]: what is known of each place. Its products with the tokens' vectors, and the bias, are the logits.

        As all vectors e have one length, log p(zt | e) is alpha / sigma^2 zt . e and a constant: that is one part, and
        the network gives the other. Where the network has no earlier estimate to read, it reads the mean of the vectors
        by Bayes' rule from each noised vector alone. It would have to learn that rule before anything else.
        """
        level = self.schedule.level_from_log_snr(log_snr.clamp_max(MOST_LOG_SNR)).expand(zt)
        seen = level.alpha / level.sigma.square() * zt
        if self_condition is None or self_condition_mask is not None:
            with torch.no_grad():
                alone = self.mean_vectors(seen)
            if self_condition is not None and self_condition_mask is not None:
                alone = torch.where(self_condition_mask[:, None, None], self_condition.to(alone), alone)
            self_condition = alone
        return seen + self.network(zt, log_snr, self_condition=self_condition, **given)

    def mean_vectors(self, told: Tensor, temperature: float = 1.0) -> Tensor:
        """Means of the vectors [B, L, D], each as likely as `told` says; temperature as of `forward`. In parts, since
        [B, L, V] at once would not stay in a processor's cache, and in 32 bits, since the logits can be large."""
        with torch.autocast(told.device.type, enabled=False):
            table, means = self.table, []
            for part in told.float().flatten(0, 1).split(PLACES):
                logits = F.linear(part, table, self.bias)
                if temperature == 0:
                    means.append(table[logits.argmax(-1)])
                else:
                    means.append((logits / temperature).softmax(-1) @ table)
            return torch.cat(means).view(told.shape)

    def forward(self, zt: Tensor, log_snr: Tensor, temperature: float = 1.0, **given: Any) -> Tensor:
        """z0_hat [B, L, D]: the mean of the vectors, each as likely as its token. temperature: 1 gives the mean, less
        gives the likelier tokens more weight, 0 gives the vector of the likeliest one (Diffusion-LM's clamping)."""
        return self.mean_vectors(self.told(zt, log_snr, **given), temperature)


def cross_entropy(model: "TokenDiffusionModel", noised: Noised, config: DenoisingConfig) -> tuple[Tensor, Tensor]:
    """The objective: nats of the token at each place [B, L]. It also decides how often each time is drawn."""
    ids = noised.batch.ids
    assert ids is not None
    logits = model.denoiser.logits(noised.zt, noised.level.log_snr, **noised.given)
    nats = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(ids)
    return nats, nats


class TokenDiffusionModel(nn.Module):
    """p(number of tokens, their vectors | condition).

    Args:
        config: sizes, noise and conditions.
        tokenizer: with a padding token.
    """

    def __init__(self, config: TokenDiffusionConfig, tokenizer: Any):
        super().__init__()
        self.config, self.tokenizer = config, literal(tokenizer)
        self.own_schedule = build_schedule(config.schedule)
        source = SourceConfig(num_layers=config.source_layers, max_tokens=config.max_source_tokens)
        conditions = ConditionConfig(labels=config.labels, source=source if config.source else None)
        network = config.network
        self.condition = ConditionEncoder(conditions, network.width, config.dim, network.num_heads)
        transformer = DenoisingTransformer(network, config.dim, config.max_tokens, config.source)
        self.denoiser = TokenDenoiser(transformer, len(tokenizer), config.dim, self.own_schedule)
        self.length = LengthModel(conditions, config.dim, config.max_tokens)
        self.adaptive_times = AdaptiveTimes() if config.times == "adaptive" else None
        self.info: dict[str, Any] = {}  # how it was trained

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what `save_pretrained` wrote. UserError for a missing or damaged file."""
        from transformers import AutoTokenizer

        return load_module(
            folder, RECORD,
            lambda config, where: cls(
                TokenDiffusionConfig.parse(config, str(where / RECORD)),
                AutoTokenizer.from_pretrained(where / "tokenizer"),
            ),
            "token diffusion model", "train one with ladle benchmark",
        )  # fmt: skip

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), settings and tokenizer, whole or not at all."""
        save_module(self, folder, TOKEN_DIFFUSION, RECORD, self.tokenizer)

    @property
    def num_parameters(self) -> int:
        """Of all parts."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def self_conditions(self) -> bool:
        """Whether the network reads its own last estimate."""
        return self.config.self_condition

    @property
    def schedule(self) -> Schedule:
        """The schedule of a sampler: with adaptive times, each step takes an equal share of the cross-entropy. In
        training it is the config's own, since the times are drawn by `DenoisingLoss`."""
        adaptive, own = self.adaptive_times, self.own_schedule
        if adaptive is None or self.training:
            return own
        return Schedule(lambda t: own.log_snr(adaptive(t.float()).to(t.dtype)), own.path)

    def denoise(self, mask: Tensor, condition: Condition, temperature: float = 1.0) -> Denoise:
        """The `Denoise` function of a batch: mask [B, L], conditions; temperature as of `TokenDenoiser`."""

        def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
            previous = z0_prev if self.self_conditions else None
            z0_hat = self.denoiser(
                zt, level.log_snr, temperature, mask=mask, condition=condition, self_condition=previous
            )
            return z0_hat.float() * mask[..., None]

        return denoise

    # --------------------------------------------------------------------------------------------------- training

    @torch.no_grad()
    def start_from_counts(self, texts: Sequence[Sequence[int]]) -> None:
        """Before the training: tokens and lengths are as frequent as in these texts, given as ids, and tokens with like
        neighbours have like vectors. Then noise hides which of them it is before it hides which kind it is, and a
        training gets as far in two thirds of the steps (benchmarks/LOG.md)."""
        lengths, ids = torch.tensor([len(text) for text in texts]), torch.tensor([i for text in texts for i in text])
        counts = torch.bincount(ids, minlength=len(self.tokenizer)) + 0.01
        self.denoiser.bias.copy_(counts.log() - counts.sum().log())
        near = neighbour_vectors(ids, lengths, *self.denoiser.directions.shape)
        mixed = NEIGHBOURS * near + (1 - NEIGHBOURS) * F.normalize(self.denoiser.directions, dim=-1)
        self.denoiser.directions.copy_(DIRECTION_STD * math.sqrt(self.config.dim) * mixed)
        self.length.fit_base(lengths)

    def batch(self, texts: Sequence[Sequence[int]], raw: RawCondition, lengths: Tensor, length_raw: RawCondition
    ) -> DiffusionBatch:  # fmt: skip
        """Texts as ids, with conditions, without the vectors, which change in training. The length model learns from
        other texts' `lengths` [R] and conditions."""
        ids, mask = padded(texts, self.tokenizer.pad_token_id)
        return DiffusionBatch(torch.empty(len(ids), 0), mask, raw, lengths, length_raw, ids)

    def with_vectors(self, batch: DiffusionBatch) -> DiffusionBatch:
        """The batch with the vectors of its tokens and of its sources' tokens, for `DenoisingLoss`."""
        assert batch.ids is not None
        return batch._replace(
            z0=self.denoiser.table[batch.ids],
            condition=self.read_sources(batch.condition),
            length_condition=self.read_sources(batch.length_condition),
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without an end token; an empty text is one unknown token."""
        cut = {"truncation": True, "max_length": self.config.max_tokens + 1}
        rows = self.tokenizer(list(texts), **cut)["input_ids"] if texts else []
        end, unknown = self.tokenizer.eos_token_id, self.tokenizer.unk_token_id or 0
        return [[i for i in row if i != end][: self.config.max_tokens] or [unknown] for row in rows]

    def raw_condition(self, labels: Sequence[str | None], sources: Sequence[str | None]) -> RawCondition:
        """The conditions of some texts, as tensors.

        Raises:
            UserError: a label that the model was not trained with, or a source for a model that reads none.
        """
        raw = RawCondition()
        if self.config.labels or any(label is not None for label in labels):
            raw = replace(raw, label_ids=self.condition.config.label_ids(labels))
        if not self.config.source:
            if any(source is not None for source in sources):
                raise UserError("this model was trained without sources; leave out the source")
            return raw
        cut = {"truncation": True, "max_length": self.config.max_source_tokens}
        rows = [self.tokenizer(source, **cut)["input_ids"] if source is not None else [] for source in sources]
        ids, mask = padded(rows, self.tokenizer.pad_token_id)
        return replace(raw, source_ids=ids, source_ids_mask=mask)

    def read_sources(self, raw: RawCondition) -> RawCondition:
        """The same conditions with the vectors of the sources' tokens, [B, M, D]."""
        if raw.source_ids is None:
            return raw
        return replace(raw, source=self.denoiser.table[raw.source_ids], source_mask=raw.source_ids_mask)

    # ------------------------------------------------------------------------------------------------- generation

    @torch.no_grad()
    def generate(
        self,
        num_samples: int | None = None,
        *,
        seeds: Sequence[int] | None = None,
        label: Given = None,
        source: Given = None,
        num_steps: int = NUM_STEPS,
        sampler: str = "ddpm",
        temperature: float = 1.0,
        guidance_scale: float = 1.0,
        bf16: bool = False,
        batch_size: int = 128,
    ) -> list[str]:
        """Draw texts. One seed a sample (0, 1, ... when None), as in Ladle's `generate`.

        Args:
            num_steps: of the sampler, one of SAMPLERS.
            temperature: of each estimate, as of `TokenDenoiser`.
            guidance_scale: of classifier-free guidance; 1 is off.
            bf16: whether the network computes in 16 bits. That is faster, and texts differ a little.

        Raises:
            UserError: an unknown label or sampler, a negative temperature.
        """
        if sampler not in SAMPLERS:
            raise UserError(f"unknown sampler '{sampler}'; allowed are {', '.join(SAMPLERS)}")
        if not temperature >= 0 or num_steps < 1:
            raise UserError(f"temperature {temperature}, num_steps {num_steps}; they must be at least 0 and 1")
        seeds = sample_seeds(num_samples, seeds, label, source)
        count = len(seeds)
        raw = self.raw_condition(label or [None] * count, source or [None] * count)
        texts: list[str] = []
        for start in range(0, count, batch_size):
            rows = slice(start, start + batch_size)
            with torch.autocast(self.denoiser.bias.device.type, torch.bfloat16, enabled=bf16):
                z0, lengths = self._draw(
                    raw[rows], SampleNoise(seeds[rows]), num_steps, sampler, temperature, guidance_scale
                )
            nearest = (z0 @ self.denoiser.table.T).argmax(-1).cpu()
            ids = [row[:length].tolist() for row, length in zip(nearest, lengths, strict=True)]
            texts += [
                written(text, None).strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            ]
        return texts

    def _draw(
        self, raw: RawCondition, noise: SampleNoise, num_steps: int, sampler: str, temperature: float, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Vectors of one batch [B, L, D], and how many each text has [B]: number of tokens, noise, sampler."""
        device, count = self.denoiser.bias.device, len(noise)
        raw = self.read_sources(raw.to(device))
        lengths = self.length.sample(raw, noise.uniform()).cpu()
        mask = lengths_to_mask(lengths, int(lengths.max())).to(device)
        shapes = [(int(length), self.config.dim) for length in lengths]
        if scale == 1:
            denoise = self.denoise(mask, self.condition.encode(raw, count), temperature)
        else:
            both = self.condition.encode(raw.and_without(), 2 * count)
            denoise = guided_at_once(self.denoise(mask.repeat(2, 1), both, temperature), scale)
        levels = [level.to(device) for level in sampling_levels(self.schedule, num_steps)]
        start = levels[0].sigma * noise.normal(shapes).to(device)
        return SAMPLERS[sampler](denoise, start, levels, noise=lambda: noise.normal(shapes).to(device)), lengths


def neighbour_vectors(ids: Tensor, lengths: Tensor, vocab_size: int, dim: int) -> Tensor:
    """Vectors of tokens [V, D], of length 1, that are alike where tokens have like neighbours: the left singular
    vectors of the positive pointwise mutual information with the two tokens on each side (Levy and Goldberg, 2014).
    Zero for tokens without neighbours.

    ids: the tokens of all texts, one text after the other; lengths: of the texts.
    """
    text = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    places, weights = [], []
    for apart in (1, 2):
        same = text[apart:] == text[:-apart]
        left, right = ids[:-apart][same], ids[apart:][same]
        places += [torch.stack([left, right]), torch.stack([right, left + vocab_size])]
        weights += [torch.full((2 * len(left),), 1 / apart)]
    size = (vocab_size, 2 * vocab_size)
    counts = torch.sparse_coo_tensor(
        torch.cat(places, dim=1), torch.cat(weights), size, check_invariants=False
    ).coalesce()
    rows, columns = counts.indices()
    if not len(rows):
        return torch.zeros(vocab_size, dim)
    of_row, of_column = counts.sum(1).to_dense(), counts.sum(0).to_dense().pow(SMOOTHED)
    expected = of_row[rows] * of_column[columns] / of_column.sum()
    information = torch.sparse_coo_tensor(
        counts.indices(), (counts.values() / expected).log().clamp_min(0), size, check_invariants=False
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        left, strength, _ = torch.svd_lowrank(information.coalesce(), q=min(dim, vocab_size), niter=4)
    vectors = left * strength.sqrt()
    vectors = (vectors - vectors.mean(0)) * (of_row > 0)[:, None]
    return F.pad(F.normalize(vectors, dim=-1), (0, dim - vectors.shape[1]))


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows of ids -> ids [B, L] and mask [B, L], with one place at least."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = pad_sequence([torch.tensor([*row, pad]) for row in rows], batch_first=True, padding_value=pad)
    ids = ids[:, : max(1, int(lengths.max()))]
    return ids, lengths_to_mask(lengths, ids.shape[1])
