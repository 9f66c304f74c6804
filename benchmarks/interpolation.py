"""Ways between two texts: do they lead evenly from the one to the other, through texts that read well?

    python benchmarks/interpolation.py MODEL --data valid.jsonl.gz --train train.jsonl.gz --scorer SCORER -n 200

Each way has eleven texts. For every kind of path, and for retrieval (at each point the nearest of up to 20,000 training
texts), a row says: how many ends are the texts themselves; Spearman's correlation of (similarity to the first text -
similarity to the second) with the position, mean over the ways; how many midpoints are neither end; Div of the
midpoints over that of the ends; perplexity at .25, .5 and .75 over that of the ends. SCORER is a folder of `ladle fit
scorer`, trained on texts that neither the model nor its rival saw, if there are some.
"""

import argparse
import random
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr

from ladle.autoencoder.embedding import pooled
from ladle.data.rows import read_rows
from ladle.editing.change import Change, measured
from ladle.editing.interpolate import PATHS, positions
from ladle.editing.paths import slerp
from ladle.evaluation.scorer import Scorer, perplexity
from ladle.evaluation.text_stats import diversity, tokenise
from ladle.pipeline import LatentDiffusion
from ladle.sampling.words import encode_texts

STEPS, STORE = 11, 20_000


def retrieved(
    model: LatentDiffusion, first: Sequence[str], second: Sequence[str], store: Sequence[str]
) -> list[Change]:
    """At each point of the arc between two texts the training text whose latents are nearest by cosine."""
    points = pooled(model.autoencoder, encode_texts(model.autoencoder, list(store), 256)).cpu()
    ends = pooled(model.autoencoder, encode_texts(model.autoencoder, [*first, *second], 256)).cpu()
    found = []
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        for share in positions(STEPS):
            point = slerp(ends[row][None], ends[len(first) + row][None], share)[0]
            text = store[int((points @ point).argmax())]
            found.append(Change(text, one, target=other, amount=share))
    return measured(model.parts, found)


def figures(changes: Sequence[Change], scorer: Scorer) -> list[str]:
    """The cells of one row."""
    ways = [changes[start : start + STEPS] for start in range(0, len(changes), STEPS)]
    ends = [change for way in ways for change in (way[0], way[-1])]
    exact = np.mean([c.text == (c.source if c.amount == 0 else c.target) for c in ends])
    shares = positions(STEPS)
    slopes = [
        spearmanr([c.similarity - (c.target_similarity or 0) for c in way], shares).statistic
        for way in ways if len({c.text for c in way}) > 1
    ]  # fmt: skip
    middle = [way[STEPS // 2] for way in ways]
    new = np.mean([c.text not in (c.source, c.target) for c in middle])
    spread = [diversity([tokenise(c.text) for c in own]) for own in (middle, ends[::2])]
    base = perplexity(*scorer.score([c.text for c in ends]))
    # (.25 lies between two of eleven points: both stand for it)
    at = [(2, 3), (5,), (7, 8)]
    ratios = [perplexity(*scorer.score([way[i].text for way in ways for i in places])) / base for places in at]
    texts = [f"{exact:.1%}", f"{np.mean(slopes):.3f}", f"{new:.1%}", f"{spread[0] / spread[1]:.2f}", f"{base:.1f}"]
    return texts + [f"{ratio:.2f}" for ratio in ratios]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table and some ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--train")
    parser.add_argument("--scorer", required=True)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paths", nargs="+", default=list(PATHS))
    parser.add_argument("--shown", type=int, default=5)
    given = parser.parse_args(arguments)
    model, scorer = LatentDiffusion.from_pretrained(given.model), Scorer.load(given.scorer)
    rows = sorted({row["text"] for row in read_rows(given.data)})
    texts = random.Random(given.seed).sample(rows, 2 * given.n)
    first, second = texts[: given.n], texts[given.n :]
    columns = ("path", "ends the same", "Spearman", "new midpoints", "Div of midpoints / ends", "perplexity of ends")
    print("| " + " | ".join((*columns, "at .25", ".5", ".75")) + " |")
    print("|" + 9 * "---|")
    shown = []
    for path in given.paths:
        ways = model.interpolate(first, second, STEPS, path=path, seed=given.seed)
        flat = [change for way in ways for change in way]
        print(f"| {path} | " + " | ".join(figures(flat, scorer)) + " |", flush=True)
        shown += [(path, way) for way in ways[: given.shown]] if path == given.paths[0] else []
    if given.train:
        store = [row["text"] for row in read_rows(given.train)]
        store = random.Random(given.seed).sample(store, min(STORE, len(store)))
        with torch.no_grad():
            found = retrieved(model, first, second, store)
        print("| nearest training text | " + " | ".join(figures(found, scorer)) + " |")
    for path, way in shown:
        print(f"\n{path}")
        for change in way:
            print(f"{change.amount:.1f}  {change.text}")


if __name__ == "__main__":
    main()
