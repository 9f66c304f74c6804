"""Do texts obey a control? Shares by a judge that guided nothing, and what obedience costs in variety and fluency.

    ladle fit control --data train.csv --model MODEL -o control
    ladle fit judge --data other.csv --kind bigrams -o judge
    python benchmarks/control.py MODEL --control control --judge judge -n 1000 --scales 0 1 2 4 [--words 6-9]

Texts are drawn for each label of the control at each scale, the same seeds each time, and scale 0 is no control. The
judge must know the control's labels. It must not be the judge or the control that chose the texts, and should be
trained on other rows. --candidates chooses among several texts by the control, as `choose="label"` does. --words adds
how many texts have so many words. --scorer adds perplexity.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ladle.control import Control, Steer
from ladle.errors import LadleError, UserError
from ladle.evaluation.evaluate import environment
from ladle.evaluation.judge import Judge
from ladle.evaluation.markdown import format_percent, table
from ladle.evaluation.scorer import Scorer, perplexity
from ladle.evaluation.text_stats import distinct_share, diversity, tokenise
from ladle.pipeline import LatentDiffusion
from ladle.sampling.options import SamplingOptions
from ladle.sampling.word_count import WordRange
from ladle.storage.writing import atomic_json


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Draw and score the texts, print the Markdown table, write and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--control", required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("-n", type=int, default=1000, help="texts for each label and scale")
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--labels", nargs="+", help="some of the control's labels; default: all")
    parser.add_argument("--words", help="LEAST-MOST, the wanted number of words")
    parser.add_argument("--by", choices=["estimate", "latents"], default="estimate", help="as in ladle.control.Steer")
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--scorer", help="a folder that `ladle fit scorer` wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shown", type=int, default=0, help="texts of each row to print")
    parser.add_argument("-o", "--output", help="write the figures and texts as JSON")
    given = parser.parse_args(arguments)
    model, control, judge = (
        LatentDiffusion.from_pretrained(given.model),
        Control.load(given.control),
        Judge.load(given.judge),
    )
    judge.check_labels(given.labels or control.labels)
    scorer = None if given.scorer is None else Scorer.load(given.scorer)
    options: dict[str, Any] = {"candidates": given.candidates} | wanted_words(given.words)
    rows = []
    for label in given.labels or control.labels:
        for scale in given.scales:
            steer = [Steer(control, label, scale, by=given.by)] if scale else None
            choose = {"choose": "label"} if scale and given.candidates > 1 else {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                texts = model.generate(given.n, seed=given.seed, control=steer, **options, **choose)
            rows.append(score(texts, label, scale, judge, scorer, WordRange.of(SamplingOptions().override(**options))))
            for text in texts[: given.shown]:
                print(f"{label} {scale:g}: {text}", file=sys.stderr)
    print(to_markdown(rows))
    if given.output:
        about = {
            "control": control.held_out,
            "judge": judge.real,
            "by": given.by,
            "options": options,
            "environment": environment(),
        }
        atomic_json(given.output, {**about, "rows": rows})
    return rows


def wanted_words(asked: str | None) -> dict[str, int]:
    """6-9 -> the options of it. Raises UserError: another form."""
    if asked is None:
        return {}
    least, dash, most = asked.partition("-")
    if not (dash and least.isdigit() and most.isdigit()):
        raise UserError(f"--words is '{asked}'; give two numbers, such as 6-9")
    return {"min_words": int(least), "max_words": int(most)}


def score(
    texts: list[str], label: str, scale: float, judge: Judge, scorer: Scorer | None, words: WordRange | None
) -> dict[str, Any]:
    """The figures of the texts of one label at one scale. A negative scale is obeyed by texts that are not of it."""
    obeyed = judge.accuracy(texts, [label] * len(texts))
    if scale < 0:
        low, high = obeyed["interval"]
        obeyed = {"value": 1 - obeyed["value"], "interval": [1 - high, 1 - low], "n": obeyed["n"]}
    row: dict[str, Any] = {"label": label, "scale": scale, "obeyed": obeyed}
    row |= {"div": diversity([tokenise(text) for text in texts]), "distinct": distinct_share(texts)}
    if words is not None:
        row["right_words"] = sum(words.distance(text) == 0 for text in texts) / len(texts)
    if scorer is not None:
        row["perplexity"] = perplexity(*scorer.score(texts))
    return row | {"texts": texts}


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each label and scale."""
    head = ["label", "scale", "obeyed, % (judge)", "Div", "distinct"]
    head += [
        name for name, key in (("words as wanted, %", "right_words"), ("perplexity", "perplexity")) if key in rows[0]
    ]
    cells = []
    for row in rows:
        own = [
            row["label"],
            f"{row['scale']:g}",
            format_percent(row["obeyed"]),
            f"{row['div']:.3f}",
            f"{row['distinct']:.3f}",
        ]
        own += [f"{100 * row['right_words']:.1f}"] if "right_words" in row else []
        own += [f"{row['perplexity']:.1f}"] if "perplexity" in row else []
        cells.append(own)
    return "\n".join(
        [*table(head, cells), "", f"n = {len(rows[0]['texts'])} for each row; the same seeds in every row."]
    )


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
