"""`ladle train`: the stages one after another, resumed or skipped as the run folder says; then the model folder."""

import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.backbone import Backbone, train_tokenizer
from ladle.autoencoder.encoding import fit_normaliser, store_latents, store_tokens
from ladle.autoencoder.transfer import transfer
from ladle.cli.allocator import keep_freed_memory
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.source_text import SourceEncoder, SourceReader, learns_sources
from ladle.conditioning.store import ConditionStore
from ladle.data.row_portions import PerPortion
from ladle.data.rows import Row
from ladle.data.splits import Splits, load_splits
from ladle.data.stores import TokenStore, VectorStore, count_cut
from ladle.diffusion.model import LatentDiffusionModel
from ladle.errors import UserError
from ladle.health.recovery import calibrated_shift
from ladle.storage.model_folder import ModelParts, load_parts, save_parts
from ladle.storage.names import resolve_model
from ladle.storage.writing import atomic_folder, atomic_json, atomic_text
from ladle.training.loop import train_stage
from ladle.training.optimiser import TrainingConfig, use_bf16
from ladle.training.processes import is_main, main_first, set_up
from ladle.training.progress import say
from ladle.training.recipe import STAGES, Recipe, to_toml
from ladle.training.sharding import check_sharding
from ladle.training.stages.autoencoder import AutoencoderStage
from ladle.training.stages.decoder import DecoderStage
from ladle.training.stages.diffusion import DiffusionStage
from ladle.training.stages.interface import Stage
from ladle.training.stages.joint import JointStage
from ladle.training.state import digest
from ladle.training.trackers import check_trackers
from ladle.training.warm_start import chosen_start, keep_autoencoder, start_from, usable_prior

if TYPE_CHECKING:
    from ladle.evaluation.judge import Judge

Store = tuple[VectorStore, ConditionStore]
MAX_LABELS = 200
TOKENIZER_ROWS = 200_000


def train(recipe: Recipe, output: str | Path, stage: str = "all", log: Callable[[str], None] = say) -> Path:
    """Train what `recipe` describes under `output`; the same call goes on where an interrupted one stopped.

    In several processes (torchrun) the first alone writes and speaks; `output` has to be a folder that all of them see.

    Args:
        recipe: from `load_recipe`.
        output: the run folder: recipe.toml, config.json, environment.json, metrics.jsonl, samples/, state/, final/.
        stage: `all`, or `autoencoder`, `diffusion`, `decoder`: train up to and with that one.
        log: takes lines for the user.

    Returns:
        The model folder, `output`/final.

    Raises:
        UserError: bad data, or a run folder of another recipe. LadleError: the folder cannot be written.
    """
    if stage not in ("all", *STAGES):
        raise UserError(f"unknown stage '{stage}': allowed are all, {', '.join(STAGES)}")
    set_up()
    check_sharding()
    keep_freed_memory()  # the command line has done so; this is for who calls it from Python
    run = _Run(recipe, Path(output), log if is_main() else lambda line: None)
    return run.train(STAGES if stage == "all" else STAGES[: STAGES.index(stage) + 1])


