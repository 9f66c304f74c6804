"""Sentence encoders in model folders: one of the model's own, or that of a shipped model, which many models share."""

from functools import lru_cache
from pathlib import Path

import torch

from ladle.autoencoder.autoencoder import AutoencoderConfig, TextAutoencoder
from ladle.autoencoder.sentence_encoder import Origin, StoredSentenceEncoder, Unpooled
from ladle.errors import UserError
from ladle.layers import usual_defaults
from ladle.storage.names import RECORD, shipped_models, shipped_names
from ladle.storage.record import (
    SENTENCE_ENCODER,
    ModelRecord,
    check_files,
    encoder_digest,
    encoder_files,
    read_record,
)
from ladle.storage.tensors import load_language_model


def encoder_name(config: AutoencoderConfig) -> str | None:
    """The setting `sentence_encoder` of the bottleneck, if its kind has one."""
    name: str | None = getattr(config.bottleneck, "sentence_encoder", None)
    return name


def shipped_encoder(config: AutoencoderConfig) -> StoredSentenceEncoder | None:
    """The sentence encoder of the shipped model that the setting names, on the CPU, in float32; None: it names no
    shipped model. A process holds its weights once, however many models use them. Random generators do not change.

    Raises UserError: that model has no sentence encoder, or a file of it is damaged.
    """
    name = encoder_name(config)
    folder = shipped_models().get(name or "")
    if name is None or folder is None:
        return None
    record = read_record(folder)
    if not record.holds(SENTENCE_ENCODER[0]):
        what = f"autoencoder.bottleneck.sentence_encoder: the shipped model '{name}' has no sentence encoder"
        having = [known for known, place in shipped_models().items() if read_record(place).holds(SENTENCE_ENCODER[0])]
        raise UserError(f"{what}; name another encoder (shipped: {', '.join(having) or 'none'})")
    return _held(folder, Origin(name, encoder_digest(record))).twin()


@lru_cache(maxsize=1)
@usual_defaults()
def _held(folder: Path, origin: Origin) -> StoredSentenceEncoder:
    record = read_record(folder)
    alone = record.model_copy(update={"files": encoder_files(record)})
    check_files(folder, alone, weights=False)
    encoder = _read(folder, origin)
    check_files(folder, alone, weights=True)
    return encoder


def _read(folder: Path, origin: Origin | None) -> StoredSentenceEncoder:
    with torch.random.fork_rng(devices=[]):
        return StoredSentenceEncoder(*load_language_model(folder, SENTENCE_ENCODER, lambda config: Unpooled), origin)


def load_encoder(folder: Path, record: ModelRecord) -> StoredSentenceEncoder | None:
    """The sentence encoder of the model in `folder`: its own, or that of a shipped model; None if it has neither.

    Raises UserError: as `shipped_encoder`; the shipped model is missing, or has another encoder than the one that the
    model was made with.
    """
    if record.holds(SENTENCE_ENCODER[0]):
        of_itself = encoder_name(record.autoencoder) == record.name  # as in a shipped model
        if of_itself and folder == shipped_models().get(record.name):
            return shipped_encoder(record.autoencoder)
        return _read(folder, Origin(record.name, encoder_digest(record)) if of_itself else None)
    encoder, made_with = shipped_encoder(record.autoencoder), record.encoder
    if made_with is None:
        return encoder
    if encoder is None or encoder.origin is None:
        missing = f"there is no shipped model '{made_with.name}' (shipped: {shipped_names()})"
        raise UserError(f"{folder / RECORD}: {missing}, whose sentence encoder makes the latents; upgrade ladle")
    if encoder.origin != (made_with.name, made_with.digest):
        there = f"the sentence encoder of '{encoder.origin.name}' has digest {encoder.origin.digest}"
        remedy = f"install the ladle that made the model ({record.ladle})"
        raise UserError(f"{folder / RECORD}: {there}, not {made_with.digest}; {remedy}")
    return encoder


def shared_encoder(name: str, autoencoder: TextAutoencoder) -> Origin | None:
    """The shipped model whose sentence encoder a model of this name uses, so that its own folder needs none. None: it
    has no stored encoder, it is that shipped model itself, or the installed one has another encoder."""
    encoder = autoencoder.sentence_encoder
    origin = encoder.origin if isinstance(encoder, StoredSentenceEncoder) else None
    if origin is None or origin.name == name or origin.name != encoder_name(autoencoder.config):
        return None
    folder = shipped_models().get(origin.name)
    return origin if folder is not None and encoder_digest(read_record(folder)) == origin.digest else None
