"""Perplexity under a named causal language model, or under a scorer that Ladle trained on the user's own text.

Dull text has low perplexity too. So compare it with diversity and memorisation, and with the perplexity of held-out
text, which is the aim.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ladle.autoencoder.signs import literal
from ladle.errors import UserError
from ladle.hub import NOT_LOADED, loading
from ladle.storage.folders import recover_folder

# What `ladle fit scorer` writes, beside config.json and tokenizer/. The names of the weights begin with `causal.`.
RECORD, WEIGHTS = "autoregressive.json", "model.safetensors"
ATTENTION = "eager"  # a step of training takes .63 of what it takes with torch's fused one (two cores, bf16, 60 tokens)
MAX_TOKENS = 512  # of a text under a pre-trained model


@dataclass
class Scorer:
    """A language model as a map from texts to log-likelihoods.

    A scorer that Ladle trained knows the ends of texts and counts them. A pre-trained model gets its start token and
    counts only the tokens of the text (the protocol of the paper's GPT-2-large).

    name: folder or hub id. kind: `ladle` or `transformers`. model: a causal model of transformers. start: the id of the
    token before each text. max_tokens: longest text, with its end token if that counts.
    """

    name: str
    kind: str
    model: Any
    tokenizer: Any
    start: int
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        literal(self.tokenizer)

    @classmethod
    def load(cls, name: str) -> "Scorer":
        """From a folder that `ladle fit scorer` wrote, or a folder or hub id of a causal language model.
        UserError where there is none."""
        for folder in (Path(name), Path(name) / "final"):  # the model, or its run folder
            recover_folder(folder)
            if (folder / RECORD).is_file():
                return _load_own(name, folder)
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with loading("scorer", name):
            model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True).eval()
            tokenizer = AutoTokenizer.from_pretrained(name)
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise UserError(f"the scorer '{name}' has no start or end token; name another model")
        return cls(str(name), "transformers", model, tokenizer, start)

    def describe(self) -> dict[str, Any]:
        """The description for a report."""
        return {"name": self.name, "kind": self.kind, "counts": "text and end" if self.counts_end else "text"}

    @property
    def counts_end(self) -> bool:
        """Whether a text's end is one of its tokens."""
        return self.kind == "ladle"

    def score(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Negative log-likelihood in nats [N] and number of tokens [N]. A text without tokens counts as one token drawn
        evenly from the vocabulary, so that empty texts never look fluent."""
        from ladle.evaluation.likelihood import negative_log_likelihood

        options = {"add_special_tokens": self.counts_end, "truncation": True, "max_length": self.max_tokens}
        rows = self.tokenizer(list(texts), **options)["input_ids"] if texts else []
        blind = np.log(self.model.get_input_embeddings().num_embeddings)
        nll = np.full(len(rows), blind)
        some = [i for i, ids in enumerate(rows) if ids]
        known = negative_log_likelihood(self.model, [([self.start], rows[i]) for i in some], self.start)
        nll[some] = known.double().numpy()
        return nll, np.array([max(len(ids), 1) for ids in rows], dtype=int)


def _load_own(name: str, folder: Path) -> Scorer:
    """Load what `ladle fit scorer` wrote. Its texts follow a separator, whose id comes after the tokenizer's own."""
    from safetensors import SafetensorError

    with loading("scorer", name, (*NOT_LOADED, TypeError, RuntimeError, SafetensorError)):
        record, causal, tokenizer = read_trained(folder)
        max_tokens = int(record["config"]["max_tokens"])
    return Scorer(str(name), "ladle", causal.eval(), tokenizer, len(tokenizer), max_tokens)


def read_trained(folder: Path) -> tuple[dict[str, Any], Any, Any]:
    """The record, the causal model and the tokenizer of a folder that `ladle fit scorer` wrote."""
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    causal = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation=ATTENTION)
    tensors = {name.removeprefix("causal."): tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    causal.load_state_dict(tensors, strict=False)  # a tensor that two modules share is stored once
    return record, causal, AutoTokenizer.from_pretrained(folder / "tokenizer")


def perplexity(nll: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean nats per token over the whole set; infinite for no texts."""
    return float(np.exp(nll.sum() / tokens.sum())) if tokens.sum() else float("inf")
