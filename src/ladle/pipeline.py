"""LatentDiffusion: texts in, texts out. Most users need only this class."""

import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
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
from ladle.config import nearest
from ladle.data.stores import length_batches
from ladle.diffusion.classifier import NUM_LEVELS
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.schedule import Level
from ladle.editing.change import Change
from ladle.editing.editor import Editor
from ladle.editing.infill import infill
from ladle.errors import LadleError, UserError, first_line
from ladle.layers import usual_defaults
from ladle.sampling.candidates import ConditionCheck
from ladle.sampling.classes import shares_by_denoising
from ladle.sampling.generation import OnStep, Writer, check_single_guidance, generate_samples
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request, Sample, Values
from ladle.sampling.words import DecodingOptions, check_decoder, decode_texts, decoding, encode_texts
from ladle.seeding import SampleNoise, check_seeds
from ladle.storage.model_folder import DTYPES, load_parts, save_parts
from ladle.storage.names import resolve_model
from ladle.storage.parts import ModelParts
from ladle.storage.record import model_digest

Device = str | torch.device | None
Dtype = str | torch.dtype | None
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
        known, place = _dtype(dtype), None if device is None else check_device(device)  # before anything is read
        folder = resolve_model(check_path("name_or_path", name_or_path), revision=revision)
        model = cls(load_parts(folder), place, model_digest(folder))
        return model.to(model.device, known)

    def save_pretrained(self, folder: str | Path, dtype: Dtype = None) -> None:
        """Write a model folder that `from_pretrained` reads. `dtype`: of the stored weights, such as "float16". The
        sentence encoder of a shipped model is not written again; Ladle has it."""
        save_parts(self.parts, check_path("folder", folder), dtype=_dtype(dtype))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model folder to the Hugging Face hub and return its address. `options`: of `create_repo`.

        Raises LadleError: the hub cannot be reached, or refuses.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder)
            try:
                api.create_repo(repo_id, exist_ok=True, **options)
                return str(api.upload_folder(repo_id=repo_id, folder_path=folder))
            except Exception as error:  # of many kinds: no network, no right to write there, no such name
                raise LadleError(f"cannot upload the model to '{repo_id}': {first_line(error)}") from error

    def to(self, device: str | torch.device, dtype: Dtype = None) -> Self:
        """Move to a device; the model is in eval mode.

        dtype: of the weights from now on, as in `from_pretrained`; None changes nothing. Latents, the sampler's
        arithmetic and the normaliser (a buffer that scales every latent) stay float32.

        Raises UserError: another dtype, no such device.
        """
        known, place, before = _dtype(dtype), check_device(device), self.device
        parts = (self.parts.autoencoder, self.parts.source_encoder, self.parts.diffusion)
        modules = [module.eval() for module in parts if module is not None]
        try:
            for module in modules:
                module.to(place)
        except BaseException:  # too little memory for all of them: the model stays whole where it was
            for module in modules:
                module.to(before)
            raise
        for parameter in (parameter for module in modules for parameter in module.parameters()):
            parameter.data = parameter.data.to(known or parameter.dtype)
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
                a condition that the model does not take, a model that cannot sample.
        """
        options = self.parts.sampling.override(**overrides)
        request = Request.line_up(num_samples, seed, seeds, label, source, attributes, self.diffusion.condition.config)
        asked = {LABEL: label, SOURCE: source} | dict(attributes or {})
        given = {name for name, value in asked.items() if value is not None}
        check_single_guidance(options, self.conditions, given if overrides.get("guidance_scales") else None)
        if overrides.get("choose") == "label" and label is None and not attributes:  # (some of many may have none)
            raise UserError("choose='label' needs a label or an attribute; give one, or choose='sound'")
        if not self.takes_source and any(text is not None for text in request.sources):
            raise UserError("this model was not trained with source texts; give no source")
        batch_size = check_whole("batch_size", batch_size)
        check = self._check(options, batch_size)
        if self.parts.source_encoder is None:
            self._warn_unlearnt([text for text in dict.fromkeys(request.sources) if text])
        writer = Writer(self.autoencoder, self.diffusion, self.parts.reader(), check, batch_size)
        samples = generate_samples(writer, request, options, on_step=on_step)
        return samples if return_samples else [sample.text for sample in samples]

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
        texts = check_texts(texts)
        num_levels = check_whole("num_levels", num_levels)
        if attribute is not None:
            self.conditions.check_attribute(attribute)
        elif not self.labels:
            other = f"attribute={next(iter(self.attributes))!r}" if self.attributes else "another model"
            raise UserError(f"'{self.parts.name}' was trained without labels, so it cannot classify; use {other}")
        name = LABEL if attribute is None else attribute
        if by is not None and not (isinstance(by, str) and by in ("words", "denoiser")):
            raise UserError(f"by is {by!r:.60}; allowed are words, denoiser")
        if by == "words" and name not in self.parts.every_judge:
            raise UserError(f"'{self.parts.name}' has no judge of words; use by=\"denoiser\"")
        seeds = [0] * len(texts) if seeds is None else check_seeds(seeds)
        if len(seeds) != len(texts):
            raise UserError(f"these lengths disagree: texts {len(texts)}, seeds {len(seeds)}")
        judge = self.parts.every_judge.get(name)
        if judge is not None and by != "denoiser":
            return torch.from_numpy(judge.probabilities(texts, self.conditions.values[name]))
        return shares_by_denoising(self.autoencoder, self.diffusion, name, texts, seeds, num_levels, batch_size)

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
        self.autoencoder.check_latents(latents)
        how = DecodingOptions.parse(options, "decode")
        if how.num_beams > 1 and decoder == "parallel":
            raise UserError("num_beams needs the autoregressive decoder")
        level, log_snr, values = latents.level if level is None else level, None, latents.values
        if level is not None:
            if not self.autoencoder.is_plan:
                raise UserError("this model's decoder reads latents without noise only; give no level")
            log_snr = level.log_snr.expand(len(latents)).tolist()
            values = values / level.expand(values).scale
        parts = [own[mask] for own, mask in zip(values, latents.mask, strict=True)]
        words = how.model_dump(exclude_unset=True)
        if latents.wording is not None and how.num_beams == 1 and not how.do_sample:
            words["wording"] = latents.wording
        return decode_texts(self.autoencoder, parts, decoder, batch_size, log_snr=log_snr, **words)

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

    def _encode_batches(self, texts: list[str], batch_size: int) -> Iterable[tuple[list[int], Latents]]:
        for rows in length_batches(texts, batch_size):
            yield rows, self.autoencoder.encode_texts(texts[i] for i in rows)


def _dtype(dtype: Dtype) -> torch.dtype | None:
    """The dtype of this name."""
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and name not in DTYPES:
        raise UserError(f"weights cannot have the dtype '{name}': {nearest(name, list(DTYPES))}")
    return DTYPES.get(name)
