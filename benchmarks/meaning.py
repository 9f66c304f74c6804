"""How much meaning do latents hold? Figures of a model's latents, and of the sentence encoder of a wheel beside it.

    python benchmarks/meaning.py MODEL --captions multi30k_paraphrase/test.jsonl.gz \\
        --pairs mrpc/test.jsonl.gz qqp/test.jsonl.gz

* Recall at rank 1: of N captions, the share whose nearest other caption by latents is of the same image (the first
  reference of each row).
* Spearman correlation of the latents' cosine with the cosine of all-MiniLM-L6-v2, over the pairs of a set.

Latents of a plan are compared as embeddings (without the normaliser's scales), other latents by their mean.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from ladle.autoencoder.sentence_encoder import MINILM, NamedSentenceEncoder
from ladle.evaluation.intervals import wilson_interval
from ladle.pipeline import LatentDiffusion


def embeddings(model: LatentDiffusion, texts: list[str]) -> torch.Tensor:
    """[N, C], with norm 1."""
    latents = model.encode(texts)
    values = latents.values.cpu()
    if model.autoencoder.is_plan:
        vectors = model.autoencoder.normaliser.to("cpu").denormalise(values).flatten(1)
    else:
        vectors = values.sum(1) / latents.mask.cpu().sum(1, keepdim=True)
    return F.normalize(vectors.float(), dim=-1)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a compressed file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def recall(first: torch.Tensor, second: torch.Tensor) -> tuple[int, int]:
    """(rows whose nearest vector of `second` is their own, rows)."""
    right = (first @ second.T).argmax(1) == torch.arange(len(first))
    return int(right.sum()), len(first)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    model, teacher = LatentDiffusion.from_pretrained(given.model), NamedSentenceEncoder(MINILM)
    rows = list(rows_of(given.captions))
    sides = [row["source"] for row in rows], [row["references"][0] for row in rows]
    for name, embed in (("model", lambda texts: embeddings(model, texts)), ("teacher", teacher.embed)):
        right, count = recall(*(embed(side).cpu() for side in sides))
        low, high = wilson_interval(right, count) or (0.0, 1.0)
        print(f"{name}: recall at rank 1 {right / count:.1%} [{low:.1%}, {high:.1%}], n = {count}")
    for path in given.pairs:
        pairs = list(rows_of(path))
        first, second = ([row[side] for row in pairs] for side in ("source", "target"))
        own = (embeddings(model, first) * embeddings(model, second)).sum(1)
        wanted = (teacher.embed(first).cpu() * teacher.embed(second).cpu()).sum(1)
        print(f"{path.parent.name}: Spearman {spearmanr(own, wanted)[0]:.3f}, n = {len(pairs)}")


if __name__ == "__main__":
    main()
