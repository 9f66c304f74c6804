"""Does a text come back from its plan and its wording? And what comes back from the plan alone?

    python benchmarks/exact_return.py base-en FILE[:COLUMN] [FILE[:COLUMN] ...] -n 250

Of each file the first n texts. A text that is longer than the model reads counts as the part that is read.
"""

import argparse

from sacrebleu.metrics import BLEU

from ladle.data.rows import Columns, read_rows
from ladle.pipeline import LatentDiffusion


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("-n", type=int, default=250)
    given = parser.parse_args()
    model, metric = LatentDiffusion.from_pretrained(given.model), BLEU(force=True)
    backbone = model.autoencoder.backbone
    print("| texts | n | the same | BLEU | BLEU from the plan alone |\n|---|---|---|---|---|")
    for item in given.files:
        path, _, column = item.partition(":")
        texts = [row["text"] for row in read_rows(path, Columns(text=column or None))][: given.n]
        read = backbone.detokenize(backbone.tokenize(texts)["input_ids"], any_sign=True)
        back, other = model.reconstruct(texts), model.reconstruct(texts, wording=False)
        same = sum(one == two for one, two in zip(read, back, strict=True))
        scores = [f"{metric.corpus_score(found, [read]).score:.1f}" for found in (back, other)]
        print(f"| {path.rsplit('/', 2)[-2]} | {len(texts)} | {same} | {' | '.join(scores)} |")


if __name__ == "__main__":
    main()
