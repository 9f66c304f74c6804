"""The rival steered from outside: a classifier of prefixes reweighs its next tokens (FUDGE, Yang and Klein, arXiv
2104.05218). The language model's weights do not change.

    log p(token | prefix, label) = log p(token | prefix) + strength * log p(label | prefix, token) + a constant

With a strength of 1 that is Bayes' rule (equation 2 there). As there, only the likeliest tokens are looked at.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ladle.baselines.autoregressive import AutoregressiveModel
from ladle.baselines.folder import load_module, save_module
from ladle.baselines.inputs import Given, sample_seeds
from ladle.checks import check_list, check_number, check_whole
from ladle.conditioning.config import ConditionConfig
from ladle.config import Config
from ladle.errors import UserError
from ladle.storage.kinds import PREFIX_CLASSIFIER

RECORD = "prefix_classifier.json"
CANDIDATES = 100  # tokens that are looked at in each step
INIT_STD = 0.1  # of the embedding: after a minute on Yelp 95.3 % of texts are told right, with torch's own 1 93.7 %
BATCH = 256  # texts read at once


class PrefixClassifierConfig(Config):
    """Sizes and labels.

    labels: names of the classes. vocab_size: number of token ids. vocabulary: the fingerprint of the tokenizer
    (`fingerprint`). unknown_prob: share of the tokens that are read as unknown in training, so that the model learns
    what an unknown one is worth.
    """

    labels: tuple[str, ...] = Field(min_length=2)
    vocab_size: int = Field(ge=1)
    vocabulary: str = ""
    embedding_dim: int = Field(64, ge=1)
    width: int = Field(128, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    unknown_prob: float = Field(0.05, ge=0, lt=1)


class PrefixClassifier(nn.Module):
    """p(label | prefix) after every token of a text: an embedding, a GRU and a linear map.

    It reads the ids of the text alone, the end token among them. An id that no training text had is read as one and the
    same unknown token: else its random embedding could look like a label, and a strong guidance would find it.
    """

    def __init__(self, config: PrefixClassifierConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size + 1, config.embedding_dim)  # the unknown token is the last
        nn.init.normal_(self.embedding.weight, std=INIT_STD)
        self.gru = nn.GRU(config.embedding_dim, config.width, batch_first=True)
        self.output = nn.Linear(config.width, len(config.labels))
        self.known: Tensor
        self.register_buffer("known", torch.ones(config.vocab_size, dtype=torch.bool))  # ids of the training texts
        self.info: dict[str, Any] = {}  # how it was trained

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what `save_pretrained` wrote, on the CPU. UserError for a missing or damaged file."""
        return load_module(
            folder, RECORD, lambda config, where: cls(PrefixClassifierConfig.parse(config, str(where / RECORD))),
            "prefix classifier", "make one with benchmarks/guided.py",
        )  # fmt: skip

    def save_pretrained(self, folder: str | Path) -> None:
        """Write settings (JSON) and weights (safetensors), whole or not at all. Raises as `atomic_folder`."""
        save_module(self, folder, PREFIX_CLASSIFIER, RECORD)

    @property
    def num_parameters(self) -> int:
        """All of them are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, S] -> log p(label | the first s tokens), [B, S, K], for s from 1 to S. What comes after a token has
        no influence, so that texts may be filled up at their ends with any id."""
        rows = self._rows_of(ids)
        if self.training:
            lost = torch.rand(rows.shape, device=rows.device) < self.config.unknown_prob
            rows = rows.masked_fill(lost, self.config.vocab_size)
        return self.log_shares(self._dropped(self.gru(self._dropped(self.embedding(rows)))[0]))

    def log_shares(self, states: Tensor) -> Tensor:
        """States [..., W] of the GRU -> log p(label), [..., K], in float32."""
        logits: Tensor = self.output(states)
        return logits.float().log_softmax(-1)

    def _dropped(self, values: Tensor) -> Tensor:
        """Dropout of channels, the same ones at all tokens of a text (Gal and Ghahramani 2016, arXiv 1512.05287)."""
        return values * F.dropout(torch.ones_like(values[:, :1]), self.config.dropout, self.training)

    @torch.no_grad()
    def probabilities(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Ids of whole texts, one id or more each -> probability of each label, [N, K], on the CPU."""
        device = self.output.weight.device
        found = torch.zeros(len(texts), len(self.config.labels))
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for rows in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
            ids = pad_sequence([torch.tensor(texts[row]) for row in rows], batch_first=True)
            last = torch.tensor([len(texts[row]) - 1 for row in rows])
            found[rows] = self(ids.to(device)).cpu()[torch.arange(len(rows)), last].exp()
        return found

    def _rows_of(self, ids: Tensor) -> Tensor:
        """Ids of any size -> their rows of the embedding."""
        size = self.config.vocab_size
        return torch.where((ids < size) & self.known[ids.clamp_max(size - 1)], ids, size)

    # ------------------------------------------------------------------------------------------- token by token

    def gates(self, size: int) -> Tensor:
        """What each of the ids below `size` adds to the GRU's gates, [size, 3 W]: computed once for a whole text."""
        rows = self._rows_of(torch.arange(size, device=self.output.weight.device))
        weight, _, bias, _ = self.gru.all_weights[0]
        return F.linear(self.embedding(rows), weight, bias)

    def step(self, states: Tensor, gates: Tensor) -> Tensor:
        """States [B, W] after one more token of C different ones, by their `gates` [B, C, 3 W]: [B, C, W].

        The part of the states is computed once for all C tokens, which torch's own cell does not do.
        """
        parts = [2 * self.config.width, self.config.width]
        both, fresh = gates.split(parts, -1)
        _, weight, _, bias = self.gru.all_weights[0]
        own_both, own_fresh = F.linear(states, weight, bias)[:, None].split(parts, -1)
        reset, kept = (both + own_both).sigmoid().chunk(2, -1)
        new = torch.tanh(fresh + reset * own_fresh)
        return torch.lerp(new, states[:, None], kept)


class GuidedModel:
    """A language model and the classifier that steers it.

    Raises:
        UserError: the classifier reads the tokens of another tokenizer.
    """

    def __init__(self, model: AutoregressiveModel, classifier: PrefixClassifier):
        if classifier.config.vocabulary != fingerprint(model.tokenizer):
            raise UserError("the classifier reads another tokenizer's tokens; train one with this language model's")
        self.model, self.classifier = model, classifier.eval()

    @property
    def num_parameters(self) -> int:
        """Of both."""
        return self.model.num_parameters + self.classifier.num_parameters

    @torch.no_grad()
    def generate(
        self,
        num_samples: int | None = None,
        *,
        label: Given = None,
        strength: float = 1.0,
        candidates: int = CANDIDATES,
        seeds: Sequence[int] | None = None,
        source: Given = None,
        top_p: float = 1.0,
        temperature: float = 1.0,
        batch_size: int = 128,
    ) -> list[str]:
        """Draw texts of these labels. The language model never sees a label, also where it knows some.

        Args:
            label: one for each text; a text without one is not steered.
            strength: the weight of log p(label | prefix). 0 is the language model alone.
            candidates: number of the likeliest tokens that are looked at in each step; all others are never drawn.
            num_samples, seeds, source, top_p, temperature, batch_size: as in `AutoregressiveModel.generate`.

        Raises:
            UserError: a label that the classifier does not know; not one label for each text; a negative strength;
                candidates below 1; as `AutoregressiveModel.generate`.
        """
        strength, candidates = check_number("strength", strength, 0), check_whole("candidates", candidates)
        label = None if label is None else check_list("label", label, "a list with one label for each text")
        count = len(sample_seeds(num_samples, seeds, label, source))
        labels = [None] * count if label is None else label
        if len(labels) != count:
            raise UserError(f"{len(labels)} labels for {count} texts; give one label for each text")
        numbers = ConditionConfig(labels=self.classifier.config.labels).label_ids(labels)
        classifier = self.classifier.to(next(self.model.parameters()).device)
        gates = classifier.gates(self.model.num_ids)
        return self.model.generate(
            count, seeds=seeds, source=source, top_p=top_p, temperature=temperature, batch_size=batch_size,
            guide=lambda rows: _Guide(classifier, gates, numbers[list(rows)], strength, candidates),
        )  # fmt: skip

    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """Probability of each of the classifier's labels for each text, [N, K], with its end token."""
        nothing = [None] * len(texts)
        return self.classifier.probabilities([ids for _, ids in self.model.encode(texts, nothing, nothing)])


class _Guide:
    """Steers one batch: `ladle.baselines.autoregressive.Guide`.

    gates: of every id, [V, 3 W]. labels: [B] numbers, -1 for none.
    """

    def __init__(self, classifier: PrefixClassifier, gates: Tensor, labels: Tensor, strength: float, candidates: int):
        self.classifier, self.gates, self.strength, self.candidates = classifier, gates, strength, candidates
        self.labels = labels.to(gates.device)
        self.states = gates.new_zeros(len(labels), classifier.config.width)  # after the tokens that were chosen

    def guided(self, logits: Tensor) -> Tensor:
        """Of each row the candidates' logits with the classifier's part; -inf for all other tokens."""
        values, ids = logits.topk(min(self.candidates, logits.shape[1]), dim=1)
        if self.strength:
            log_shares = self.classifier.log_shares(self.classifier.step(self.states, self.gates[ids]))  # [B, C, K]
            wanted = self.labels.clamp_min(0)[:, None, None].expand(-1, ids.shape[1], 1)
            own = log_shares.gather(2, wanted)[..., 0].masked_fill((self.labels < 0)[:, None], 0.0)
            values = values + self.strength * own
        return torch.full_like(logits, -torch.inf).scatter(1, ids, values)

    def chose(self, ids: Tensor) -> None:
        self.states = self.classifier.step(self.states, self.gates[ids][:, None])[:, 0]

    def keep(self, rows: Tensor) -> None:
        self.labels, self.states = self.labels[rows], self.states[rows]


def fingerprint(tokenizer: Any) -> str:
    """Sixteen hex digits of a tokenizer's tokens and their ids."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]
