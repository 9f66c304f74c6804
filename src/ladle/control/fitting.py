"""`ladle fit control`: trains a classifier of a model's noised latents on labelled texts."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ladle.autoencoder.encoding import store_latents
from ladle.checks import check_whole
from ladle.control.classifier import ClassifierConfig, LatentClassifier
from ladle.control.control import Control
from ladle.data.columns import MAX_CLASSES, Columns
from ladle.data.files import PathLike
from ladle.data.in_memory import RowSource
from ladle.data.rows import counted, read_and_tell
from ladle.data.stores import VectorStore
from ladle.diffusion.prediction import add_noise
from ladle.diffusion.schedule import Schedule, ScheduleConfig, build_schedule
from ladle.errors import UserError
from ladle.layers import usual_defaults
from ladle.storage.folders import check_folder
from ladle.storage.kinds import CONTROL
from ladle.storage.parts import ModelParts

TIMES = (0.1, 0.5, 0.9)  # at which the held-out accuracy is told
LOOK_TIMES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)  # at which the held-out loss is measured
HELD_OUT, MOST_HELD_OUT = 0.2, 2000  # share of the rows, and the largest number of them
MOST_ROWS = 50_000  # of more rows so many are drawn: encoding them takes longer than learning from them
BATCH, LR, WEIGHT_DECAY = 128, 1e-3, 0.05
LOOK_EVERY, PATIENCE = 50, 12  # steps between two looks at the held-out loss; looks without a better one before the end


@usual_defaults()
def fit_control(
    parts: ModelParts,
    data: RowSource,
    output: PathLike | None = None,
    *,
    minutes: float = 1.0,
    steps: int | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Control:
    """Train a control for a model, whose own weights do not change.

    The texts' latents are noised to every level, as far as the model's sampler goes. The classifier with the lowest
    held-out loss is kept, and the training ends early where that loss no longer falls.

    Args:
        parts: the model: `LatentDiffusion.parts`. Its labels, if it has any, need not be those of the data.
        data: rows with text and label, in a file or in memory. A fifth of them is held out.
        output: the folder to write; None: none.
        minutes: the longest time of the training, without the time to encode the texts.
        steps: the largest number of steps; None: as many as there is time for.
        seed: of weights, noise and the choice of held-out rows.
        columns: the column names of the data.
        log: receives messages for the user.

    Raises:
        UserError: bad input, fewer than two labels or more than 200, minutes that are not above 0, a folder that holds
            other things of these names.
    """
    if not (isinstance(minutes, int | float) and 0 < minutes < math.inf):
        raise UserError(f"minutes is {minutes!r:.60}; it must be a number greater than 0")
    seed = check_whole("seed", seed, 0)
    if output is not None:
        check_folder(output, CONTROL, (data,))
    told: list[str] = []  # until the labels are right: rows that make no control are refused in one line
    columns = replace(columns or Columns(), source="")  # a control reads no sources
    rows = read_and_tell(data, columns, told.append, need=("text", "label"))
    order = np.random.default_rng(seed).permutation(len(rows))[:MOST_ROWS]
    texts, given = [rows[i]["text"] for i in order], [rows[i]["label"] for i in order]
    labels = tuple(sorted(set(given)))
    _check_labels(labels)
    for line in told:
        log(line)
    log(f"encoding {counted(len(texts), 'text')}")
    store = store_latents(parts.autoencoder, texts)
    schedule = build_schedule(ScheduleConfig()) if parts.diffusion is None else parts.diffusion.schedule
    fit = _Fit(store, torch.tensor([labels.index(label) for label in given]), schedule, parts.autoencoder.device, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = LatentClassifier(ClassifierConfig.of(parts.autoencoder, len(labels)))
        classifier = fit.train(classifier.to(parts.autoencoder.device), 60 * minutes, steps)
    name = "control" if output is None else str(output)
    control = Control(classifier, labels, parts.autoencoder.normaliser.fingerprint(), fit.held_out(classifier), name)
    if output is not None:
        control.save(output)
    return control


def _check_labels(labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        found = f"all rows have the label '{labels[0]}'" if labels else "there are none"
        raise UserError(f"a control needs rows with two labels or more; {found}")
    if len(labels) > MAX_CLASSES:
        what = f"the label column has {len(labels):,} different values; at most {MAX_CLASSES} are allowed"
        raise UserError(f"{what}; name another column with --label")


class _Fit:
    """The data of one training: latents with the numbers of their labels, the first rows of them held out."""

    def __init__(self, store: VectorStore, labels: Tensor, schedule: Schedule, device: torch.device, seed: int):
        self.store, self.labels, self.schedule, self.device = store, labels, schedule, device
        self.generator = torch.Generator().manual_seed(seed)
        cut = max(1, min(MOST_HELD_OUT, round(HELD_OUT * len(labels))))
        self.held, self.train_rows = torch.arange(cut), torch.arange(cut, len(labels))
        self.look_seed, self.look_noise = seed + 1, torch.Generator()

    def train(self, classifier: LatentClassifier, seconds: float, steps: int | None) -> LatentClassifier:
        """The classifier with the lowest held-out loss, in evaluation mode, without gradients."""
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        best, best_loss, worse, done = copy.deepcopy(classifier), math.inf, 0, 0
        begun = time.monotonic()
        while worse < PATIENCE and (steps is None or done < steps) and time.monotonic() - begun < seconds:
            loss = self._loss(classifier.train())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done % LOOK_EVERY == 0 or done == steps:
                value = self._held_out_loss(classifier.eval())
                better = value < best_loss
                best, best_loss, worse = (
                    (copy.deepcopy(classifier), value, 0) if better else (best, best_loss, worse + 1)
                )
        if best_loss == math.inf:  # (no look in so short a time)
            best = classifier
        return best.eval().requires_grad_(False)

    def _loss(self, classifier: LatentClassifier) -> Tensor:
        chosen = self.train_rows[torch.randint(len(self.train_rows), (BATCH,), generator=self.generator)]
        times = torch.rand(BATCH, generator=self.generator)
        return F.cross_entropy(self._logits(classifier, chosen, times, self.generator), self._labels_of(chosen))

    @torch.no_grad()
    def _held_out_loss(self, classifier: LatentClassifier) -> float:
        """The mean over levels, with the same noise at every look."""
        self.look_noise.manual_seed(self.look_seed)
        times = torch.tensor(LOOK_TIMES).repeat(-(-len(self.held) // len(LOOK_TIMES)))[: len(self.held)]
        return float(
            F.cross_entropy(self._logits(classifier, self.held, times, self.look_noise), self._labels_of(self.held))
        )

    @torch.no_grad()
    def held_out(self, classifier: LatentClassifier) -> dict[str, Any]:
        """Share of held-out rows whose label is the likeliest, at each of TIMES, and share of the commonest label."""
        self.look_noise.manual_seed(self.look_seed)
        labels, found = self._labels_of(self.held), {}
        for t in TIMES:
            logits = self._logits(classifier, self.held, torch.full((len(self.held),), t), self.look_noise)
            found[f"{t:g}"] = float((logits.argmax(1) == labels).float().mean())
        commonest = float(labels.bincount().max()) / len(labels)
        return {"n": len(self.held), "accuracy": found, "commonest": commonest}

    def _logits(self, classifier: LatentClassifier, rows: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        z0, mask = self.store.gather(rows)
        zt = add_noise(z0, torch.randn(z0.shape, generator=generator) * mask[..., None], self.schedule.level(times))
        level = self.schedule.level(times).to(self.device)
        return classifier(zt.to(self.device), level, mask.to(self.device))

    def _labels_of(self, rows: Tensor) -> Tensor:
        return self.labels[rows].to(self.device)


def describe_held_out(control: Control) -> str:
    """A line with the accuracy of a control on held-out rows, by diffusion time."""
    found = control.held_out
    shares = ", ".join(f"{share:.1%} at t = {t}" for t, share in found["accuracy"].items())
    rows = counted(found["n"], "held-out row")
    return f"accuracy on {rows}: {shares}; the commonest label alone: {found['commonest']:.1%}"
