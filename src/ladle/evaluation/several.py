"""One text of several draws for one source: the one of least risk, or, as an upper bound, the best one.

The paper measures both with five draws (arXiv 2212.09462, section 5). Its code chooses by ROUGE-2 or, for translations,
by sentence BLEU. As its oracle it takes for each metric the best value of the five; here the oracle keeps one text.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, get_args

from ladle.evaluation.overlap import rouge_scores

Similarity = Literal["bleu", "rouge_1", "rouge_2", "rouge_l"]
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)
_ROUGE = ("rouge_1", "rouge_2", "rouge_l")  # the columns of `rouge_scores`


def similarity(text: str, references: Sequence[str], by: Similarity) -> float:
    """Similarity of a text to its references, 0 to 1: sentence BLEU (sacreBLEU, effective order) against all of them
    together, or ROUGE F1 against the best of them. An empty text has 0.

    Raises UserError: ROUGE's extra is not installed.
    """
    known = [reference for reference in references if reference.strip()]
    if not text.strip() or not known:
        return 0.0
    if by == "bleu":
        return float(_bleu().sentence_score(text, known).score) / 100
    return float(rouge_scores([text], [known])[0, _ROUGE.index(by)])


def least_risk(draws: Sequence[str], by: Similarity) -> int:
    """The place of the draw with minimum Bayes risk: the one with the highest mean similarity to the others. Of equal
    ones it is the first. Raises ValueError: no draws; UserError as `similarity`."""
    like: Callable[[str, str], float] = cache(lambda text, other: similarity(text, [other], by))
    risks = [-sum(like(text, other) for j, other in enumerate(draws) if j != i) for i, text in enumerate(draws)]
    return _first(risks, draws)


def nearest_to(draws: Sequence[str], references: Sequence[str], by: Similarity) -> int:
    """The place of the draw that is most similar to the references: the oracle's choice. It needs the answers, so its
    score is an upper bound and no result. Of equal ones it is the first. Raises as `least_risk`."""
    return _first([-similarity(text, references, by) for text in draws], draws)


def _first(risks: Sequence[float], draws: Sequence[str]) -> int:
    """The first place of the smallest risk, of texts that are not empty if there are any."""
    return min(range(len(draws)), key=lambda place: (risks[place], not draws[place].strip(), place))


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)
