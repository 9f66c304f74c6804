"""model.json describes a model folder: its settings, its origin and a hash of every file.

Only JSON, Markdown and safetensors are read from a model folder. A folder that holds a pickle is refused.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import field_validator

from ladle.autoencoder.autoencoder import AutoencoderConfig
from ladle.conditioning.config import ConditionConfig
from ladle.config import Config
from ladle.data.files import known_json
from ladle.diffusion.model import DiffusionConfig
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.storage.names import RECORD
from ladle.storage.tensors import WEIGHTS_8

FORMAT: Literal[2] = 2
BACKBONE = ("backbone", "tokenizer")
SENTENCE_ENCODER = ("sentence_encoder", "sentence_tokenizer")
# Folder -> beginnings of the names of the tensors that it holds. A folder without tensors is not written.
AUTOENCODER_PARTS = {
    "bottleneck": ("bottleneck.", "normaliser."), "parallel_decoder": ("parallel_decoder.",),
    "decoder_condition": ("condition.",),
}  # fmt: skip
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})


class BaseReference(Config):
    """A shipped model, a part of which this model uses. digest: of the files of that part at the time of saving."""

    name: str
    digest: str


class ModelRecord(Config):
    """The content of model.json.

    format: of the folder. ladle: version that wrote it. dtype: of the stored weights (the normaliser's are float32).
    base: of the autoencoder (`autoencoder_digest`); None for a complete folder. encoder: of the sentence encoder
    (`encoder_digest`); None if the folder holds it, or there is none.
    max_latents: largest number of latents that the diffusion model writes.
    alphabet: the signs that the model has learnt; None: not known (older models).
    info: data, licence, figures and so on (see `ladle.storage.card`). files: sha256 of all other files but the card.
    """

    format: Literal[2] = FORMAT
    ladle: str
    name: str
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    base: BaseReference | None = None
    encoder: BaseReference | None = None
    autoencoder: AutoencoderConfig
    diffusion: DiffusionConfig | None = None
    condition: ConditionConfig = ConditionConfig()
    max_latents: int | None = None
    sampling: SamplingOptions = SamplingOptions()
    alphabet: str | None = None
    info: dict[str, Any] = {}
    files: dict[str, str]

    @field_validator("files")
    @classmethod
    def _inside_the_folder(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"'{name}' is not inside the model folder")
        return files

    @property
    def encoder_in_8_bits(self) -> bool:
        """Whether the sentence encoder's matrices are stored in 8 bits."""
        return f"{SENTENCE_ENCODER[0]}/{WEIGHTS_8}" in self.files

    def holds(self, folder: str) -> bool:
        """Whether there are files in that folder of the model."""
        return any(name.startswith(f"{folder}/") for name in self.files)


def read_record(folder: str | Path) -> ModelRecord:
    """Read and validate model.json.

    Raises UserError: no model.json in the folder, malformed JSON, unknown keys or values, or an unknown format.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        raise UserError(f"{folder} is not a model folder: it has no {path.name}; give a folder that `ladle train` made")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: malformed JSON ({error.msg}); copy the model folder again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    found = values.get("format") if isinstance(values, dict) else None
    if type(found) is not int:
        raise UserError(f"{path}: malformed, it has no format number; give a folder that `ladle train` made")
    if found > FORMAT:
        raise UserError(f"{path}: format {found} is newer than this ladle, which reads format {FORMAT}; upgrade ladle")
    return ModelRecord.parse(values, where=str(path))


def model_digest(folder: str | Path) -> str:
    """Sixteen hex digits that identify a model by its weight and tokenizer files and its settings.

    The name, the card, `info` and the sampling defaults do not count. The hashes are taken from model.json;
    `load_parts` checks them against the files. Raises UserError as `read_record`.
    """
    counted = {"files", "base", "autoencoder", "diffusion", "condition", "max_latents"}
    record = read_record(folder)
    if record.encoder is not None:  # (else digests of models from before would change)
        counted.add("encoder")
    return _short_hash(record.model_dump(mode="json", include=counted))


def autoencoder_digest(record: ModelRecord) -> str:
    """Sixteen hex digits of the autoencoder's files, which must not change under a model built on them."""
    folders = (*BACKBONE, *AUTOENCODER_PARTS, *SENTENCE_ENCODER)
    return _short_hash({name: h for name, h in record.files.items() if name.split("/")[0] in folders})


def encoder_files(record: ModelRecord) -> dict[str, str]:
    """The hashes of the sentence encoder's files, by their paths."""
    return {name: h for name, h in record.files.items() if name.split("/")[0] in SENTENCE_ENCODER}


def encoder_digest(record: ModelRecord) -> str:
    """Sixteen hex digits of the sentence encoder's files, which must not change under a model that was made with it."""
    return _short_hash(encoder_files(record))


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of each file under `folder`, by its path there, sorted."""
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def written_files(folder: str | Path) -> set[str]:
    """The files of the model in a folder, as its model.json names them, with that and the card."""
    return {*known_json(Path(folder) / RECORD).get("files", ()), RECORD, "README.md"}


def check_files(folder: Path, record: ModelRecord, *, weights: bool) -> None:
    """Compare the files with the hashes in model.json: only the weights, or only all other files. No file may be a
    pickle, which runs code when it is read.

    Raises UserError: a file is missing, cannot be read, or has changed since it was saved.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICKLES and not path.is_dir():
            raise UserError(f"{path} may run code when it is read, so the model is refused; remove this file from it")
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; copy or download the model folder again")
        if weights != (path.suffix == ".safetensors"):
            continue
        try:
            found = _sha256(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        if found != expected:
            raise UserError(f"{path} has changed since it was saved (its sha256 differs); copy the model folder again")


def _sha256(path: Path) -> str:
    if path.suffix == ".safetensors":
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    # Git may change the line ends of text files when it checks them out.
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
