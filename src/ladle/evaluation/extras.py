"""The packages that a plain install leaves out."""

from importlib import import_module
from typing import Any

from ladle.errors import from_extra

# Of each package: what needs it, the extra that installs it, and its name for pip.
EXTRAS = {
    "bert_score": ("BERTScore needs", "bertscore", "bert-score"),
    "matplotlib": ("plots need", "plots", "matplotlib"),
    "mauve": ("MAUVE needs", "mauve", "mauve-text, GPL-3.0"),
    "rapidfuzz": ("the novelty audit needs", "evaluation", "rapidfuzz"),
    "rouge_score": ("ROUGE needs", "evaluation", "rouge-score"),
}


def load_extra(module: str) -> Any:
    """Import a package, or a module of it. Raises UserError where its extra is not installed."""
    package = module.split(".")[0]
    with from_extra(*EXTRAS[package]):
        import_module(package)
        return import_module(module)
