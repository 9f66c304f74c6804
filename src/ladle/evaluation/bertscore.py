"""BERTScore (Zhang et al. 2020, arXiv 1904.09675) by its authors' package. Needs the extra `ladle[bertscore]`.

(torchmetrics 1.9 pairs texts with the wrong references if their lengths are in another order: to undo its sorting it
applies the sorting again, instead of the inverse.)
"""

from collections.abc import Sequence

import numpy as np

from ladle.evaluation.extras import load_extra
from ladle.hub import loading

BATCH = 64


def bert_scores(texts: Sequence[str], references: Sequence[Sequence[str]], encoder: str) -> np.ndarray:
    """F1 of each text against its best reference [N]. An empty text scores 0. No rescaling, no idf.
    encoder: folder or hub id. Raises UserError: no such encoder, or the extra is not installed."""
    values = np.zeros(len(texts))
    # The package fails on empty texts.
    known = {row: [answer for answer in references[row] if answer.strip()] for row, t in enumerate(texts) if t.strip()}
    rows = [row for row, answers in known.items() if answers]
    if rows:
        options = {"model_type": encoder, "num_layers": layer(encoder), "batch_size": BATCH}
        _, _, f1 = load_extra("bert_score").score([texts[row] for row in rows], [known[row] for row in rows], **options)
        values[rows] = f1.numpy()
    return values


def layer(encoder: str) -> int:
    """The layer whose vectors are compared: the package's choice, tuned on human judgements, or the last layer of a
    model that the package does not know. Raises UserError: no such encoder."""
    from transformers import AutoConfig

    best = load_extra("bert_score.utils").model2layers
    if encoder in best:
        return int(best[encoder])
    with loading("encoder", encoder):
        return int(AutoConfig.from_pretrained(encoder).num_hidden_layers)
