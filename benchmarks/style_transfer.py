"""Texts with their sentiment turned round: how many are turned, and how much of them is kept?

    python benchmarks/style_transfer.py MODEL --test yelp_style_transfer/test.jsonl.gz --train rows.jsonl.gz \
        --judge JUDGE

MODEL was trained with the labels of --test (its columns source, target, label and target_label). JUDGE is a folder of
`ladle fit judge` on rows that the model never saw: it guides nothing. A row of the table says how many texts have the
new label by that judge, BLEU against the human rewrites, and BLEU against the source. Four baselines stand beside: the
source itself; a free sample with the label; the nearest training text of the new label (by TF-IDF); and the source with
its telling words (by how much more often the old label's texts have them) filled in anew by `infill` with the label.
"""

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Sequence

from ladle.data.rows import read_rows
from ladle.evaluation.judge import Judge
from ladle.evaluation.overlap import CorpusScore
from ladle.evaluation.text_stats import tokenise
from ladle.pipeline import LatentDiffusion

TELLING = 3.0  # times as often in texts of the old label as in those of the new one


def nearest(sources: Sequence[str], wanted: Sequence[str], rows: Sequence[tuple[str, str]]) -> list[str]:
    """For each source the nearest row of the wanted label."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(token_pattern=None, tokenizer=tokenise).fit([text for text, _ in rows])
    found = [""] * len(sources)
    for label in sorted(set(wanted)):
        store = [text for text, own in rows if own == label]
        places = [i for i, own in enumerate(wanted) if own == label]
        likeness = vectors.transform([sources[i] for i in places]) @ vectors.transform(store).T
        for i, best in zip(places, likeness.argmax(axis=1).ravel().tolist()[0], strict=True):
            found[i] = store[best]
    return found


def masked(sources: Sequence[str], labels: Sequence[str], rows: Sequence[tuple[str, str]]) -> list[str]:
    """Each source as a template: blanks in place of its telling words, at least of the most telling one."""
    counts: dict[str, Counter[str]] = {label: Counter() for label in {own for _, own in rows}}
    for text, own in rows:
        counts[own].update(set(tokenise(text)))
    found = []
    for text, label in zip(sources, labels, strict=True):
        words = tokenise(text)
        others = sum((counts[own] for own in counts if own != label), Counter[str]())
        ratios = [(counts[label][word] + 1) / (others[word] + 1) for word in words]
        least = min(TELLING, max(ratios))
        blanks = ["___" if ratio >= least else word for word, ratio in zip(words, ratios, strict=True)]
        found.append(" ".join(word for i, word in enumerate(blanks) if word != "___" or blanks[i - 1 : i] != ["___"]))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table, and some texts of each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--test", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.05, 0.1, 0.25, 0.5, 0.75])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-n", type=int)
    parser.add_argument("--shown", type=int, default=10)
    given = parser.parse_args(arguments)
    with gzip.open(given.test, "rt", encoding="utf-8") as lines:
        test = [json.loads(line) for line in lines][: given.n]
    rows = [(row["text"], str(row["label"])) for row in read_rows(given.train, need=("text", "label"))]
    model, judge = LatentDiffusion.from_pretrained(given.model), Judge.load(given.judge)
    sources, humans = [row["source"] for row in test], [row["target"] for row in test]
    old, new = [row["label"] for row in test], [row["target_label"] for row in test]
    print(f"n = {len(test)}\n\n| | new label | BLEU to people | BLEU to the source |\n|---|---|---|---|")

    def show(name: str, texts: Sequence[str]) -> None:
        hits = judge.accuracy(texts, new)
        low, high = hits["interval"]
        people = CorpusScore(texts, [[human] for human in humans]).score
        own = CorpusScore(texts, [[source] for source in sources]).score
        print(f"| {name} | {hits['value']:.1%} [{low:.1%}, {high:.1%}] | {people:.1f} | {own:.1f} |", flush=True)
        shown.append((name, texts))

    shown: list[tuple[str, Sequence[str]]] = []
    show("people", humans)
    show("the source itself", sources)
    show("a free sample", model.generate(seeds=range(len(test)), label=new))
    show("the nearest training text", nearest(sources, new, rows))
    show("telling words filled in", model.infill(masked(sources, old, rows), label=new, seed=given.seed))
    for strength in given.strengths:
        texts = [""] * len(test)
        for label in sorted(set(new)):
            places = [i for i, own in enumerate(new) if own == label]
            own = model.edit([sources[i] for i in places], label=label, strength=strength, seed=given.seed)
            for i, change in zip(places, own, strict=True):
                texts[i] = change.text
        show(f"edit, strength {strength:g}", texts)
    for i in range(min(given.shown, len(test))):
        print(f"\n{old[i]}  {sources[i]}")
        for name, texts in shown:
            print(f"    {name:<28} {texts[i]}")


if __name__ == "__main__":
    main()
