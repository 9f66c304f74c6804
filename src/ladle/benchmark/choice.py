"""Settings that draw several texts for each source and keep one: by minimum Bayes risk, or as an oracle would.

All systems draw and choose by the same rule, so their figures can be compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from ladle.config import Config
from ladle.evaluation.several import Similarity, least_risk, nearest_to

KINDS = ("mbr", "oracle")
NOTE = (
    "mbr: of so many draws the one most similar to the others (minimum Bayes risk; arXiv 2212.09462, section 5). "
    "oracle: the one most similar to the references. It uses the answers, so it is an upper bound and no system."
)


class ChoiceConfig(Config):
    """How one text of several is kept. They stand among a system's settings; the others say how each text is drawn.

    mbr: so many draws, of which the one with the highest mean similarity to the others is kept. oracle: so many draws,
    of which the one most similar to the references is kept. by: the similarity.
    """

    mbr: int | None = Field(None, ge=2, le=100)
    oracle: int | None = Field(None, ge=2, le=100)
    by: Similarity = "bleu"

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.mbr is None) == (self.oracle is None):
            raise ValueError("settings that choose have either mbr or oracle, and 'by' goes with one of them")
        return self

    @property
    def count(self) -> int:
        """Number of draws."""
        return self.mbr or self.oracle or 0

    @property
    def needs_answers(self) -> bool:
        """Whether it looks at the references."""
        return self.oracle is not None

    def chosen(self, draws: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[str]:
        """draws [draw][source], references [source][answer] -> one text for each source."""
        kept = []
        for texts, answers in zip(zip(*draws, strict=True), references, strict=True):
            place = nearest_to(texts, answers, self.by) if self.needs_answers else least_risk(texts, self.by)
            kept.append(texts[place])
        return kept


def split_choice(settings: Mapping[str, Any], where: str = "settings") -> tuple[ChoiceConfig | None, dict[str, Any]]:
    """The choice that settings ask for, or None, and the settings of each draw.

    Raises UserError: a bad value, in a line that begins with `where`.
    """
    given = {key: value for key, value in settings.items() if key in ChoiceConfig.model_fields}
    own = {key: value for key, value in settings.items() if key not in given}
    return (ChoiceConfig.parse(given, where) if given else None), own


def choosing(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of those settings of a system that choose among draws."""
    return [name for name, values in settings.items() if any(values.get(kind) is not None for kind in KINDS)]
