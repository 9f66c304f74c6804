"""Does a point half-way between two plans mean something? Texts at the midpoints of pairs, and the pairs beside them.

    python benchmarks/midpoints.py MODEL --data valid.jsonl.gz --scorer SCORER -n 200 [--shown 20]

Each pair are two rows at random. Its ends are written from their plans, its midpoint from the mean of both plans in the
direction of the mean and with the mean length (slerp), all with the likeliest words. SCORER is a folder that
`ladle fit scorer` wrote.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from ladle.data.rows import read_rows
from ladle.editing.paths import weighted
from ladle.evaluation.scorer import Scorer, perplexity
from ladle.pipeline import LatentDiffusion


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures, and some pairs with their midpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--scorer", required=True)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shown", type=int, default=20)
    given = parser.parse_args(arguments)
    model, scorer = LatentDiffusion.from_pretrained(given.model), Scorer.load(given.scorer)
    texts = random.Random(given.seed).sample([row["text"] for row in read_rows(given.data)], 2 * given.n)
    latents = model.encode(texts, wording=False)
    first, second = latents.values[: given.n], latents.values[given.n :]
    ends = model.decode(latents)
    halves = torch.tensor([0.5, 0.5])
    points = [weighted(torch.stack(pair), halves) for pair in zip(first, second, strict=True)]
    middles = model.decode(replace(latents[: given.n], values=torch.stack(points)))
    pairs = list(zip(ends[: given.n], middles, ends[given.n :], strict=True))
    figures = {"real texts": texts, "ends, from their plans": ends, "midpoints": middles}
    for name, own in figures.items():
        print(f"{name}: perplexity {perplexity(*scorer.score(own)):.1f}, n = {len(own)}")
    new = sum(middle not in (one, other) for one, middle, other in pairs)
    print(f"equal to neither end: {new} of {len(pairs)}")
    for (one, middle, other), start, goal in zip(pairs, texts, texts[given.n :], strict=False):
        if given.shown > 0:
            print(f"\nA   {start}\n    {one}\n1/2 {middle}\nB   {goal}\n    {other}")
        given.shown -= 1


if __name__ == "__main__":
    main()
