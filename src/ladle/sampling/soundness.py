"""The scores that choose among candidates: how well a text fits together, and how similar it is to the others."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.conditioning.decoder import read_conditions
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.prediction import add_noise
from ladle.diffusion.schedule import Level
from ladle.diffusion.wrappers import guided
from ladle.sampling.request import Request
from ladle.seeding import SampleNoise

# Diffusion times at which a text is judged: one leaves a rough plan of the text (.7 to .9 choose alike), the other,
# used with a source, leaves almost nothing but the source (benchmarks/LOG.md).
PLAN_TIME, SOURCE_TIME = 0.8, 0.97


@dataclass(frozen=True)
class SoundnessScore:
    """The default score of candidates: a number for each text of one sample.

    Without a source it is the `soundness` of the texts. With a source all texts should say the same. Then similarity to
    the other texts (minimum Bayes risk) counts as much as soundness, and half of the soundness is how well a text fits
    the source.

    ignored: names of conditions that the texts need not obey.
    """

    autoencoder: TextAutoencoder
    diffusion: LatentDiffusionModel
    reader: SourceReader
    guidance_scale: float
    ignored: Collection[str] = ()

    def __call__(self, texts: list[str], request: Request) -> list[float]:
        count = len(texts)
        device = self.diffusion.device
        (source,), (seed,) = request.sources, request.seeds
        conditions = ConditionStore(
            self.reader, request.labels * count, request.sources * count, request.attributes * count
        ).without(self.ignored)
        raw = conditions.gather(torch.arange(count)).to(device)
        tokens = {name: ids.to(device) for name, ids in self.autoencoder.backbone.tokenize(texts).items()}
        z0 = self.autoencoder.encode_texts(texts)

        def sound(guidance_scale: float, time: float) -> torch.Tensor:
            noise = SampleNoise([seed] * count)  # one for all that are compared
            return soundness(self.autoencoder, self.diffusion, tokens, raw, noise, guidance_scale, time, z0).cpu()

        value = sound(self.guidance_scale, PLAN_TIME)
        if source is not None:
            # (Weights: benchmarks/LOG.md. More for likelihood reads better and leaves out more facts.)
            value = (value + sound(1.0, SOURCE_TIME)) / 2 + torch.tensor(likeness_to_others(texts), dtype=torch.float32)
        return [float(number) for number in value]


def noised_estimate(
    diffusion: LatentDiffusionModel,
    z0: torch.Tensor,
    mask: torch.Tensor,
    raw: RawCondition,
    level: Level,
    noise: torch.Tensor,
    guidance_scale: float,
) -> torch.Tensor:
    """The denoiser's estimate of latents z0 [B, L, D] noised to `level`, with guidance and self-conditioning, as a
    sampler that stops at `level` would return it."""
    zt = add_noise(z0, noise, level)
    denoise = diffusion.denoise(mask, diffusion.condition.encode(raw, len(z0)))
    previous = denoise(zt, level)
    if guidance_scale != 1 and raw.given_rows(len(z0)).any():
        nothing = diffusion.condition.encode(RawCondition(), len(z0))
        denoise = guided(denoise, diffusion.denoise(mask, nothing), guidance_scale)
    return denoise(zt, level, previous)


@torch.no_grad()
def soundness(
    autoencoder: TextAutoencoder,
    diffusion: LatentDiffusionModel,
    tokens: dict[str, torch.Tensor],
    raw: RawCondition,
    noise: SampleNoise,
    guidance_scale: float,
    time: float = PLAN_TIME,
    z0: Latents | None = None,
) -> torch.Tensor:
    """How well each text fits together: [B], the mean log-probability of its tokens under the autoregressive decoder,
    which reads the denoiser's estimate of the text's own latents at diffusion time `time`.

    At that time only a rough plan is left of the latents, so the score says whether the decoder would choose these
    words for the plan. It finds breaks that the distance between latents and text does not show (benchmarks/LOG.md).
    Near time 1 not even the plan is left; then the score says how well the text fits its condition.

    Args:
        autoencoder, diffusion: in eval mode; the decoder should be adapted to estimates.
        tokens: input_ids and attention_mask, [B, S].
        noise: one stream per row; use the same seed for texts that are compared.
        time: diffusion time in (0, 1].
        z0: the texts' latents, if they are known.
    """
    z0 = autoencoder.encode(**tokens) if z0 is None else z0
    level = diffusion.schedule.level(z0.values.new_full((len(z0.values),), time))
    shapes = [(int(length), diffusion.latent_dim) for length in z0.mask.sum(1)]
    drawn = noise.normal(shapes).to(z0.values)
    if autoencoder.is_plan:  # its decoder reads noised plans, so it needs no estimate
        noised = Latents(add_noise(z0.values, drawn, level), z0.mask, level=level)
        read = read_conditions(autoencoder, raw, len(z0))
        return autoencoder.log_likelihood(noised, tokens["input_ids"], tokens["attention_mask"], read=read)
    estimate = noised_estimate(diffusion, z0.values, z0.mask, raw, level, drawn, guidance_scale)
    estimated = Latents(estimate * z0.mask[..., None], z0.mask)
    return autoencoder.log_likelihood(estimated, tokens["input_ids"], tokens["attention_mask"])


def likeness_to_others(candidates: Sequence[str]) -> list[float]:
    """Mean similarity of each candidate to the others, 0 to 1. The highest is the choice with minimum Bayes risk
    (arXiv 2212.09462, section 5).

    The similarity is sentence BLEU (sacrebleu, effective order). Empty texts have similarity 0.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    counts = Counter(candidates)
    texts = [text for text in counts if text.strip()]

    def value(text: str) -> float:
        same = 100.0 * (counts[text] - 1)
        others = sum(counts[o] * metric.sentence_score(text, [o]).score for o in texts if o != text)
        return (same + others) / 100 / max(1, len(candidates) - 1)

    values = {text: value(text) for text in texts}
    return [values.get(text, 0.0) for text in candidates]
