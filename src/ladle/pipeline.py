"""LatentDiffusion: texts in, texts out. The one class that most users need."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.conditioning.encoder import RawCondition
from ladle.data.stores import length_order
from ladle.diffusion.classifier import NUM_LEVELS, log_evidence
from ladle.diffusion.model import LatentDiffusionModel
from ladle.errors import UserError
from ladle.sampling.candidates import Candidates
from ladle.sampling.draw import draw_latents, draw_lengths
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Conditions, Request
from ladle.seeding import SampleNoise
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.names import resolve_model
from ladle.storage.parts import ModelParts
from ladle.storage.record import model_digest

Decoder = Literal["autoregressive", "parallel"]
OnStep = Callable[[int, int], None]


class LatentDiffusion:
    """A trained model: an autoencoder, and (but for `base-en`) a diffusion model over its latents.

        model = LatentDiffusion.from_pretrained("e2e")
        model.generate(num_samples=8)
        model.generate(source=["name[Aromi], food[Italian]"], guidance_scale=2.0)

    Args:
        parts: from `load_parts`, or put together by hand.
        device: where to run; a GPU if there is one when None.
        digest: what identifies the weights in written samples.
    """

    def __init__(self, parts: ModelParts, device: str | torch.device | None = None, digest: str | None = None):
        self.parts, self.digest = parts, digest
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.to(self.device)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, device: str | torch.device | None = None) -> Self:
        """Load a model folder, a shipped model by name, or a hub id.

        Raises:
            UserError: no such model, or a damaged folder.
        """
        folder = resolve_model(str(name_or_path))
        return cls(load_parts(folder), device, model_digest(folder))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a model folder that `from_pretrained` reads; `dtype` (float16, say) is that of the stored weights."""
        save_parts(self.parts, folder, dtype=dtype)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model folder to the Hugging Face hub; returns its address. `options` are `create_repo`'s."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, exist_ok=True, **options)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))

    def to(self, device: str | torch.device) -> Self:
        """Move to a device; the model is in eval mode."""
        self.device = torch.device(device)
        self.parts.reader().to(self.device)  # the autoencoder is in it
        if self.parts.diffusion is not None:
            self.parts.diffusion.to(self.device).eval()
        return self

    @property
    def autoencoder(self) -> TextAutoencoder:
        """The text autoencoder."""
        return self.parts.autoencoder

    @property
    def diffusion(self) -> LatentDiffusionModel:
        """The diffusion model. UserError where there is none (`base-en`)."""
        if self.parts.diffusion is None:
            raise UserError(
                f"'{self.parts.name}' is an autoencoder without a diffusion model, so it cannot sample: "
                "train one with `ladle train --data FILE`, or use a shipped generator such as 'e2e'"
            )
        return self.parts.diffusion

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that the model can be asked for."""
        return self.parts.diffusion.condition.config.labels if self.parts.diffusion is not None else ()

    @property
    def takes_source(self) -> bool:
        """Whether the model can be conditioned on a source text."""
        return self.parts.diffusion is not None and self.parts.diffusion.condition.config.source

    @property
    def max_tokens(self) -> int:
        """The longest text, in tokens; longer ones are cut."""
        return self.autoencoder.backbone.max_tokens

    # ------------------------------------------------------------------------------------------------- generation

    def generate(
        self,
        num_samples: int | None = None,
        *,
        seeds: Iterable[int] | None = None,
        label: str | Sequence[str | None] | None = None,
        source: str | Sequence[str | None] | None = None,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        candidates: int | None = None,
        choose: Literal["sound", "label"] | None = None,
        label_confidence: float | None = None,
        decoder: Decoder | None = None,
        decoder_temperature: float | None = None,
        decoder_top_p: float | None = None,
        num_beams: int | None = None,
        batch_size: int = 128,
        on_step: OnStep | None = None,
    ) -> list[str]:
        """Draw texts.

        Args:
            num_samples: how many; found from `seeds`, `label` or `source` when None.
            seeds: one per sample (0, 1, 2, ... when None). A seed gives its text at any batch size.
            label: one class for all samples, or one each (None: unconditional).
            source: one source text for all samples, or one each.
            num_inference_steps, sampler, guidance_scale: those that the model was saved with when None.
            temperature: of the sampler's noise and of the lengths, with and without a condition; those that the model
                was saved with when None.
            candidates: draw so many a sample and keep the one whose words go together best
                (`ladle.sampling.soundness.soundness`); as many as the model was saved with when None. With a source, where all
                should say the same, being near to the others (minimum Bayes risk) and to the source counts as much.
                With a label, those that are not what it says are passed over, where the model tells labels by words.
            choose: `label` keeps the first candidate that `classify` takes for its label instead.
            label_confidence: how likely (0 to 1) `classify` must find the label for that.
            decoder: `autoregressive` or `parallel`.
            decoder_temperature, decoder_top_p: how it draws words; 0 takes the likeliest. Those that the model was
                saved with when None.
            num_beams: search for the likeliest text instead, so wide (`decoder_temperature` 0).
            batch_size: samples at once.
            on_step: called with (steps done, steps in all, as far as is known: candidates may ask for another round).

        Returns:
            Texts, in the order of the seeds.

        Raises:
            UserError: lengths that disagree, an unknown label or sampler, a count below 1.
        """
        sampling = self._sampling(
            {
                "num_inference_steps": num_inference_steps, "sampler": sampler, "guidance_scale": guidance_scale,
                "temperature": temperature, "length_temperature": temperature, "free_temperature": temperature,
                "decoder": decoder, "decoder_temperature": decoder_temperature, "decoder_top_p": decoder_top_p,
                "num_beams": num_beams, "candidates": candidates, "choose": choose,
                "label_confidence": label_confidence,
            }
        )  # fmt: skip
        self._check_decoder(sampling.decoder)
        request = Request.line_up(num_samples, seeds, label, source)
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be at least 1")
        spent = 0  # steps of earlier rounds of candidates

        def draw(part: Request, count: int) -> list[str]:
            nonlocal spent
            before = spent

            def told(done: int, total: int) -> None:
                nonlocal spent
                spent = before + done
                if on_step is not None:
                    on_step(spent, before + total)

            return self._texts(part, sampling, batch_size, told, count)

        among = Candidates(self, sampling, batch_size, draw)
        texts = [""] * len(request)
        by_label = [sampling.choose == "label" and sampling.candidates > 1 and own is None for own in request.sources]
        for choose_among, chosen in ((among.soundest, False), (among.first_with_label, True)):
            rows = [row for row, own in enumerate(by_label) if own == chosen]
            if rows:
                for row, text in zip(rows, choose_among(request.part(rows)), strict=True):
                    texts[row] = text
        return texts

    def _texts(
        self, request: Request, sampling: SamplingOptions, batch_size: int, on_step: OnStep | None, candidates: int = 1
    ) -> list[str]:
        """One text a seed; `candidates` in a row are of one sample."""
        noise = [SampleNoise([seed]) for seed in request.seeds]
        latents = self._draw(noise, request, sampling, batch_size, on_step, candidates)
        how: dict[str, Any] = {}
        if sampling.num_beams > 1:
            how = {"num_beams": sampling.num_beams}
        elif sampling.decoder_temperature:
            how = {"do_sample": True, "temperature": sampling.decoder_temperature, "top_p": sampling.decoder_top_p}
        return self._decode_many(latents, sampling.decoder, batch_size, noise=noise, **how)

    def _draw(
        self,
        noise: list[SampleNoise],
        request: Request,
        sampling: SamplingOptions,
        batch_size: int,
        on_step: OnStep | None,
        candidates: int = 1,
    ) -> list[torch.Tensor]:
        """z0 [L, D] of each sample, on the CPU. noise: each sample's own stream, which goes on from here. candidates:
        so many in a row are of one sample."""
        diffusion = self.diffusion  # (which says so where there is none)
        conditions = Conditions(self.parts, request)
        lengths = torch.cat(
            [
                draw_lengths(diffusion, conditions.batch(rows), _joined(noise, rows), sampling)
                for rows in torch.arange(len(noise)).split(batch_size)
            ]
        )
        # Short texts come back from their latents better than long ones: candidates that are compared by that get one
        # length, or the choice would be for brevity.
        own = torch.arange(len(noise))
        first = own - own % candidates
        lengths = torch.where(conditions.with_source, lengths, lengths[first])
        # Samples of like length share a batch, so that little of it is padding; those without a condition are apart.
        order = torch.sort(lengths, stable=True).indices
        given = conditions.given[order]
        batches = [rows for part in (order[given], order[~given]) if len(part) for rows in part.split(batch_size)]
        drawn: list[torch.Tensor] = [torch.empty(0)] * len(noise)
        total, done = len(batches) * sampling.num_inference_steps, 0

        def step() -> None:
            nonlocal done
            done += 1
            if on_step is not None:
                on_step(done, total)

        for rows in batches:
            latents = draw_latents(
                diffusion, conditions.batch(rows), _joined(noise, rows), lengths[rows], sampling, step
            )
            for row, values, length in zip(rows.tolist(), latents.values.cpu(), lengths[rows].tolist(), strict=True):
                drawn[row] = values[:length]
        return drawn

    def _sampling(self, given: dict[str, Any]) -> SamplingOptions:
        changed = {key: value for key, value in given.items() if value is not None}
        return SamplingOptions.parse({**self.parts.sampling.model_dump(), **changed}, "sampling")

    # --------------------------------------------------------------------------------------------- classification

    def classify(
        self,
        texts: str | Sequence[str],
        *,
        by: Literal["words", "denoiser"] | None = None,
        seeds: Sequence[int] | None = None,
        num_levels: int = NUM_LEVELS,
        batch_size: int = 128,
    ) -> torch.Tensor:
        """texts -> probabilities of the model's labels, [N, len(labels)].

        Args:
            by: `words`: which words and pairs of words are there, as in the texts that the model learnt from
                (`ladle.evaluation.judge`). `denoiser`: how well each label helps the model's own denoiser
                (`ladle.diffusion.classifier`), each as likely as another beforehand. None: words, where the model has
                what they need; they tell more (benchmarks/LOG.md).
            seeds: of the noise, one a text; 0 for all when None. A seed gives its figures at any batch size.
            num_levels: amounts of noise at which the classes are compared; more cost more and err less.

        Raises:
            UserError: a model without labels, no texts, another number of seeds, num_levels below 1, `words` of a model
                that was not trained to tell them.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        judge = self.parts.judge
        if not self.labels:
            raise UserError(f"'{self.parts.name}' was trained without labels: it cannot tell classes apart")
        if by not in (None, "words", "denoiser"):
            raise UserError(f"by is '{by}': allowed are words, denoiser")
        if by == "words" and judge is None:
            raise UserError(f"'{self.parts.name}' does not tell labels by words: use by=\"denoiser\"")
        if num_levels < 1:
            raise UserError(f"num_levels is {num_levels}: it must be at least 1")
        if not texts:
            raise UserError("no texts given")
        seeds = [0] * len(texts) if seeds is None else seeds
        if len(seeds) != len(texts):
            raise UserError(f"these disagree: texts {len(texts)}, seeds {len(seeds)}")
        if judge is not None and by != "denoiser":
            return torch.from_numpy(judge.probabilities(texts, self.labels))
        return self._classify_by_denoising(texts, seeds, num_levels, batch_size)

    @torch.no_grad()
    def _classify_by_denoising(
        self, texts: list[str], seeds: Sequence[int], num_levels: int, batch_size: int
    ) -> torch.Tensor:
        found = torch.zeros(len(texts), len(self.labels))
        for rows, latents in self._encode_batches(texts, batch_size):
            z0, mask = latents.values, latents.mask
            shapes = [(int(length), self.diffusion.latent_dim) for length in mask.sum(1)]
            noise = SampleNoise([seeds[row] for row in rows])
            draws = [noise.normal(shapes).to(z0) for _ in range(num_levels)]
            for number in range(len(self.labels)):
                raw = RawCondition(torch.full((len(rows),), number, device=self.device))
                denoise = self.diffusion.denoise(mask, self.diffusion.condition.encode(raw, len(rows)))
                found[rows, number] = log_evidence(denoise, self.diffusion.schedule, z0, draws).cpu()
        return found.softmax(1)

    # ----------------------------------------------------------------------------------- the autoencoder by itself

    @torch.no_grad()
    def encode(self, texts: str | Sequence[str], batch_size: int = 128) -> Latents:
        """texts -> normalised latents z0, [B, L, D] with mask [B, L]; texts beyond `max_tokens` are cut."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise UserError("no texts given")
        parts: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        for rows, latents in self._encode_batches(texts, batch_size):
            for row, values, mask in zip(rows, latents.values, latents.mask, strict=True):
                parts[row] = values[mask]
        return _padded(parts)

    @torch.no_grad()
    def decode(
        self, latents: Latents, decoder: Decoder | None = None, batch_size: int = 128, **options: Any
    ) -> list[str]:
        """z0 -> texts; `options` (num_beams, do_sample, top_p, temperature) are those of `TextAutoencoder.decode`."""
        parts = [values[mask] for values, mask in zip(latents.values, latents.mask, strict=True)]
        self._check_decoder(decoder)
        return self._decode_many(parts, decoder, batch_size, **options)

    def reconstruct(self, texts: Sequence[str], decoder: Decoder | None = None, batch_size: int = 128) -> list[str]:
        """texts -> latents -> texts."""
        return self.decode(self.encode(texts, batch_size), decoder, batch_size)

    def _encode_batches(self, texts: list[str], batch_size: int) -> Iterable[tuple[list[int], Latents]]:
        order = length_order(texts)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tokens = self.autoencoder.backbone.tokenize(texts[i] for i in rows)
            yield rows, self.autoencoder.encode(**{name: tensor.to(self.device) for name, tensor in tokens.items()})

    @torch.no_grad()
    def _decode_many(
        self,
        parts: list[torch.Tensor],
        decoder: Decoder | None,
        batch_size: int,
        noise: list[SampleNoise] | None = None,
        **options: Any,
    ) -> list[str]:
        texts = [""] * len(parts)
        order = sorted(range(len(parts)), key=lambda i: -len(parts[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            latents = _padded([parts[i] for i in rows]).to(self.device)
            streams = {} if noise is None else {"noise": SampleNoise.join([noise[row] for row in rows])}
            ids = self.autoencoder.decode(latents, decoder, **streams, **options)
            for row, text in zip(rows, self.autoencoder.backbone.detokenize(ids), strict=True):
                texts[row] = text
        return texts

    def _check_decoder(self, decoder: Decoder | None) -> None:
        if decoder == "parallel" and self.autoencoder.parallel_decoder is None:
            raise UserError(f"'{self.parts.name}' has no parallel decoder: use --decoder autoregressive")


def _joined(noise: list[SampleNoise], rows: torch.Tensor) -> SampleNoise:
    """The streams of some samples as one, each going on from where it is."""
    return SampleNoise.join([noise[row] for row in rows.tolist()])


def _padded(parts: list[torch.Tensor]) -> Latents:
    """[L_i, D] each -> Latents."""
    values = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    lengths = torch.tensor([len(part) for part in parts], device=values.device)
    return Latents(values, torch.arange(values.shape[1], device=values.device)[None, :] < lengths[:, None])
