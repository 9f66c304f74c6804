"""Directions of the latent space: does each move its own attribute with its strength, and leave the others alone?

    python benchmarks/directions.py MODEL --data rows.jsonl.gz --judge JUDGE -n 200

--data has texts with sentiment labels (two of them). Three directions are learnt from its rows: sentiment, by the
label; tense, by words (was, were and endings in -ed against is, are and endings in -s); length, by the longest and the
shortest third. Then `-n` other texts are edited at five strengths. The table says by how much each attribute moves from
the lowest to the highest strength, and in how many texts it never goes back by more than a tenth of the range.
JUDGE is a folder of `ladle fit judge` on rows that nothing here saw. Tense and length are counted on the texts.
"""

import argparse
import re
from collections.abc import Callable, Sequence

import numpy as np

from ladle.data.rows import read_rows
from ladle.editing.directions import Direction, fit_direction
from ladle.evaluation.judge import Judge
from ladle.evaluation.text_stats import words_of
from ladle.pipeline import LatentDiffusion

PAST = re.compile(r"\b(?:was|were|had|did|went|came|got|said|took|made|ate|tried|\w{3,}ed)\b")
PRESENT = re.compile(r"\b(?:is|are|am|has|have|does|do|goes|comes|gets|says|takes|makes|'s|'re|'m)\b")


def tense_of(text: str) -> float:
    """Share of past forms among the forms that tell a tense; a half if there are none."""
    past, present = len(PAST.findall(text)), len(PRESENT.findall(text))
    return past / (past + present) if past + present else 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table of attributes by directions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--learnt", type=int, default=6000)
    parser.add_argument("--strengths", type=float, nargs="+", default=[-2, -1, 0, 1, 2])
    parser.add_argument("--candidates", type=int, default=8)
    given = parser.parse_args(arguments)
    model, judge = LatentDiffusion.from_pretrained(given.model), Judge.load(given.judge)
    rows = read_rows(given.data, need=("text", "label"))
    learnt, test = rows[: given.learnt], [row["text"] for row in rows[given.learnt : given.learnt + given.n]]
    positive = sorted({row["label"] for row in rows})[-1]
    lengths = np.quantile([len(words_of(row["text"])) for row in learnt], [1 / 3, 2 / 3])
    by_tense = [{"text": r["text"], "label": "past" if tense_of(r["text"]) == 1 else "present"} for r in learnt
                if tense_of(r["text"]) in (0, 1)]  # fmt: skip
    by_length = [{"text": r["text"], "label": "long" if len(words_of(r["text"])) > lengths[1] else "short"}
                 for r in learnt if not lengths[0] <= len(words_of(r["text"])) <= lengths[1]]  # fmt: skip
    directions: dict[str, Direction] = {
        "sentiment": fit_direction(model.parts, learnt, towards=positive),
        "tense (past)": fit_direction(model.parts, by_tense, towards="past"),
        "length": fit_direction(model.parts, by_length, towards="long"),
    }
    attributes: dict[str, Callable[[list[str]], np.ndarray]] = {
        "sentiment": lambda texts: judge.probabilities(texts, [positive])[:, 0],
        "tense (past)": lambda texts: np.array([tense_of(text) for text in texts]),
        "length": lambda texts: np.array([len(words_of(text)) for text in texts], dtype=float),
    }
    strengths = sorted(given.strengths)
    print(f"n = {len(test)}, strengths {strengths}\n")
    print(
        "| direction (its probe is right on) | "
        + " | ".join(f"{name}, moved by" for name in attributes)
        + " | monotone |"
    )
    print("|---|" + "---|" * (len(attributes) + 1))
    for name, direction in directions.items():
        texts = [
            [c.text for c in model.edit(test, direction=direction, strength=s, candidates=given.candidates, seed=0)]
            for s in strengths
        ]
        moved = {other: np.stack([measure(own) for own in texts]) for other, measure in attributes.items()}
        own = moved[name]
        slack = 0.1 * (own.max() - own.min())
        steady = np.mean([(np.diff(column) >= -slack).all() and column[-1] > column[0] for column in own.T])
        cells = [f"{(values[-1] - values[0]).mean():+.2f}" for values in moved.values()]
        print(f"| {name} ({direction.accuracy['value']:.1%}) | " + " | ".join(cells) + f" | {steady:.1%} |", flush=True)
        for i in range(min(3, len(test))):
            print("\n".join(f"<!-- {s:+g} {own[i]} -->" for s, own in zip(strengths, texts, strict=True)))


if __name__ == "__main__":
    main()
