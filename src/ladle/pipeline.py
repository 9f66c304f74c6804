"""LatentDiffusion: texts in, texts out. Most users need only this class."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, overload

import torch

from ladle.autoencoder.autoencoder import DecoderName, TextAutoencoder
from ladle.autoencoder.embedding import SentenceEncoderView, embed_texts
from ladle.autoencoder.latents import Latents
from ladle.autoencoder.signs import unlearnt_line
from ladle.checks import check_device, check_path, check_texts, check_whole
from ladle.conditioning.config import LABEL, SOURCE, ConditionConfig
from ladle.control.control import Control
from ladle.control.fitting import fit_control
from ladle.control.steer import Asked, steering_of
from ladle.data.in_memory import RowSource
from ladle.diffusion.classifier import NUM_LEVELS
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.schedule import Level
from ladle.editing.change import Change
from ladle.editing.editor import Editor
from ladle.editing.infill import infill
from ladle.errors import UserError
from ladle.evaluation.likelihood_report import LikelihoodReport
from ladle.evaluation.text_bound import text_likelihood
from ladle.layers import usual_defaults
from ladle.sampling.asked import check_asked
from ladle.sampling.candidates import ConditionCheck
from ladle.sampling.classes import check_question, shares_by_denoising
from ladle.sampling.generation import OnStep, Writer, generate_samples
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request, Sample, Values
from ladle.sampling.word_count import missed_line
from ladle.sampling.words import check_decoder, decode_latents, decode_texts, decoding, encode_texts
from ladle.seeding import SampleNoise, check_seeds
from ladle.storage.model_folder import Dtype, dtype_of, load_parts, save_parts
from ladle.storage.names import resolve_model
from ladle.storage.parts import ModelParts
from ladle.storage.record import model_digest
from ladle.storage.upload import upload

Device = str | torch.device | None
Texts = str | Iterable[str]  # one text, or texts in a list, an array, a column of a table, a generator


class LatentDiffusion:
    """A trained model: an autoencoder and (except in `base-en`) a diffusion model over its latents.

        model = LatentDiffusion.from_pretrained("e2e")
        model.generate(num_samples=8, seed=0)
        model.generate(source=["name[Aromi], food[Italian]"], guidance_scale=2.0)

    Args:
        parts: from `load_parts`, or put together by hand.
        device: where to run; None: a GPU if there is one.
        digest: identifies the weights in written samples.
    """

    def __init__(self, parts: ModelParts, device: Device = None, digest: str | None = None):
        if not isinstance(parts, ModelParts):
            raise UserError(f"parts are a {type(parts).__name__}; to load a model use LatentDiffusion.from_pretrained")
        self.parts, self.digest = parts, digest
        self.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None, dtype: Dtype = None, device: Device = None
    ) -> Self:
        """Load a model folder, a shipped model by name, or a hub id.

        Args:
            revision: branch, tag or commit of a model on the hub; None: its main branch.
            dtype: of the weights in memory: float32 (or None), float16 or bfloat16, as a `torch.dtype` or its name.
            device: where to run; None: a GPU if there is one.

        Raises:
            UserError: no such model, a damaged folder, another dtype, no such device, a revision for a model that is
                not on the hub.
        """
        known, place = dtype_of(dtype), None if device is None else check_device(device)  # before anything is read
        folder = resolve_model(check_path("name_or_path", name_or_path), revision=revision)
        model = cls(load_parts(folder), place, model_digest(folder))
        return model.to(model.device, known)

    def save_pretrained(self, folder: str | Path, dtype: Dtype = None) -> None:
        """Write a model folder that `from_pretrained` reads. `dtype`: of the stored weights, such as "float16". The
        sentence encoder of a shipped model is not written again; Ladle has it."""
        save_parts(self.parts, check_path("folder", folder), dtype=dtype_of(dtype))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model folder to the Hugging Face hub and return its address. `options`: of `create_repo`.

        Raises LadleError: the hub cannot be reached, or refuses.
        """
        return upload(self.parts, repo_id, **options)

    def to(self, device: str | torch.device, dtype: Dtype = None) -> Self:
        """Move to a device; the model is in eval mode.

        dtype: of the weights from now on, as in `from_pretrained`; None changes nothing. Latents, the sampler's
        arithmetic and the normaliser (a buffer that scales every latent) stay float32.

        Raises UserError: another dtype, no such device.
        """
        self.parts.to(check_device(device), dtype_of(dtype))
        return self

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.autoencoder.parameters()).device

    @property
    def autoencoder(self) -> TextAutoencoder:
        """The text autoencoder."""
        return self.parts.autoencoder

    @property
    def diffusion(self) -> LatentDiffusionModel:
        """The diffusion model. Raises UserError if there is none (`base-en`)."""
        if self.parts.diffusion is None:
            what = f"'{self.parts.name}' is an autoencoder without a diffusion model, so it cannot sample"
            raise UserError(f"{what}; train a model with `ladle train --data FILE`, or use one such as 'e2e'")
        return self.parts.diffusion

    @property
    def conditions(self) -> ConditionConfig:
        """The conditions that the model knows."""
        return ConditionConfig() if self.parts.diffusion is None else self.parts.diffusion.condition.config

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that the model knows."""
        return self.conditions.labels

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """The attributes that the model knows, beside labels, each with its values."""
        return dict(self.conditions.attributes)

    @property
    def takes_source(self) -> bool:
        """Whether the model can be conditioned on a source text."""
        return self.conditions.source is not None

    @property
    def max_tokens(self) -> int:
        """Length of the longest text, in tokens. Longer texts are cut."""
        return self.autoencoder.backbone.max_tokens

    @overload
    def generate(
        self, num_samples: int | None = None, *, return_samples: Literal[False] = False, **options: Any
    ) -> list[str]: ...
    @overload
    def generate(
        self, num_samples: int | None = None, *, return_samples: Literal[True], **options: Any
    ) -> list[Sample]: ...
    @usual_defaults(None)
    def generate(
        self,
        num_samples: int | None = None,
        *,
        seed: int | None = None,
        seeds: Iterable[int] | None = None,
        label: Values = None,
        source: str | Iterable[str | None] | None = None,
        attributes: Mapping[str, Values] | None = None,
        control: Asked | Iterable[Asked] | None = None,
        batch_size: int = 128,
        on_step: OnStep | None = None,
        return_samples: bool = False,
        **overrides: Any,
    ) -> list[str] | list[Sample]:
        """Draw texts.

        Args:
            num_samples: number of texts. None: the number of `seeds`, `label` or `source`, and 1 without them.
            seed: of the first text; seeds count up from it. 5 means 5, 6, 7, ... and gives the same texts each time.
                Without `seed` and `seeds` every call draws new texts.
            seeds: one for each text. A seed gives the same text at any batch size.
            label: one class for all texts, or one for each text (None: no class). 5 means "5".
            source: one source text for all texts, or one for each text (None: no source).
            attributes: by name one value for all texts, or one for each text (None: none): {"food": "Italian"}.
            control: what else is asked of all texts, one thing or several: `Steer(folder, label, scale)` with a folder
                that `ladle fit control` wrote; a function of estimated latents, [B, L, D] -> [B], or `SteerBy` of it.
                Candidates are preferred that are what each `Steer` asks for.
            batch_size: samples drawn at once; a smaller number needs less memory.
            on_step: called with (steps done, steps in total). The total grows if candidates need another round.
            return_samples: return `Sample`s, which hold seed, latents and score besides the text.
            overrides: fields of `ladle.sampling.options.SamplingOptions`, such as `guidance_scale=2.0` for all
                conditions together, or `guidance_scales={"food": -1.0}` for single ones by name. `noise_scale`,
                `length_temperature` and `stop_time` apply to texts with and without a condition. The defaults are the
                options that the model was saved with.

        Returns:
            Texts, or samples, in the order of the seeds.

        Raises:
            UserError: lengths that disagree, both `seed` and `seeds`, an unknown label or option, a value out of range,
                a condition that the model does not take, a control of another model, a model that cannot sample.
        """
        options = self.parts.sampling.override(**overrides)
        request = Request.line_up(num_samples, seed, seeds, label, source, attributes, self.diffusion.condition.config)
        steering = steering_of(self.autoencoder, self.diffusion, control)
        shares = None if steering is None else steering.shares
        asked = {LABEL: label, SOURCE: source} | dict(attributes or {})
        check_asked(request, asked, self.conditions, options, overrides, checked=shares is not None)
        batch_size = check_whole("batch_size", batch_size)
        check = replace(self._check(options, batch_size), controls=shares)
        if self.parts.source_encoder is None:
            self._warn_unlearnt([text for text in dict.fromkeys(request.sources) if text])
        writer = Writer(self.autoencoder, self.diffusion, self.parts.reader(), check, batch_size, steering)
        samples = generate_samples(writer, request, options, on_step=on_step)
        if line := missed_line([sample.text for sample in samples], options):
            warnings.warn(line, stacklevel=2)
        return samples if return_samples else [sample.text for sample in samples]

    def fit_control(self, data: RowSource, output: str | Path | None = None, **options: Any) -> Control:
        """Train a control of this model's texts on labelled rows, in a file or in memory: `ladle.control.fit_control`,
        which has the options (minutes, seed, columns, log) and the errors. Use it in `generate(control=Steer(...))`."""
        return fit_control(self.parts, data, output, **options)

    def editor(self, batch_size: int = 128) -> Editor:
        """What changes texts by this model (`ladle.editing.editor.Editor`). The six methods below call it."""
        return Editor(self.parts, check_whole("batch_size", batch_size))

    @usual_defaults(None)
    def interpolate(
        self, first: Texts, second: Texts, steps: int = 11, *, batch_size: int = 128, **options: Any
    ) -> Any:
        """Texts on the way from one to another, both included: a list of `Change`, or one for each pair of two lists.
        options, errors: of `Editor.interpolate`."""
        return self.editor(batch_size).interpolate(first, second, steps, **options)

    @usual_defaults(None)
    def blend(self, texts: Iterable[str], weights: Sequence[float] | None = None, **options: Any) -> Change:
        """One text from several, by the weighted mean of their latents. options, errors: of `Editor.blend`."""
        return self.editor().blend(texts, weights, **options)

    @usual_defaults(None)
    def vary(
        self, texts: Texts, strength: float = 0.5, n: int = 1, *, batch_size: int = 128, **options: Any
    ) -> list[Change]:
        """`n` variations of each text, from near (strength 0) to free (1). options, errors: of `Editor.vary`."""
        return self.editor(batch_size).vary(texts, strength, n, **options)

    @usual_defaults(None)
    def paraphrase(self, texts: Texts, n: int = 1, *, batch_size: int = 128, **options: Any) -> list[Change]:
        """`n` paraphrases of each text: near in meaning, far in words. options, errors: of `Editor.paraphrase`."""
        return self.editor(batch_size).paraphrase(texts, n, **options)

    @usual_defaults(None)
    def edit(self, texts: Texts, *, batch_size: int = 128, **options: Any) -> list[Change]:
        """Each text with another `label`, or moved along a `direction`, by `strength`. options, errors: of
        `Editor.edit`."""
        return self.editor(batch_size).edit(texts, **options)

    @usual_defaults(None)
    def analogy(self, first: str, second: str, third: str, **options: Any) -> Change:
        """What is to `third` as `second` is to `first`. options, errors: of `Editor.analogy`."""
        return self.editor().analogy(first, second, third, **options)

    @usual_defaults(None)
    def infill(self, template: Texts, n: int = 1, *, batch_size: int = 128, **options: Any) -> list[str]:
        """Fill the blanks of a template, such as "The ___ served ___ food.", or go on from a beginning: "One day ___".

        A blank is three or more underscores and gets one word at least. What is given stays to the letter. Several
        templates: `n` texts of each, those of the first template first. options: `seed`, `seeds`, `label`, `source` and
        sampling options, all as in `generate`. (`ladle.editing.infill` also gives each text's seed and score.)

        Raises:
            UserError: as `generate`; an empty template, one without a blank, one that is longer than the model holds.
        """
        _ = self.diffusion  # (an autoencoder alone cannot sample)
        check = partial(self._check, batch_size=batch_size)
        samples = infill(self.parts, template, n, check=check, batch_size=batch_size, **options)
        return [sample.text for sample in samples]

    def _check(self, options: SamplingOptions, batch_size: int) -> ConditionCheck:
        """The check of candidates by this model's classifiers."""
        return ConditionCheck(
            self.conditions.values,
            lambda texts, seeds, name: self.classify(
                texts, attribute=None if name == LABEL else name, seeds=seeds, batch_size=batch_size
            ),
            always=self.parts.every_judge,
            avoided={name for name, scale in options.guidance_scales.items() if scale < 0},
            ignored={name for name, scale in options.guidance_scales.items() if scale == 0},
        )

    @usual_defaults(None)
    def classify(
        self,
        texts: Texts,
        *,
        attribute: str | None = None,
        by: Literal["words", "denoiser"] | None = None,
        seeds: Iterable[int] | None = None,
        num_levels: int = NUM_LEVELS,
        batch_size: int = 128,
    ) -> torch.Tensor:
        """texts -> probabilities of the model's labels, [N, len(labels)], or of the values of an attribute.

        Args:
            attribute: name of the attribute whose values are told, [N, len(attributes[attribute])]; None: the labels.
            by: `words`: a judge of words and pairs of words, trained on the model's own data
                (`ladle.evaluation.judge`). `denoiser`: how much each label helps the model's own denoiser
                (`ladle.diffusion.classifier`), with equal prior probabilities. None: `words` if the model has a judge,
                which is more accurate (benchmarks/LOG.md).
            seeds: of the noise, one per text; None: 0 for all. A seed gives the same figures at any batch size.
            num_levels: noise levels at which classes are compared; more levels take longer and give smaller errors.

        Raises:
            UserError: a model without labels, an unknown attribute, no texts, an item that is not a text, a wrong
                number of seeds, num_levels below 1, `words` for a model without a judge.
        """
        num_levels = check_whole("num_levels", num_levels)
        judges = self.parts.every_judge
        name = check_question(self.parts.name, self.conditions, attribute, by, judges)
        texts, seeds = check_texts(texts), None if seeds is None else check_seeds(seeds)
        if seeds is not None and len(seeds) != len(texts):
            raise UserError(f"these lengths disagree: texts {len(texts)}, seeds {len(seeds)}")
        if name in judges and by != "denoiser":
            return torch.from_numpy(judges[name].probabilities(texts, self.conditions.values[name]))
        seeds = [0] * len(texts) if seeds is None else seeds
        return shares_by_denoising(self.autoencoder, self.diffusion, name, texts, seeds, num_levels, batch_size)

    @usual_defaults(None)
    def likelihood(self, texts: Texts, *, batch_size: int = 32, **options: Any) -> LikelihoodReport:
        """How likely texts are: an upper bound of -log p(text), with its terms. options (label, source, attributes,
        seed, draws, log_snr, decoder), errors: of `ladle.evaluation.text_bound.text_likelihood`."""
        parts = self.autoencoder, self.diffusion, self.parts.reader(), self.parts.sampling
        return text_likelihood(*parts, check_texts(texts), name=self.parts.name, batch_size=batch_size, **options)

    @usual_defaults(None)
    @torch.no_grad()
    def encode(self, texts: Texts, batch_size: int = 128, *, wording: bool = True) -> Latents:
        """texts -> normalised latents z0, [B, L, D] with mask [B, L]. Texts longer than `max_tokens` are cut.

        wording: with plan latents, also give the wording (`ladle.autoencoder.wording`), [B, S], so that `decode` gives
            back the texts themselves. Without it `decode` says the same in words of its own. Other latents have no
            wording: signs that the model never learnt are lost then, with a warning.

        Raises UserError: no texts, an item that is not a text, a batch size below 1.
        """
        texts = check_texts(texts)
        wording = wording and self.autoencoder.is_plan
        if not wording:
            self._warn_unlearnt(texts)
        return encode_texts(self.autoencoder, texts, batch_size, wording=wording)

    @usual_defaults(None)
    @torch.no_grad()
    def decode(
        self,
        latents: Latents,
        decoder: DecoderName | None = None,
        batch_size: int = 128,
        *,
        level: Level | None = None,
        **options: Any,
    ) -> list[str]:
        """Latents -> texts; `options` (num_beams, do_sample, top_p, temperature) are those of `TextAutoencoder.decode`.

        level: of noised latents zt, which the decoder of a plan reads too; None: `latents.level`, without noise if that
        is None. Other decoders take z0 alone. `latents.wording`, if there is one, gives back the words of the encoded
        texts, unless an option asks for a search or for words that are drawn.

        Raises UserError: latents that this model cannot decode (wrong type or shape, not finite, of another model), no
        such decoder or option, an option out of range.
        """
        return decode_latents(self.autoencoder, latents, decoder, batch_size, level, **options)

    def embed(self, texts: Texts, batch_size: int = 128) -> torch.Tensor:
        """texts -> embeddings [N, E] on the CPU, float32, of norm 1: the sentence embedding that a plan is made of, or
        the mean of other latents (`ladle.autoencoder.embedding`). Raises UserError as `encode`."""
        return embed_texts(self.autoencoder, check_texts(texts), batch_size)

    def as_sentence_encoder(self) -> SentenceEncoderView:
        """This model as an encoder of sentence-transformers: `.encode(texts)` and `.similarity(a, b)`."""
        return SentenceEncoderView(self.autoencoder)

    def reconstruct(
        self, texts: Texts, decoder: DecoderName | None = None, batch_size: int = 128, *, wording: bool = True
    ) -> list[str]:
        """texts -> latents -> texts.

        wording: of plan latents. Without it the decoder draws words as `generate` does, the i-th text with seed i: what
        it makes of real plans is the best that a prior of plans can reach.

        Raises UserError as `encode` and `decode`.
        """
        check_decoder(self.autoencoder, decoder)
        latents = self.encode(texts, batch_size, wording=wording)
        if wording or not self.autoencoder.is_plan:
            return self.decode(latents, decoder, batch_size)
        noise = [SampleNoise([seed]) for seed in range(len(latents))]
        how = decoding(self.parts.sampling)
        return decode_texts(self.autoencoder, [*latents.values], decoder, batch_size, noise, **how)

    def unlearnt(self, texts: Sequence[str]) -> str | None:
        """A line that says how many of the texts hold signs that the model never learnt, and which. None: no text."""
        return unlearnt_line(texts, self.autoencoder.backbone.alphabet, self.parts.name)

    def _warn_unlearnt(self, texts: list[str]) -> None:
        if line := self.unlearnt(texts):
            warnings.warn(line, stacklevel=3)
