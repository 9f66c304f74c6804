"""Models on disk: one folder per component, weights in safetensors, settings in model.json, a card in README.md.

A complete model:

    README.md  model.json  backbone/ (config, weights)  tokenizer/  bottleneck/ (and normaliser)  parallel_decoder/
    words.txt (the words that it may write)  phrases.json (of which small batches are drafted)
    denoiser/  condition/ (condition encoder and length model)  judge/ (which words tell labels apart)
    judges/ (the same for attributes, a folder for each by its number among them)
    source_encoder/  source_tokenizer/ (if another model than the backbone reads sources)
    sentence_encoder/  sentence_tokenizer/ (the encoder of plans, if it is a part of the model, and of no shipped model)
    decoder_condition/ (if the decoder of a plan reads conditions)

A model built on a shipped model (`base`) has no backbone/ and tokenizer/. It stores only those tensors of the
autoencoder that differ from the base, in `autoencoder_changes.safetensors`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.backbone import Backbone
from ladle.autoencoder.lexicon import Lexicon
from ladle.autoencoder.phrases import Phrases
from ladle.autoencoder.sentence_encoder import StoredSentenceEncoder
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.decoder import attach
from ladle.conditioning.source_text import SourceEncoder, SourceReader, auto_class
from ladle.config import nearest
from ladle.diffusion.model import LatentDiffusionModel
from ladle.errors import UserError, first_line
from ladle.evaluation.judge import Judge
from ladle.layers import usual_defaults
from ladle.storage.card import model_card
from ladle.storage.encoders import load_encoder, shared_encoder
from ladle.storage.folders import atomic_folder
from ladle.storage.kinds import MODEL
from ladle.storage.names import RECORD, resolve_model, shipped_models, shipped_names
from ladle.storage.parts import ModelParts
from ladle.storage.record import (
    AUTOENCODER_PARTS,
    BACKBONE,
    SENTENCE_ENCODER,
    BaseReference,
    ModelRecord,
    autoencoder_digest,
    check_files,
    hash_files,
    read_record,
    written_files,
)
from ladle.storage.tensors import (
    WEIGHTS,
    fill,
    live_tensors,
    load_language_model,
    read_tensors,
    save_language_model,
    save_tensors,
    stored,
)
from ladle.storage.writing import atomic_json
from ladle.version import __version__

CHANGES = "autoencoder_changes.safetensors"
JUDGE, JUDGES, WORDS, PHRASES = "judge", "judges", "words.txt", "phrases.json"
SOURCE_ENCODER = ("source_encoder", "source_tokenizer")  # model, tokenizer
WITH_FOLDERS = ("backbone.", "sentence_encoder.")  # transformers' own layout
Dtype = str | torch.dtype | None
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# (as AUTOENCODER_PARTS)
DIFFUSION_PARTS = {"denoiser": ("denoiser.",), "condition": ("condition.", "length.")}


def dtype_of(dtype: Dtype) -> torch.dtype | None:
    """The dtype of this name, None of None. Raises UserError: one that weights cannot have."""
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and name not in DTYPES:
        raise UserError(f"weights cannot have the dtype '{name}': {nearest(name, list(DTYPES))}")
    return DTYPES.get(name)


def save_parts(
    parts: ModelParts,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    base: str | None = None,
    encoder_bits: Literal[8] | None = None,
) -> None:
    """Write a model folder, complete or not at all. The files of an earlier model there are replaced; others stay.
    The sentence encoder of another shipped model is not written (`shared_encoder`), but referred to.

    Args:
        dtype: float type of the stored weights: float32 (default), float16 or bfloat16. The normaliser stays float32.
        base: a shipped model. Tensors of the autoencoder that equal the stored tensors of the base are not written.
        encoder_bits: 8 writes the matrices of a stored sentence encoder as in `in_eight_bits`: half the size of float16
            at nearly the same plans (benchmarks/LOG.md). None: in `dtype`.

    Raises:
        UserError: `folder` is a file, or holds what has a name in a model folder and is none; no such `base`, or its
            backbone or tokenizer differs; a weight is too large for `dtype`; another dtype.
        LadleError: the folder could not be written; the earlier folder is not changed.
        TypeError: `info` holds a value that JSON cannot represent.
    """
    dtype = dtype or torch.float32
    json.dumps(parts.info)  # before anything is written
    backbone, diffusion, encoder = parts.autoencoder.backbone, parts.diffusion, parts.source_encoder
    shared = shared_encoder(parts.name, parts.autoencoder)
    reference, changes = (None, {}) if base is None else _changes(parts.autoencoder, base, dtype)
    with atomic_folder(folder, kind=MODEL, old=written_files(folder)) as new:
        if reference is None:
            save_language_model(backbone.model, backbone.tokenizer, new, BACKBONE, dtype)
            _save_groups(parts.autoencoder, AUTOENCODER_PARTS, new, dtype)
        elif changes:
            save_tensors(changes, new / CHANGES, dtype)
        if backbone.lexicon is not None:
            (new / WORDS).write_text("\n".join(sorted(backbone.lexicon.words)), encoding="utf-8")
        if backbone.phrases is not None:
            backbone.phrases.save(new / PHRASES)
        if diffusion is not None:
            _save_groups(diffusion, DIFFUSION_PARTS, new, dtype)
        if encoder is not None:
            save_language_model(encoder.model, encoder.tokenizer, new, SOURCE_ENCODER, dtype)
        if shared is None and isinstance(sentences := parts.autoencoder.sentence_encoder, StoredSentenceEncoder):
            save_language_model(sentences.model, sentences.tokenizer, new, SENTENCE_ENCODER, dtype, encoder_bits)
        if parts.judge is not None:
            parts.judge.save(new / JUDGE)
        for number, name in enumerate(_condition(parts).attributes):
            if name in parts.judges:
                parts.judges[name].save(new / JUDGES / str(number))
        record = ModelRecord(
            ladle=__version__,
            name=parts.name,
            dtype=str(dtype).removeprefix("torch."),
            base=reference,
            encoder=None if shared is None else BaseReference(name=shared.name, digest=shared.digest),
            autoencoder=parts.autoencoder.config,
            diffusion=None if diffusion is None else diffusion.config,
            condition=_condition(parts),
            max_latents=None if diffusion is None else diffusion.max_latents,
            sampling=parts.sampling,
            alphabet=None if backbone.alphabet is None else "".join(sorted(backbone.alphabet)),
            info=parts.info,
            files=hash_files(new),
        )
        atomic_json(new / RECORD, record.model_dump(mode="json"))
        (new / "README.md").write_text(model_card(parts, base=base), encoding="utf-8")
        if unnamed := sorted({path.name for path in new.iterdir()} - MODEL.names):
            raise RuntimeError(f"a user's '{unnamed[0]}' could be written over: name it in MODEL (storage/kinds.py)")


def _condition(parts: ModelParts) -> ConditionConfig:
    """The conditions that the diffusion model reads; without one those of the decoder of a plan."""
    reader: Any = parts.autoencoder.condition if parts.diffusion is None else parts.diffusion.condition
    return ConditionConfig() if reader is None else reader.config


def _save_groups(module: nn.Module, groups: Mapping[str, tuple[str, ...]], folder: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor for name, tensor in live_tensors(module).items() if not name.startswith(WITH_FOLDERS)}
    homeless = [name for name in tensors if not name.startswith(tuple(p for group in groups.values() for p in group))]
    if homeless:
        raise RuntimeError(f"no folder of the model holds '{homeless[0]}': give it one in storage/model_folder.py")
    for name, prefixes in groups.items():
        group = {key: tensor for key, tensor in tensors.items() if key.startswith(prefixes)}
        if group:
            (folder / name).mkdir()
            save_tensors(group, folder / name / WEIGHTS, dtype)


def _changes(autoencoder: TextAutoencoder, base: str, dtype: torch.dtype) -> tuple[BaseReference, dict[str, Tensor]]:
    """The reference to the shipped model `base`, and the tensors in which `autoencoder` differs from it."""
    record, original = _load_base(base)
    ours, theirs = autoencoder.backbone, original.backbone
    if (
        ours.model.config.model_type != theirs.model.config.model_type
        or _shapes(ours) != _shapes(theirs)
        or ours.tokenizer.get_vocab() != theirs.tokenizer.get_vocab()
    ):
        raise UserError(f"the backbone or tokenizer differs from that of '{base}'; save the model without a base")
    old = {name: stored(name, tensor, dtype) for name, tensor in _on_base(live_tensors(original)).items()}
    new = {name: stored(name, tensor, dtype) for name, tensor in _on_base(live_tensors(autoencoder)).items()}
    changes = {name: t for name, t in new.items() if name not in old or not torch.equal(t, old[name])}
    return BaseReference(name=base, digest=autoencoder_digest(record)), changes


def _on_base(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a model may share with its base. Its sentence encoder is found in another way."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("sentence_encoder.")}


@usual_defaults()
def load_parts(name_or_path: str | Path) -> ModelParts:
    """Read a model by a name as in `resolve_model`, on the CPU, in float32, in evaluation mode. Random generators do
    not change.

    Raises:
        UserError: no such model; one of its files is missing, cut short, of the wrong shape, changed since it was
            saved, or may be a pickle; model.json is malformed or of an unknown format; its base, or the encoder that
            it shares with a shipped model, is missing or changed.
    """
    folder = resolve_model(name_or_path)
    record = read_record(folder)
    check_files(folder, record, weights=False)
    with torch.random.fork_rng(devices=[]):
        if record.base is None:
            autoencoder = _load_autoencoder(folder, record)
        else:
            autoencoder = _load_on_base(folder, record, record.base)
        autoencoder.backbone.alphabet = None if record.alphabet is None else frozenset(record.alphabet)
        if WORDS in record.files:
            words = (folder / WORDS).read_text(encoding="utf-8").split("\n")
            backbone = autoencoder.backbone
            backbone.lexicon = Lexicon(words, backbone.tokenizer, backbone.alphabet)
        if PHRASES in record.files:
            autoencoder.backbone.phrases = Phrases.load(folder / PHRASES, len(autoencoder.backbone.tokenizer))
        source_encoder = None
        if record.holds(SOURCE_ENCODER[0]):
            source_encoder = SourceEncoder(*load_language_model(folder, SOURCE_ENCODER, auto_class)).eval()
        diffusion = _load_diffusion(folder, record, autoencoder, source_encoder)
    # After the shapes, so that an error can name the wrong tensor.
    check_files(folder, record, weights=True)
    remedy = "copy or download the model folder again"
    judge = Judge.load(folder / JUDGE, remedy) if record.holds(JUDGE) else None
    places = {name: f"{JUDGES}/{number}" for number, name in enumerate(record.condition.attributes)}
    judges = {name: Judge.load(folder / own, remedy) for name, own in places.items() if record.holds(own)}
    return ModelParts(record.name, autoencoder, diffusion, record.sampling, record.info, judge, source_encoder, judges)


def _load_autoencoder(folder: Path, record: ModelRecord) -> TextAutoencoder:
    from transformers import AutoModelForSeq2SeqLM

    model, tokenizer = load_language_model(folder, BACKBONE, lambda config: AutoModelForSeq2SeqLM)
    backbone = Backbone(model, tokenizer, record.autoencoder.max_tokens).eval()
    encoder = load_encoder(folder, record)
    with _saying_unfit(folder):
        autoencoder = TextAutoencoder(record.autoencoder, backbone, encoder)
        attach(autoencoder, record.condition)
    autoencoder.eval()
    _load_groups(autoencoder, AUTOENCODER_PARTS, folder)
    return autoencoder


def _load_on_base(folder: Path, record: ModelRecord, reference: BaseReference) -> TextAutoencoder:
    installed, original = _load_base(reference.name, wanted_by=folder)
    if autoencoder_digest(installed) != reference.digest:
        there = f"'{reference.name}' has digest {autoencoder_digest(installed)}, not {reference.digest}"
        raise UserError(f"{folder / RECORD}: {there}; install the ladle that made the model ({record.ladle})")
    path = folder / CHANGES
    changes = read_tensors(path) if CHANGES in record.files else {}
    original.backbone.max_tokens = record.autoencoder.max_tokens
    given = _on_base(live_tensors(original))
    inherited = {name: t.detach().clone() for name, t in given.items() if name not in changes}
    encoder = load_encoder(folder, record)
    with _saying_unfit(folder):
        autoencoder = TextAutoencoder(record.autoencoder, original.backbone, encoder)
        attach(autoencoder, record.condition)
    autoencoder.eval()
    targets = _on_base(autoencoder.state_dict(keep_vars=True))
    # Settings may differ from the base's (another parallel decoder, say), so only tensors that fit are used.
    fitting = {name: t for name, t in inherited.items() if name in targets and t.shape == targets[name].shape}
    fill(targets, fitting | changes, path)
    return autoencoder


def _load_base(name: str, wanted_by: Path | None = None) -> tuple[ModelRecord, TextAutoencoder]:
    folder = shipped_models().get(name)
    if folder is None:
        missing = f"there is no shipped model '{name}' (shipped: {shipped_names()})"
        raise UserError(f"{wanted_by / RECORD}: {missing}; upgrade ladle" if wanted_by else missing)
    record = read_record(folder)
    if record.base is not None:
        raise UserError(f"'{name}' cannot be a base: it is built on '{record.base.name}' itself; name a complete model")
    return record, load_parts(folder).autoencoder


def _load_diffusion(
    folder: Path, record: ModelRecord, autoencoder: TextAutoencoder, source_encoder: SourceEncoder | None
) -> LatentDiffusionModel | None:
    if record.diffusion is None:
        return None
    with _saying_unfit(folder):
        source_dim = SourceReader(autoencoder, record.condition, source_encoder).dim
        diffusion = LatentDiffusionModel(
            autoencoder, record.diffusion, record.condition, source_dim, record.max_latents
        ).eval()
    _load_groups(diffusion, DIFFUSION_PARTS, folder)
    return diffusion


def _load_groups(module: nn.Module, groups: Mapping[str, tuple[str, ...]], folder: Path) -> None:
    tensors = module.state_dict(keep_vars=True)
    for name, prefixes in groups.items():
        group = {key: tensor for key, tensor in tensors.items() if key.startswith(prefixes)}
        if group:
            path = folder / name / WEIGHTS
            fill(group, read_tensors(path), path)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in live_tensors(module).items()}


@contextmanager
def _saying_unfit(folder: Path) -> Iterator[None]:
    """Report sizes that no network can have, or that do not fit into memory, as errors of model.json."""
    try:
        yield
    except (ValueError, RuntimeError, MemoryError, ZeroDivisionError) as error:
        raise UserError(f"{folder / RECORD}: cannot build a model from it: {first_line(error)}") from None
