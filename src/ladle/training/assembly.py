"""The parts that the stages of a training share, each made when it is first used, and the stages made of them."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.backbone import Backbone, PretrainedBackboneConfig, train_tokenizer
from ladle.autoencoder.encoding import fit_normaliser, store_latents, store_tokens
from ladle.autoencoder.sentence_encoder import StoredSentenceEncoder
from ladle.autoencoder.transfer import transfer
from ladle.conditioning.decoder import attach
from ladle.conditioning.source_text import SourceEncoder, SourceReader, learns_sources
from ladle.conditioning.store import ConditionStore
from ladle.data.files import known_json
from ladle.data.row_portions import PerPortion
from ladle.data.rows import Row
from ladle.data.splits import Splits
from ladle.data.stores import TokenStore, VectorStore, count_cut
from ladle.diffusion.loss import DenoisingLoss
from ladle.diffusion.model import DiffusionConfig, LatentDiffusionModel
from ladle.errors import UserError
from ladle.health.recovery import calibrated_shift
from ladle.storage.encoders import shipped_encoder
from ladle.storage.folders import atomic_folder, recover_folder
from ladle.storage.writing import atomic_json
from ladle.training.optimiser import TrainingConfig, use_bf16
from ladle.training.plan import Plan, with_shift
from ladle.training.processes import main_first
from ladle.training.progress import Log
from ladle.training.stages.autoencoder import AutoencoderStage
from ladle.training.stages.decoder import DecoderStage
from ladle.training.stages.diffusion import DiffusionStage
from ladle.training.stages.interface import Stage
from ladle.training.stages.joint import JointStage
from ladle.training.stages.plan_decoder import PlanDecoderStage
from ladle.training.state import digest
from ladle.training.vocabulary import learn_vocabulary
from ladle.training.warm_start import start_from

Store = tuple[VectorStore, ConditionStore]
TextStore = tuple[TokenStore, VectorStore, ConditionStore]
TOKENIZER_ROWS = 200_000
MAX_VALID = 2000  # held-out rows that a training uses


class Assembly:
    """The parts that the stages of a plan train. Each part is made when it is first used, and later stages share it.

    The order matters: the diffusion model is made for the autoencoder as it is when stage `diffusion` begins.
    """

    def __init__(self, plan: Plan, splits: Splits, output: Path, log: Log):
        self.plan, self.splits, self.output, self.log = plan, splits, output, log
        self.recipe, self.training = plan.recipe, plan.recipe.training
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def rows_digest(self) -> str:
        """A fingerprint of the training rows."""
        # (Rows without attributes have the fingerprint that they had before there were any.)
        rows = self.splits.train
        own = [[row["attributes"]] if row.get("attributes") else [] for row in rows]
        return digest(
            [[row["text"], row.get("label"), row.get("source"), *a] for row, a in zip(rows, own, strict=True)]
        )

    # ------------------------------------------------------------------------------------------------ autoencoder

    @cached_property
    def autoencoder(self) -> TextAutoencoder:
        """The start's autoencoder, or a new one. A new one with a start copies the start's tensors that fit."""
        start, config = self.plan.start, self.recipe.autoencoder
        torch.manual_seed(self.training.seed)
        if start.keeps_autoencoder:
            autoencoder = start.autoencoder
            if config.max_tokens != autoencoder.config.max_tokens:
                autoencoder.set_max_tokens(config.max_tokens)
        else:
            backbone = config.backbone
            tokenizer = None
            if not isinstance(backbone, PretrainedBackboneConfig):
                tokenizer = self._tokenizer(backbone.vocab_size)
            encoder = self._start_encoder() or shipped_encoder(config)
            autoencoder = TextAutoencoder(
                config, Backbone.build(config.backbone, config.max_tokens, tokenizer), encoder
            )
            if start.parts is not None:
                transfer(start.autoencoder, autoencoder)
            elif autoencoder.is_plan:
                fit_normaliser(autoencoder.to(self.device), [row["text"] for row in self.splits.train])
        if autoencoder.is_plan:
            self._let_decoder_read(autoencoder)
        if isinstance(config.backbone, PretrainedBackboneConfig):
            autoencoder.freeze_backbone(self.training.backbone)
        learn_vocabulary(autoencoder.backbone, self.plan, self.splits, self.log)
        return autoencoder

    def _start_encoder(self) -> StoredSentenceEncoder | None:
        """The sentence encoder that comes with the start, whose plans its decoder knows."""
        parts = self.plan.start.parts
        encoder = None if parts is None else parts.autoencoder.sentence_encoder
        return encoder if isinstance(encoder, StoredSentenceEncoder) else None

    def _let_decoder_read(self, autoencoder: TextAutoencoder) -> None:
        """Give the decoder of a plan what reads the conditions; the start's, if it has the same ones."""
        parts, condition = self.plan.start.parts, self.plan.condition
        same = parts is not None and parts.diffusion is not None and parts.diffusion.condition.config == condition
        if not same or autoencoder.condition is None:
            autoencoder.condition = None
            attach(autoencoder, condition)

    def _tokenizer(self, vocab_size: int) -> Any:
        from transformers import AutoTokenizer

        folder, rows = self.output / "state" / "tokenizer", self.splits.train[:TOKENIZER_ROWS]
        texts = [text for row in rows for text in (row["text"], row.get("source")) if text]
        with main_first():
            recover_folder(folder)
            made_from = digest([texts, vocab_size])
            if known_json(folder / "made_from.json").get("made_from") != made_from:
                with atomic_folder(folder) as new:
                    train_tokenizer(texts, vocab_size).save_pretrained(new)
                    atomic_json(new / "made_from.json", {"made_from": made_from})
        return AutoTokenizer.from_pretrained(folder)

    @cached_property
    def finished_autoencoder(self) -> TextAutoencoder:
        """The autoencoder after its own stage: on the device, in eval mode, its latents scaled by the training set."""
        autoencoder = self.autoencoder.eval()
        self._say_cut()
        self.reader.to(self.device)
        start = self.plan.start
        # Else the latents stay as that denoiser, or the decoder of a plan, knows them.
        if (start.denoiser is None or start.own_vocabulary) and not autoencoder.is_plan:
            fit_normaliser(autoencoder, [row["text"] for row in self.splits.train])
        return autoencoder

    @cached_property
    def reader(self) -> SourceReader:
        """The reader of source texts."""
        condition = self.plan.condition
        encoder = None
        if condition.source is not None and condition.source.encoder:
            encoder = SourceEncoder.from_pretrained(condition.source.encoder)
        return SourceReader(self.autoencoder, condition, encoder)

    def _say_cut(self) -> None:
        backbone, reader = self.autoencoder.backbone, self.reader
        limits = {"text": (backbone.tokenizer, backbone.max_tokens), "source": (reader.tokenizer, reader.max_tokens)}
        for what, (tokenizer, limit) in limits.items():
            values = [str(row.get(what)) for row in self.splits.train if row.get(what)]
            if cut := count_cut(tokenizer, values, limit):
                self.log(f"{cut:,} of {len(values):,} {what}s are longer than {limit} tokens and were cut")

    # -------------------------------------------------------------------------------------------------- diffusion

    @cached_property
    def diffusion(self) -> LatentDiffusionModel:
        """A new diffusion model for the latents of the finished autoencoder. It starts from the start's denoiser if
        there is one."""
        autoencoder, plan = self.finished_autoencoder, self.plan
        config = self._diffusion_config()
        torch.manual_seed(self.training.seed)
        diffusion = LatentDiffusionModel(autoencoder, config, plan.condition, self.reader.dim)
        diffusion.to(self.device)
        if plan.start.denoiser is not None:
            start_from(plan.start.denoiser, diffusion)
        return diffusion

    @cached_property
    def denoising(self) -> DenoisingLoss:
        """The diffusion model's loss, with the record of errors at each time."""
        return DenoisingLoss(self.diffusion, self.training.diffusion).to(self.device)

    def _diffusion_config(self) -> DiffusionConfig:
        """The recipe's config, with the schedule's shift measured on these latents if the plan says so. (The shift is
        measured once per run: a rounding difference must not prevent the run from continuing.)"""
        config, path = self.recipe.diffusion, self.output / "state" / "shift.json"
        if not self.plan.measures_shift:
            return config
        with main_first():
            texts = [row["text"] for row in self.splits.valid or self.splits.train]
            made_from = digest([texts, self.recipe.start, self.recipe.autoencoder.model_dump(mode="json")])
            if known_json(path).get("made_from") != made_from:
                shift, half = calibrated_shift(self.finished_autoencoder, texts) or (config.schedule.shift, None)
                atomic_json(path, {"shift": shift, "half_log_snr": half, "made_from": made_from})
                why = "too little is recovered to measure it" if half is None else f"half is lost at log-SNR {half:.1f}"
                self.log(f"the noise schedule's shift is {shift:g}: {why}")
        return with_shift(config, float(json.loads(path.read_text(encoding="utf-8"))["shift"]))

    # ----------------------------------------------------------------------------------------------- rows, stored

    @cached_property
    def rows_of(self) -> PerPortion[Row, Sequence[Row]]:
        """The denoiser's training rows, by epoch."""
        return PerPortion(self.splits.of_epoch, self._of_known_labels)

    @cached_property
    def valid_rows(self) -> Sequence[Row]:
        """Held-out rows with known labels. (A rare label may occur in held-out rows only.)"""
        return self._with_known_labels(self.splits.valid[:MAX_VALID]) or self.splits.train[:256]

    @cached_property
    def stores(self) -> tuple[PerPortion[Row, Store], Store]:
        """Latents and conditions of the training rows, by epoch, and of the held-out rows. `del` this property when the
        encoder has changed."""
        self.log("encoding the texts into latents, once")
        autoencoder, reader = self.finished_autoencoder, self.reader
        bf16 = use_bf16(self.training.precision, self.device)

        def store(rows: Sequence[Row]) -> Store:
            return store_latents(autoencoder, [row["text"] for row in rows], bf16), ConditionStore.of(reader, rows)

        return PerPortion(self.rows_of, store), store(self.valid_rows)

    @property
    def with_tokens(self) -> tuple[Callable[[int], TextStore], TextStore]:
        """Tokens, latents and conditions of the training rows, by epoch, and of the held-out rows."""
        latents_of, valid = self.stores

        def tokens(rows: Sequence[Row]) -> TokenStore:
            return store_tokens(self.autoencoder, [row["text"] for row in rows])

        tokens_of = PerPortion(self.rows_of, tokens)
        return lambda epoch: (tokens_of(epoch), *latents_of(epoch)), (tokens(self.valid_rows[:256]), *valid)

    def _with_known_labels(self, rows: Sequence[Row]) -> list[Row]:
        """The rows whose label the model knows. Of their attributes, those with a value that it knows."""
        labels, attributes = {None, *self.plan.condition.labels}, self.plan.condition.attributes
        known = [row for row in rows if row.get("label") in labels]
        if not attributes:
            return known
        return [
            row | {"attributes": {k: v for k, v in row.get("attributes", {}).items() if v in attributes.get(k, ())}}
            for row in known
        ]

    def _of_known_labels(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows of a portion whose labels the model knows: those of the first portion."""
        known = self._with_known_labels(rows)
        if not known:
            why = "the first portion of the rows has none of this portion's labels"
            raise UserError(f"{why}; shuffle the file, or give a larger data.rows_in_memory")
        if len(known) < len(rows):
            self.log(f"warning: {len(rows) - len(known):,} rows left out: the first portion does not have their label")
        return known


# -------------------------------------------------------------------------------------------------------------- stages


def _autoencoder_stage(assembly: Assembly, settings: TrainingConfig) -> Stage:
    if assembly.autoencoder.is_plan:
        return _plan_decoder_stage(assembly, settings)
    autoencoder, splits, objective = assembly.autoencoder, assembly.splits, assembly.training.autoencoder
    with_sources = learns_sources(autoencoder, assembly.recipe.source)
    return AutoencoderStage(autoencoder, splits.of_epoch, splits.valid, settings, objective, with_sources)


def _plan_decoder_stage(assembly: Assembly, settings: TrainingConfig) -> Stage:
    training = assembly.training
    store_of, valid = assembly.with_tokens
    drop_prob = training.diffusion.drop_prob
    return PlanDecoderStage(assembly.autoencoder, store_of, valid, settings, training.autoencoder, drop_prob=drop_prob)


def _diffusion_stage(assembly: Assembly, settings: TrainingConfig) -> Stage:
    denoising = assembly.denoising
    latents_of, valid = assembly.stores
    return DiffusionStage(denoising, assembly.autoencoder, latents_of, valid, settings, assembly.recipe.sampling)


def _joint_stage(assembly: Assembly, settings: TrainingConfig) -> Stage:
    denoising, training = assembly.denoising, assembly.training
    assembly.__dict__.pop("stores", None)  # the encoder changes now
    # The normaliser is not fitted again afterwards: that would move the latents that the denoiser has learnt.
    return JointStage(
        assembly.reader, denoising, assembly.rows_of, assembly.valid_rows, settings, training.joint,
        training.autoencoder, assembly.recipe.sampling,
    )  # fmt: skip


def _decoder_stage(assembly: Assembly, settings: TrainingConfig) -> Stage:
    autoencoder, diffusion, training = assembly.autoencoder, assembly.diffusion, assembly.training
    store_of, valid = assembly.with_tokens
    return DecoderStage(
        autoencoder, diffusion, store_of, valid, settings, training.autoencoder,
        drop_prob=training.diffusion.drop_prob, guidance_scale=assembly.recipe.sampling.guidance_scale,
        times=training.decoder.times,
    )  # fmt: skip


STAGE_BUILDERS: dict[str, Callable[[Assembly, TrainingConfig], Stage]] = {
    "autoencoder": _autoencoder_stage, "diffusion": _diffusion_stage, "joint": _joint_stage, "decoder": _decoder_stage,
}  # fmt: skip
