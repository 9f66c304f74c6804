"""Control: a trained classifier of noised latents with its labels, in memory and in a folder."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.plan import CLEAN_LOG_SNR
from ladle.config import nearest
from ladle.control.classifier import ClassifierConfig, LatentClassifier
from ladle.data.files import PathLike
from ladle.data.labels import own_label
from ladle.data.stores import length_batches
from ladle.diffusion.schedule import Level, ScheduleConfig, build_schedule
from ladle.diffusion.steering import LogProb
from ladle.errors import UserError, first_line
from ladle.storage.folders import atomic_folder, read_record
from ladle.storage.kinds import CONTROL
from ladle.storage.tensors import WEIGHTS, live_tensors, write_file
from ladle.storage.writing import atomic_json

RECORD = "control.json"
FORMAT = 1


@dataclass
class Control:
    """What `fit_control` makes: it tells the labels of a model's latents, at every level of noise.

    labels: K names. space: the fingerprint of the latents that it was trained on (`Normaliser.fingerprint`). held_out:
    its accuracy on rows that it was not trained on, by diffusion time. name: for messages.
    """

    classifier: LatentClassifier
    labels: tuple[str, ...]
    space: str
    held_out: dict[str, Any] = field(default_factory=dict)
    name: str = "control"

    @property
    def digest(self) -> str:
        """Sixteen hex digits of the labels and the weights."""
        found = hashlib.sha256(json.dumps([self.labels, self.space]).encode())
        for name, tensor in live_tensors(self.classifier).items():
            found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def check_space(self, autoencoder: TextAutoencoder) -> None:
        """Raises UserError if the control was trained on the latents of another model."""
        if self.space != autoencoder.normaliser.fingerprint():
            what = f"the control '{self.name}' is of another model's latents"
            raise UserError(f"{what}; fit one with `ladle fit control --model` and this model")

    def number_of(self, label: str) -> int:
        """The number of a label, in any spelling. Raises UserError: not one of the labels (with the nearest)."""
        own = own_label(label, self.labels)
        if own not in self.labels:
            known = nearest(str(own), [*self.labels])
            raise UserError(f"the control '{self.name}' does not know the label '{own}': {known}")
        return self.labels.index(own)

    def log_prob(self, label: str, mask: Tensor, *, negated: bool = False) -> LogProb:
        """The function (zt [B, L, D], level) -> log p(label | zt), [B], for latents with this mask [B, L].

        negated: log(1 - p(label | zt)) instead. Its gradient ends where the text is surely not of that label, and that
        of -log p does not. UserError as `number_of`.
        """
        number = self.number_of(label)

        def found(zt: Tensor, level: Level) -> Tensor:
            log_shares = self.classifier(zt, level, mask).log_softmax(-1)
            if negated:
                others = [other for other in range(len(self.labels)) if other != number]
                return log_shares[:, others].logsumexp(1)
            return log_shares[:, number]

        return found

    def probabilities(self, autoencoder: TextAutoencoder, texts: Sequence[str], batch_size: int = 128) -> Tensor:
        """Probability of each label for each text, read from its latents without noise: [N, K], on the CPU.

        Raises UserError: the control is of another model's latents.
        """
        self.check_space(autoencoder)
        return probabilities([self], autoencoder, texts, batch_size)[0]

    def to(self, device: torch.device | str) -> "Control":
        """Move the classifier to a device."""
        self.classifier.to(device)
        return self

    def save(self, folder: PathLike) -> None:
        """Write settings (JSON) and weights (safetensors), whole or not at all. Raises as `atomic_folder`."""
        with atomic_folder(folder, kind=CONTROL) as new:
            tensors = {name: x.detach().cpu().contiguous() for name, x in live_tensors(self.classifier).items()}
            write_file(tensors, new / WEIGHTS)
            sizes = self.classifier.config.model_dump(mode="json")
            record = {"labels": self.labels, "space": self.space, "classifier": sizes, "held_out": self.held_out}
            atomic_json(new / RECORD, {"format": FORMAT, **record})

    @classmethod
    def load(cls, folder: PathLike) -> "Control":
        """Read what `save` wrote, on the CPU. Raises UserError: no such folder, a missing or damaged file."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(folder)
        try:
            record = read_record(path, RECORD, FORMAT)
            labels, space, held_out = tuple(record["labels"]), str(record["space"]), dict(record["held_out"])
            config = ClassifierConfig.parse(record["classifier"])
            if config.num_labels != len(labels):
                raise ValueError(f"{len(labels)} labels, but a classifier of {config.num_labels}")
            with torch.random.fork_rng(devices=()):
                classifier = LatentClassifier(config)
            classifier.load_state_dict(load_file(path / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, UserError, SafetensorError) as error:
            remedy = "make one with `ladle fit control`"
            raise UserError(f"cannot load the control in {path}: {first_line(error)}; {remedy}") from None
        return cls(classifier.eval().requires_grad_(False), labels, space, held_out, os.fspath(folder))


def clean_level(device: torch.device) -> Level:
    """The level of latents without noise."""
    return build_schedule(ScheduleConfig()).level_from_log_snr(torch.tensor(CLEAN_LOG_SNR)).to(device)


@torch.no_grad()
def probabilities(
    controls: Sequence[Control], autoencoder: TextAutoencoder, texts: Sequence[str], batch_size: int = 128
) -> list[Tensor]:
    """`Control.probabilities` of several controls, for which each text is encoded once."""
    found = [torch.zeros(len(texts), len(control.labels)) for control in controls]
    for rows in length_batches(texts, batch_size):
        latents = autoencoder.encode_texts(texts[row] for row in rows)
        level = clean_level(latents.values.device)
        for control, own in zip(controls, found, strict=True):
            logits = control.to(latents.values.device).classifier(latents.values, level, latents.mask)
            own[torch.tensor(rows)] = logits.softmax(1).cpu()
    return found


def loaded(control: Control | PathLike) -> Control:
    """The control itself, or that of a folder. Raises UserError as `Control.load`."""
    if isinstance(control, Control):
        return control
    if not isinstance(control, str | os.PathLike):
        kind = type(control).__name__
        raise UserError(f"a control is a {kind}; give the folder that `ladle fit control` wrote, or what it returned")
    return Control.load(control)
