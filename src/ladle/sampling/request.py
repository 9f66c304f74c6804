"""What one call of `generate` asks for: a seed, a label, a source for each text; and the tensors of its conditions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.store import SourceStore
from ladle.errors import UserError
from ladle.storage.parts import ModelParts


@dataclass(frozen=True)
class Request:
    """A seed, a label or None, a source or None for each text."""

    seeds: list[int]
    labels: list[str | None]
    sources: list[str | None]

    @classmethod
    def line_up(
        cls,
        num_samples: int | None,
        seeds: Iterable[int] | None,
        label: str | Sequence[str | None] | None,
        source: str | Sequence[str | None] | None,
    ) -> Self:
        """Lists of equal length; a single label or source serves all samples.

        Raises:
            UserError: lengths that disagree, none asked for.
        """
        seed_list = None if seeds is None else list(seeds)
        lists = {
            name: list(value)
            for name, value in (("label", label), ("source", source))
            if value is not None and not isinstance(value, str)
        }
        counts = {name: len(value) for name, value in lists.items()}
        if num_samples is not None:
            counts["num_samples"] = num_samples
        if seed_list is not None:
            counts["seeds"] = len(seed_list)
        if len(set(counts.values())) > 1:
            raise UserError("these disagree: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        count = next(iter(counts.values()), 1)
        if count < 1:
            raise UserError(f"num_samples is {count}: it must be at least 1")
        texts = {"label": label, "source": source}
        spread = {name: lists.get(name) or [texts[name]] * count for name in texts}  # type: ignore[list-item]
        return cls(seed_list or list(range(count)), spread["label"], spread["source"])

    def __len__(self) -> int:
        return len(self.seeds)

    def part(self, rows: Iterable[int], seeds: list[int] | None = None) -> "Request":
        """Some of it, in that order; with other seeds where they are given."""
        rows = list(rows)
        return Request(
            [self.seeds[row] for row in rows] if seeds is None else seeds,
            [self.labels[row] for row in rows],
            [self.sources[row] for row in rows],
        )


class Conditions:
    """Conditions of all samples of a request; each distinct source is encoded once.

    Args:
        parts: with a diffusion model, on its device, in eval mode.
        request: what is asked for.

    Raises:
        UserError: an unknown label, a source where the model takes none.
    """

    def __init__(self, parts: ModelParts, request: Request):
        assert parts.diffusion is not None
        config = parts.diffusion.condition.config
        self.device = parts.diffusion.denoiser.no_self_condition.device
        labels, sources = request.labels, request.sources
        given = any(label is not None for label in labels)
        self.label_ids = config.label_ids(labels) if given or config.labels else None
        self.sources = None
        if any(source is not None for source in sources):
            if not config.source:
                raise UserError(f"'{parts.name}' was not trained with source texts: leave the source out")
            self.sources = SourceStore(parts.reader(), sources)
        self.with_source = torch.tensor([source is not None for source in sources])
        self.given = torch.tensor([a is not None or b is not None for a, b in zip(labels, sources, strict=True)])

    def batch(self, rows: torch.Tensor) -> RawCondition:
        """The conditions of some rows."""
        source = mask = None
        if self.sources is not None:
            source, mask = self.sources.gather(rows)
        return RawCondition(None if self.label_ids is None else self.label_ids[rows], source, mask).to(self.device)
