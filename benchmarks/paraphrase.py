"""Paraphrases: near in meaning, far in words?

    python benchmarks/paraphrase.py MODEL --data multi30k_paraphrase/test.jsonl.gz -n 300 [--out FOLDER]

Rows have source and text (or target). The table says for `paraphrase`, `vary` at three strengths, and copying: the mean
cosine to the source by TF-IDF, sentence BLEU against the source (its mean), BLEU against the references, and the share
of texts that are the source. --out writes each row's texts and the sources as JSON Lines, for
`benchmarks/second_judge.py similarity`: similarity by an encoder that no plan was made from. --beside adds the texts of
another system, such as those of benchmarks/encoder_decoder.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from ladle.data.rows import read_rows
from ladle.editing.change import sentence_bleu
from ladle.evaluation.overlap import CorpusScore
from ladle.evaluation.text_stats import copy_key, tokenise
from ladle.pipeline import LatentDiffusion
from ladle.storage.writing import write_rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table and some texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.2, 0.4, 0.6])
    parser.add_argument("--beside", nargs="+", default=[], metavar="NAME=FILE")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shown", type=int, default=10)
    given = parser.parse_args(arguments)
    rows = read_rows(given.data, need=("text", "source"))[: given.n]
    sources = [row["source"] for row in rows]
    references = [row.get("references") or [row["text"]] for row in rows]
    model = LatentDiffusion.from_pretrained(given.model)
    systems: dict[str, list[str]] = {"the source itself": sources, "people": [row["text"] for row in rows]}
    systems["paraphrase"] = [change.text for change in model.paraphrase(sources, seed=given.seed)]
    for strength in given.strengths:
        systems[f"vary {strength:g}"] = [change.text for change in model.vary(sources, strength, seed=given.seed)]
    for beside in given.beside:
        name, _, path = beside.partition("=")
        systems[name] = [row["text"] for row in read_rows(path)][: len(rows)]
    vectors = TfidfVectorizer(token_pattern=None, tokenizer=tokenise).fit(sources + [t for r in references for t in r])
    known = vectors.transform(sources)
    print(f"n = {len(rows)}\n\n| | cosine, TF-IDF | BLEU to the source | BLEU to references | the same text |")
    print("|---|---|---|---|---|")
    for name, texts in systems.items():
        near = float(np.asarray(known.multiply(vectors.transform(texts)).sum(1)).mean())
        own = float(np.mean([sentence_bleu(text, source) for text, source in zip(texts, sources, strict=True)]))
        others = CorpusScore(texts, references).score
        same = np.mean([copy_key(text) == copy_key(source) for text, source in zip(texts, sources, strict=True)])
        print(f"| {name} | {near:.3f} | {own:.1f} | {others:.1f} | {same:.1%} |")
        if given.out:
            write_rows(given.out / f"{name.replace(' ', '-')}.jsonl", [{"text": text} for text in texts])
    for i in range(min(given.shown, len(rows))):
        print(f"\n{sources[i]}")
        for name, texts in [*systems.items()][1:]:
            print(f"    {name:<12} {texts[i]}")


if __name__ == "__main__":
    main()
