"""Directions of the latent space: along one of them an attribute of a text changes, such as its sentiment or its tense.

A direction is learnt from labelled texts. With latents whose geometry is meaning, the difference of two classes' means
is one (as in word vectors, arXiv 1301.3781; of latents, arXiv 1609.04468). It is used on any model with the same
latents, and needs no training of that model.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ladle.autoencoder.latents import Latents
from ladle.data.columns import Columns
from ladle.data.files import PathLike
from ladle.data.in_memory import RowSource
from ladle.data.rows import read_and_tell
from ladle.errors import UserError, first_line
from ladle.evaluation.intervals import wilson_interval
from ladle.sampling.words import encode_texts
from ladle.storage.folders import atomic_folder, check_folder, recover_folder
from ladle.storage.kinds import DIRECTION
from ladle.storage.parts import ModelParts
from ladle.storage.tensors import write_file
from ladle.storage.writing import atomic_json

RECORD, WEIGHTS = "direction.json", "model.safetensors"
Kind = Literal["mean", "probe"]
HELD_OUT = 0.2  # share of the rows of each side that measure the probe
LEAST = 5  # rows of each side
ROWS = 20_000  # to learn from, at most
PENALTY = 0.01  # inverse strength of the probe's L2 penalty: 384 channels, often of a few hundred texts


@dataclass(frozen=True)
class Direction:
    """From texts of other labels to texts of the label `towards`.

    values: [L, D] for plans, [1, D] for latents of any number, normalised: from the mean of the others to the mean of
    `towards`, so that strength 1 takes the one to the other. weight, in the shape of values, and bias: of a probe, a
    logistic regression on latents. space: fingerprint of the latents. accuracy: of the probe on held-out rows, with its
    interval and their number.
    """

    towards: str
    away: str
    kind: Kind
    values: Tensor
    weight: Tensor
    bias: float
    space: str
    accuracy: dict[str, Any]

    def moved(self, latents: Tensor, strength: float) -> Tensor:
        """Latents [L, D] of a text, moved by `strength` times the direction."""
        return latents + strength * self.values.to(latents)

    def probability(self, latents: Latents) -> list[float]:
        """Of `towards`, for each text."""
        values = latents.mean()[:, None] if len(self.weight) == 1 else latents.values
        values = values.cpu()
        return torch.sigmoid((values * self.weight).flatten(1).sum(1) + self.bias).tolist()

    def check(self, parts: ModelParts) -> None:
        """Raises UserError: it was learnt on other latents than this model's."""
        if self.space != parts.autoencoder.normaliser.fingerprint():
            raise UserError(
                f"the direction '{self.towards}' is of other latents than those of '{parts.name}'; fit it on this model"
            )

    def save(self, folder: PathLike) -> None:
        """Write the direction, whole or not at all."""
        with atomic_folder(folder, kind=DIRECTION) as new:
            tensors = {"values": self.values, "weight": self.weight}
            write_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, new / WEIGHTS)
            names = ("towards", "away", "kind", "bias", "space", "accuracy")
            atomic_json(new / RECORD, {"format": 1, **{name: getattr(self, name) for name in names}})

    @classmethod
    def load(cls, folder: PathLike) -> "Direction":
        """Read what `save` wrote. Raises UserError: no such folder, or a damaged one."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(folder)
        recover_folder(path)
        try:
            record = json.loads((path / RECORD).read_text(encoding="utf-8"))
            if record.pop("format") != 1:
                raise ValueError("it was written by a newer ladle")
            tensors = load_file(path / WEIGHTS)
            return cls(**record, values=tensors["values"], weight=tensors["weight"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            what = f"cannot load the direction in {path}: {first_line(error)}"
            raise UserError(f"{what}; make one with `ladle fit direction`") from None


def fit_direction(
    parts: ModelParts,
    data: RowSource,
    output: PathLike | None = None,
    *,
    towards: str | None = None,
    away: str | None = None,
    kind: Kind = "mean",
    seed: int = 0,
    columns: Columns | None = None,
    batch_size: int = 128,
    log: Callable[[str], None] = lambda line: None,
) -> Direction:
    """Learn a direction from labelled rows, and write it to the folder `output`, if one is given.

    Args:
        towards: the label to go to; None: of two labels the second, or the one that is not `away`. away: the label to
            go from; None: all others.
        kind: `mean`: the difference of the classes' means. `probe`: the weights of a logistic regression, as long as
            takes the one mean past the other; it leaves alone what differs between the classes by chance.

    The means are those of all rows. The probe learns from four fifths of each side, and the rest measures it.

    Raises UserError: bad rows, no such label, the same label twice, more than two labels and none to go to, fewer than
    five texts of a side.
    """
    if kind not in get_args(Kind):
        raise UserError(f"there is no kind of direction '{kind}'; allowed are {', '.join(get_args(Kind))}")
    if output is not None:
        check_folder(output, DIRECTION, (data,))
    rows = read_and_tell(data, columns or Columns(), log, need=("text", "label"))
    labels = sorted({row["label"] for row in rows})
    towards, away = _both_labels(labels, towards, away)
    order = np.random.default_rng(seed).permutation(len(rows))
    used = [rows[i] for i in order if rows[i]["label"] == towards or away in (None, rows[i]["label"])][:ROWS]
    right = np.array([row["label"] == towards for row in used])
    if min(right.sum(), (~right).sum()) < LEAST:
        raise UserError(f"a direction needs at least {LEAST} texts on each side; give more rows")
    latents = encode_texts(parts.autoencoder, [row["text"] for row in used], batch_size)
    features = latents.values if parts.autoencoder.fixed_length else latents.mean()[:, None]
    direction = _learn(features.cpu(), right, held_out(right), kind, towards, away or "others", latents.space or "")
    if output is not None:
        direction.save(output)
    return direction


def _both_labels(labels: list[str], towards: str | None, away: str | None) -> tuple[str, str | None]:
    """The label to go to and the one to go from, None for all others, of the labels that rows have."""
    for name in (towards, away):
        if name is not None and name not in labels:
            raise UserError(f"no row has the label '{name}'; the labels are {', '.join(labels[:10])}")
    if towards is not None and towards == away:
        raise UserError(f"a direction cannot lead from '{away}' to itself; give two labels")
    if len(labels) == 2:
        towards = towards or next(name for name in reversed(labels) if name != away)
        away = next(name for name in labels if name != towards)
    if towards is None:
        raise UserError(f"give the label to go to (towards); the labels are {', '.join(labels[:10])}")
    return towards, away


def held_out(right: np.ndarray) -> np.ndarray:
    """Which rows measure the probe: the first of each side, [N] of bools. right: which rows are on the one side."""
    held = np.zeros(len(right), dtype=bool)
    for side in (right, ~right):
        held[side.nonzero()[0][: max(1, int(HELD_OUT * side.sum()))]] = True
    return held


def _learn(
    features: Tensor, right: np.ndarray, held: np.ndarray, kind: Kind, towards: str, away: str, space: str
) -> Direction:
    """held: which rows measure the probe."""
    from sklearn.linear_model import LogisticRegression

    flat = features.flatten(1).numpy()
    probe = LogisticRegression(C=PENALTY, max_iter=2000).fit(flat[~held], right[~held])
    hits, count = int((probe.predict(flat[held]) == right[held]).sum()), int(held.sum())
    interval = wilson_interval(hits, count)
    accuracy = {"value": hits / count, "interval": interval and list(interval), "n": count}
    there, other = features[torch.from_numpy(right)].mean(0), features[torch.from_numpy(~right)].mean(0)
    weight = torch.tensor(probe.coef_[0], dtype=torch.float32).reshape(there.shape)
    values = there - other
    if kind == "probe":
        values = weight * ((values * weight).sum() / weight.square().sum())
    return Direction(towards, away, kind, values, weight, float(probe.intercept_[0]), space, accuracy)


def analogy(parts: ModelParts, first: str, second: str, third: str, batch_size: int = 128) -> Tensor:
    """The latents [L, D] of what is to `third` as `second` is to `first`: z(third) + z(second) - z(first).

    Raises UserError: a model whose texts have different numbers of latents.
    """
    if not parts.autoencoder.fixed_length:
        raise UserError(f"'{parts.name}' has latents for each token, so texts cannot be added; use a model with plans")
    z0 = encode_texts(parts.autoencoder, [first, second, third], batch_size).values
    return z0[2] + z0[1] - z0[0]
