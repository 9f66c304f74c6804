"""Perplexity under a named causal language model, or under a scorer that Ladle trained on the user's own text.

Low perplexity alone is easily had, by dull text: read it beside diversity and memorisation, and beside the perplexity
of held-out text, which is the aim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ladle.baselines.autoregressive import RECORD, AutoregressiveModel
from ladle.errors import UserError


@dataclass
class Scorer:
    """A language model as a map from texts to log-likelihoods.

    A scorer of Ladle's knows ends of texts and counts them. A pre-trained model is given its start token and counts the
    tokens of the text only (the protocol of the paper's GPT-2-large).
    """

    name: str
    kind: str  # "ladle" or "transformers"
    model: Any
    tokenizer: Any = None
    max_tokens: int = 512

    @classmethod
    def load(cls, name: str) -> "Scorer":
        """From a folder that `ladle fit scorer` wrote, or a folder or hub id of a causal language model.

        Raises:
            UserError: there is no such model.
        """
        if (Path(name) / RECORD).is_file():
            return cls(str(name), "ladle", AutoregressiveModel.from_pretrained(name))
        if (Path(name) / "final" / RECORD).is_file():  # the run folder
            return cls(str(name), "ladle", AutoregressiveModel.from_pretrained(Path(name) / "final"))
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True)
            return cls(str(name), "transformers", model.eval(), AutoTokenizer.from_pretrained(name))
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"cannot load the scorer '{name}': {reason}; name a folder or a hub id") from None

    def describe(self) -> dict[str, Any]:
        """What goes into a report beside every figure."""
        counts = "text and end" if self.kind == "ladle" else "text"
        return {"name": self.name, "kind": self.kind, "counts": counts}

    def score(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Negative log-likelihood in nats [N] and number of tokens [N]. A text without a token costs one token drawn
        evenly from the vocabulary, so that empty texts never look fluent."""
        if self.kind == "ladle":
            nll, tokens = self.model.score(texts)
            return nll.double().numpy(), tokens.numpy()
        return self._score_pretrained(list(texts))

    def _score_pretrained(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        import torch
        import torch.nn.functional as F

        tokenizer = self.tokenizer
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise UserError(f"the scorer '{self.name}' has neither a start nor an end token")
        options = {"add_special_tokens": False, "truncation": True, "max_length": self.max_tokens}
        rows = tokenizer(texts, **options)["input_ids"] if texts else []
        size = self.model.get_input_embeddings().num_embeddings
        nll, counts = np.full(len(texts), np.log(size)), np.array([max(len(row), 1) for row in rows])
        order = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
        with torch.inference_mode():
            for begin in range(0, len(order), 32):
                chosen = order[begin : begin + 32]
                longest = len(rows[chosen[-1]])
                ids = torch.full((len(chosen), longest + 1), start)
                mask = torch.zeros(len(chosen), longest + 1, dtype=torch.long)
                for place, i in enumerate(chosen):
                    ids[place, 1 : len(rows[i]) + 1] = torch.tensor(rows[i])
                    mask[place, : len(rows[i]) + 1] = 1
                ids, mask = ids.to(self.model.device), mask.to(self.model.device)
                logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
                lost = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * mask[:, 1:]
                nll[chosen] = lost.sum(1).double().cpu().numpy()
        return nll, counts


def perplexity(nll: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean nats a token over the whole set; infinite for no texts."""
    return float(np.exp(nll.sum() / tokens.sum())) if tokens.sum() else float("inf")