class _Run:
    def __init__(self, recipe: Recipe, output: Path, log: Callable[[str], None]):
        self.recipe, self.output, self.log = recipe, output, log
        self.given: ModelParts | None = None  # the model to start from
        self.prior: LatentDiffusionModel | None = None  # of that model, where it has one
        self.source_encoder: SourceEncoder | None = None  # where it is not the backbone's

    def train(self, last_stages: tuple[str, ...]) -> Path:
        recipe = self.recipe
        check_trackers(recipe.training.trackers)
        splits = load_splits(recipe.data)
        for note in splits.notes:
            self.log(note)
        self.log(f"{len(splits.train):,} texts to train on, {len(splits.valid):,} held out")
        if recipe.start == "auto" and not recipe.autoencoder.backbone.pretrained:
            recipe, self.given = chosen_start(recipe, splits, self.log)
            self.recipe = recipe
        if recipe.start != "nothing" and not recipe.autoencoder.backbone.pretrained:
            self.given = self.given or load_parts(resolve_model(recipe.start))
        fixed = self.given is not None and not recipe.own_vocabulary
        if self.given is not None and not recipe.own_vocabulary:
            recipe = self.recipe = keep_autoencoder(recipe, self.given, self.log)
        self._describe()
        # Before the autoencoder trains: too many labels are said at once, and not an hour later.
        condition = self._condition(splits) if "diffusion" in last_stages else None
        if condition is not None and condition.source and condition.source_encoder:
            self.source_encoder = SourceEncoder.from_pretrained(condition.source_encoder)
        stages = tuple(s for s in STAGES if not (fixed and s == "autoencoder"))
        minutes: dict[str, float] = {}
        autoencoder = self._autoencoder(splits, stages, minutes)
        reader = SourceReader(autoencoder, condition or recipe.condition, self.source_encoder)
        self._say_cut(reader, splits)
        reader.to("cuda" if torch.cuda.is_available() else "cpu")
        if self.prior is None or recipe.own_vocabulary:  # else the latents stay as that denoiser knows them
            fit_normaliser(autoencoder, [row["text"] for row in splits.train])
        diffusion = None
        if condition is not None:
            diffusion = self._later_stages(reader, splits, stages, last_stages, minutes)
        source = recipe.data.id or Path(recipe.data.path or "").name
        what = "rows at a time" if splits.portions else "rows"
        info = {
            "data": [{"name": source, what: len(splits.train), "held out": len(splits.valid)}],
            "start": recipe.start if self.given else "nothing",
            "minutes": minutes,
            **recipe.card,
        }
        sampling = recipe.sampling
        if "decoder" not in minutes:  # not used to the prior's estimates
            sampling = sampling.to_the_end()
        judge = self._judge(splits) if diffusion is not None else None
        parts = ModelParts(recipe.name, autoencoder, diffusion, sampling, info, judge, self.source_encoder)
        with main_first():
            if is_main():
                save_parts(parts, self.output / "final")
        return self.output / "final"

    # ------------------------------------------------------------------------------------------- the parts of it

    def _autoencoder(self, splits: Splits, stages: tuple[str, ...], minutes: dict[str, float]) -> TextAutoencoder:
        recipe = self.recipe
        torch.manual_seed(recipe.training.seed)
        if self.given:
            self.prior = usable_prior(recipe, self.given, self.log)
            what = "autoencoder and the denoiser" if self.prior else "autoencoder"
            self.log(f"starting from the {what} of '{recipe.start}'")
            if not recipe.own_vocabulary:
                return self.given.autoencoder
        config = recipe.autoencoder
        tokenizer = None if config.backbone.pretrained else self._tokenizer(splits)
        autoencoder = TextAutoencoder(config, Backbone.build(config.backbone, config.max_tokens, tokenizer))
        if self.given:
            transfer(self.given.autoencoder, autoencoder)
        settings = recipe.training.stage(
            "autoencoder", stages, started=self.given is not None, pretrained=config.backbone.pretrained is not None
        )
        if settings is not None:
            with_sources = learns_sources(autoencoder, recipe.condition)
            stage = AutoencoderStage(autoencoder, splits.of_epoch, splits.valid, settings, with_sources)
            self._train_stage("autoencoder", stage, settings, splits, minutes)
        return autoencoder.eval()

    def _tokenizer(self, splits: Splits) -> Any:
        from transformers import AutoTokenizer

        folder = self.output / "state" / "tokenizer"
        with main_first():
            self._make_tokenizer(splits, folder)
        return AutoTokenizer.from_pretrained(folder)

    def _make_tokenizer(self, splits: Splits, folder: Path) -> None:
        if not folder.exists():
            texts = [text for row in splits.train[:TOKENIZER_ROWS] for text in (row["text"], row.get("source")) if text]
            with atomic_folder(folder) as temporary:
                train_tokenizer(texts, self.recipe.autoencoder.backbone.vocab_size).save_pretrained(temporary)

    def _later_stages(
        self,
        reader: SourceReader,
        splits: Splits,
        stages: tuple[str, ...],
        last_stages: tuple[str, ...],
        minutes: dict[str, float],
    ) -> LatentDiffusionModel:
        autoencoder, condition = reader.autoencoder, reader.config
        recipe = self._calibrated(autoencoder, splits)
        device = next(autoencoder.parameters()).device
        # A rare label may be in held-out rows only; the model cannot know it.
        valid_rows = _with_known_labels(splits.valid[:2000], condition) or splits.train[:256]
        torch.manual_seed(recipe.training.seed)
        diffusion = LatentDiffusionModel(
            recipe.diffusion,
            condition,
            latent_dim=autoencoder.latent_dim,
            max_latents=autoencoder.max_latents,
            source_dim=reader.dim,
            fixed_length=autoencoder.config.bottleneck.fixed_length,
        ).to(device)
        if self.prior is not None:
            start_from(self.prior, diffusion)
        settings = {
            name: recipe.training.stage(name, stages, self.given is not None) if name in last_stages else None
            for name in STAGES[1:]
        }
        rows_of = PerPortion(splits.of_epoch, lambda rows: self._of_known_labels(rows, condition))
        stores: tuple[PerPortion[Row, Store], Store] | None = None
        if settings["diffusion"]:
            stores = latents_of, valid_store = self._stores(reader, rows_of, valid_rows)
            diffusion_stage = DiffusionStage(
                diffusion, autoencoder, latents_of, valid_store, settings["diffusion"], recipe.sampling
            )
            self._train_stage("diffusion", diffusion_stage, settings["diffusion"], splits, minutes)
        if settings["joint"]:
            joint_stage = JointStage(
                reader, diffusion, rows_of, valid_rows, recipe.joint, settings["joint"], recipe.sampling
            )
            self._train_stage("joint", joint_stage, settings["joint"], splits, minutes)
            # The normaliser is not fitted again: that would move the latents from where the denoiser knows them.
            stores = None
        if settings["decoder"]:
            latents_of, valid_store = stores or self._stores(reader, rows_of, valid_rows)
            tokens_of = PerPortion(rows_of, lambda rows: store_tokens(autoencoder, [row["text"] for row in rows]))

            def store_of(epoch: int) -> tuple[TokenStore, VectorStore, ConditionStore]:
                return tokens_of(epoch), *latents_of(epoch)

            valid_tokens = store_tokens(autoencoder, [row["text"] for row in valid_rows[:256]])
            decoder_stage = DecoderStage(
                autoencoder, diffusion, store_of, (valid_tokens, *valid_store), settings["decoder"],
                recipe.sampling.guidance_scale, recipe.training.decoder.times,
            )  # fmt: skip
            self._train_stage("decoder", decoder_stage, settings["decoder"], splits, minutes)
        return diffusion.eval()

    def _calibrated(self, autoencoder: TextAutoencoder, splits: Splits) -> Recipe:
        """The recipe, with the schedule's shift measured on these latents where it gives none. A denoiser that goes on
        from a trained one keeps the shift it knows. (Measured once a run: rounding must not stop it from going on.)"""
        recipe, path = self.recipe, self.output / "state" / "shift.json"
        schedule = recipe.diffusion.schedule
        given = "diffusion" in recipe.model_fields_set and "schedule" in recipe.diffusion.model_fields_set
        if not recipe.training.calibrate or self.prior is not None or (given and "shift" in schedule.model_fields_set):
            return recipe
        with main_first():
            if not path.exists():
                found = calibrated_shift(autoencoder, [row["text"] for row in splits.valid or splits.train])
                shift, half = found or (schedule.shift, None)
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic_json(path, {"shift": shift, "half_log_snr": half})
                why = "too little comes back to measure it" if half is None else f"half is lost at log-SNR {half:.1f}"
                self.log(f"the noise schedule's shift is {shift:g}: {why}")
        shift = float(json.loads(path.read_text(encoding="utf-8"))["shift"])
        schedule = schedule.model_copy(update={"shift": shift})
        diffusion = recipe.diffusion.model_copy(update={"schedule": schedule})
        self.recipe = recipe.model_copy(update={"diffusion": diffusion})
        self._describe()
        return self.recipe

    def _train_stage(
        self, name: str, stage: Stage, settings: TrainingConfig, splits: Splits, minutes: dict[str, float]
    ) -> None:
        result = train_stage(stage, settings, self.output, identity=self._identity(splits, name), log=self.log)
        minutes[name] = round(result.seconds / 60, 2)

    def _of_known_labels(self, rows: Sequence[Row], condition: ConditionConfig) -> Sequence[Row]:
        """Of a portion the rows that the model can learn; it has the labels of the first one."""
        known = _with_known_labels(rows, condition)
        if not known:
            raise UserError(
                "the labels of this portion of the rows are not among those of the first; shuffle the file, or give a "
                "larger data.rows_in_memory"
            )
        if len(known) < len(rows):
            self.log(f"warning: {len(rows) - len(known):,} rows left out, the first portion does not have their label")
        return known

    def _stores(
        self, reader: SourceReader, rows_of: Callable[[int], Sequence[Row]], valid: Sequence[Row]
    ) -> tuple[PerPortion[Row, Store], Store]:
        """Latents and conditions of the rows to train on, by epoch, and of those held out."""
        self.log("encoding the texts into latents, once")
        autoencoder = reader.autoencoder
        bf16 = use_bf16(self.recipe.training.precision, next(autoencoder.parameters()).device)

        def store(rows: Sequence[Row]) -> Store:
            texts = [row["text"] for row in rows]
            return store_latents(autoencoder, texts, bf16), ConditionStore(reader, rows)

        return PerPortion(rows_of, store), store(valid)

    def _condition(self, splits: Splits) -> ConditionConfig:
        """Labels and source as the data have them, in the recipe's settings."""
        rows = splits.train
        labels = sorted({row["label"] for row in rows if "label" in row})
        if len(labels) > MAX_LABELS:
            raise UserError(
                f"the label column has {len(labels):,} different values, {MAX_LABELS} are allowed: name another "
                'column with --label, or leave it out with --label ""'
            )
        has_source = any("source" in row for row in rows)
        if labels:
            self.log(f"{len(labels)} labels: {', '.join(labels[:8])}{' ...' if len(labels) > 8 else ''}")
        if has_source:
            self.log("texts are conditioned on their source")
        return self.recipe.condition.model_copy(update={"labels": tuple(labels), "source": has_source})

    def _judge(self, splits: Splits) -> "Judge | None":
        """What the model tells its labels by, to choose among candidates."""
        from ladle.evaluation.judge import fit_own

        judge = fit_own(splits.train, splits.valid)
        if judge is not None and judge.real:
            self.log(f"words tell the label of {judge.real['value']:.1%} of {judge.real['n']:,} held-out texts")
        return judge

    def _say_cut(self, reader: SourceReader, splits: Splits) -> None:
        backbone = reader.autoencoder.backbone
        limits = {"text": (backbone.tokenizer, backbone.max_tokens), "source": (reader.tokenizer, reader.max_tokens)}
        for what, (tokenizer, limit) in limits.items():
            values = [str(row.get(what)) for row in splits.train if row.get(what)]
            cut = count_cut(tokenizer, values, limit)
            if cut:
                self.log(f"{cut:,} of {len(values):,} {what}s are longer than {limit} tokens and were cut")

    def _identity(self, splits: Splits, stage: str) -> dict[str, Any]:
        recipe = self.recipe
        identity: dict[str, Any] = {
            "start": recipe.start,
            "data.rows": digest([[row["text"], row.get("label"), row.get("source")] for row in splits.train]),
            "autoencoder": recipe.autoencoder,
        }
        if splits.portions:
            identity["data.rows_in_memory"] = recipe.data.rows_in_memory
        if recipe.own_vocabulary:
            identity["own_vocabulary"] = True
        if stage != "autoencoder":
            identity["diffusion"] = recipe.diffusion
            identity["condition"] = recipe.condition
        if stage == "joint" or (stage == "decoder" and recipe.training.stage("joint", STAGES)):
            identity["joint"] = recipe.joint
        if stage == "decoder":
            identity["times"] = list(recipe.training.decoder.times)
            identity["guidance_scale"] = recipe.sampling.guidance_scale
        return identity

    def _describe(self) -> None:
        if not is_main():
            return
        self.output.mkdir(parents=True, exist_ok=True)
        config = self.recipe.model_dump(mode="json")
        atomic_json(self.output / "config.json", config)
        atomic_text(self.output / "recipe.toml", to_toml(config))
        packages = ("ladle", "torch", "transformers", "accelerate", "tokenizers")
        atomic_json(
            self.output / "environment.json",
            {"python": platform.python_version(), "platform": platform.platform()}
            | {name: _version(name) for name in packages},
        )


def _with_known_labels(rows: Sequence[Row], condition: ConditionConfig) -> list[Row]:
    labels = {None, *condition.labels}
    return [row for row in rows if row.get("label") in labels]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:
        return None
