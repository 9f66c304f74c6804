"""The rival: a GPT-2 of about Ladle's size, with the same rows, tokenizer and training loop.

Each text is one sequence: [label] [source ...] separator, text ..., end. Training drops each condition of some samples,
so that one model samples with and without it, as Ladle does. The loss counts the text and its end token.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ladle.autoencoder.choice import chosen_ids
from ladle.autoencoder.signs import literal, written
from ladle.baselines.inputs import Each, Given, sample_seeds
from ladle.conditioning.config import ConditionConfig
from ladle.config import Config
from ladle.errors import UserError, first_line
from ladle.evaluation.likelihood import TokenRow, logits_of, negative_log_likelihood
from ladle.evaluation.scorer import ATTENTION, RECORD, WEIGHTS, read_trained
from ladle.layers import lengths_to_mask
from ladle.seeding import SampleNoise
from ladle.storage.folders import atomic_folder
from ladle.storage.kinds import SCORER
from ladle.storage.writing import atomic_json

ACTIVATION = "gelu"  # exact; GPT-2's approximation by tanh differs by 5e-4 at most and makes a step 1.28 times as long
SHRINK_BELOW = 0.5  # share of unfinished rows in a batch below which the finished ones leave it


def rival_folder(name: str, record: str = RECORD) -> Path | None:
    """The folder of a rival's model: `name`, or the finished model of this run. None: it is neither.

    record: the file that tells which rival it is.
    """
    folders = (Path(name), Path(name) / "final")
    return next((folder for folder in folders if (folder / record).is_file()), None)


class AutoregressiveConfig(Config):
    """Sizes and conditions.

    labels: names of the classes. source: whether a source text may precede the text. drop_prob: share of samples
    that lose each condition in training. max_tokens: longest text with its end token. Sources are cut at
    `max_source_tokens`.
    """

    width: int = Field(384, ge=8)
    num_layers: int = Field(9, ge=1)
    num_heads: int = Field(6, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    labels: tuple[str, ...] = ()
    source: bool = False
    drop_prob: float = Field(0.1, ge=0, le=1)
    max_tokens: int = Field(96, ge=2)
    max_source_tokens: int = Field(96, ge=1)


class Guide(Protocol):
    """Steers the texts of one batch from outside, token by token."""

    def guided(self, logits: Tensor) -> Tensor:
        """Logits of the next token [B, V] -> other ones. -inf: never drawn, and it stays so."""

    def chose(self, ids: Tensor) -> None:
        """The tokens [B] that were drawn. (A row's tokens after its end count for nothing.)"""

    def keep(self, rows: Tensor) -> None:
        """Only these rows of the batch go on, in this order."""


class AutoregressiveModel(nn.Module):
    """A causal language model over prefix and text.

    Args:
        config: sizes and conditions.
        tokenizer: with a padding and an end token; it ends every text with that end token.
        causal: a transformers causal model; made from `config` when None.
    """

    def __init__(self, config: AutoregressiveConfig, tokenizer: Any, causal: Any = None):
        super().__init__()
        self.config, self.tokenizer = config, literal(tokenizer)
        size = len(tokenizer) + 1 + len(config.labels)  # the separator and the labels come after the vocabulary
        # (torch's own type is vague)
        self.causal: Any = _build(config, tokenizer, size) if causal is None else causal
        self.separator, self.num_ids = len(tokenizer), size
        self.info: dict[str, Any] = {}  # how it was trained

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what `save_pretrained` wrote. UserError for a missing or damaged file."""
        folder = Path(folder)
        try:
            record, causal, tokenizer = read_trained(folder)
            config = AutoregressiveConfig.parse(record["config"], str(folder / RECORD))
            model = cls(config, tokenizer, causal)
            model.info = record.get("info", {})
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"cannot load the autoregressive model in {folder}: {first_line(error)}") from None
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), settings and tokenizer, whole or not at all."""
        with atomic_folder(folder, kind=SCORER) as new:
            self.causal.config.save_pretrained(new)
            self.tokenizer.save_pretrained(new / "tokenizer")
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.named_parameters()}
            save_file(tensors, new / WEIGHTS)  # parameters come once each, also where two modules share one
            record = {"format": 1, "config": self.config.model_dump(mode="json"), "info": self.info}
            atomic_json(new / RECORD, record)

    @property
    def num_parameters(self) -> int:
        """Shared ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    # --------------------------------------------------------------------------------------------------- training

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of text tokens in nats. batch: input_ids [B, S], attention_mask [B, S], is_text [B, S]."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        wanted = batch["is_text"][:, 1:]
        nll = F.cross_entropy(logits_of(self.causal, ids, mask, wanted).float(), ids[:, 1:][wanted])
        return nll, {"nll": nll.detach()}

    def score(self, texts: Sequence[str], *, label: Given = None, source: Given = None) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood in nats [N] and tokens [N] of each text with its end token, given its condition."""
        if not texts:
            return torch.zeros(0), torch.zeros(0, dtype=torch.long)
        count = len(texts)
        return self.score_rows(self.encode(texts, label or [None] * count, source or [None] * count))

    def score_rows(self, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        """`score` of N (prefix ids, text ids)."""
        nll = negative_log_likelihood(self.causal, rows, self.tokenizer.pad_token_id)
        return nll, torch.tensor([len(text) for _, text in rows])

    # ------------------------------------------------------------------------------------------------- generation

    @torch.no_grad()
    def generate(
        self,
        num_samples: int | None = None,
        *,
        seeds: Sequence[int] | None = None,
        label: Given = None,
        source: Given = None,
        top_p: float = 1.0,
        temperature: float = 1.0,
        batch_size: int = 128,
        guide: Callable[[Sequence[int]], Guide] | None = None,
    ) -> list[str]:
        """Draw texts; `temperature` 0 is greedy. One seed a sample (0, 1, ... when None), as in Ladle's `generate`.

        guide: gives what steers a batch, from the numbers of its samples.

        Raises:
            UserError: an unknown label, top_p outside (0, 1], a negative temperature.
        """
        if not 0 < top_p <= 1 or not temperature >= 0:
            raise UserError(f"top_p {top_p}, temperature {temperature}; allowed are 0 < top_p <= 1, temperature >= 0")
        seeds = sample_seeds(num_samples, seeds, label, source)
        count = len(seeds)
        prefixes = self.prefixes(label or [None] * count, source or [None] * count)
        # Prompts of like length share a batch, so that little of it is padding.
        order = sorted(range(count), key=lambda i: len(prefixes[i]))
        texts = [""] * count
        for start in range(0, count, batch_size):
            rows = order[start : start + batch_size]
            noise = SampleNoise([seeds[row] for row in rows])
            own = guide(rows) if guide is not None else None
            ids = self._continue([prefixes[row] for row in rows], noise, top_p, temperature, own)
            for row, text in zip(rows, self.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                texts[row] = written(text, None).strip()
        return texts

    def prefixes(self, labels: Each, sources: Each) -> list[list[int]]:
        """Token ids of the prefix of each text, the separator last.

        Raises:
            UserError: a label that the model was not trained with.
        """
        given = sorted({source for source in sources if source is not None})
        cut = {"truncation": True, "max_length": self.config.max_source_tokens}
        ids = self.tokenizer(given, **cut)["input_ids"] if given else []
        encoded: dict[str | None, list[int]] = {None: [], **dict(zip(given, ids, strict=True))}
        numbers = ConditionConfig(labels=self.config.labels).label_ids(labels).tolist()
        pairs = zip(numbers, sources, strict=True)
        return [[self.separator + 1 + i] * (i >= 0) + encoded[source] + [self.separator] for i, source in pairs]

    def encode(self, texts: Sequence[str], labels: Each, sources: Each) -> list[TokenRow]:
        """(prefix ids, text ids) of each text. Raises UserError as `prefixes`."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.config.max_tokens)["input_ids"]
        return list(zip(self.prefixes(labels, sources), ids, strict=True))

    def _continue(
        self, prefixes: list[list[int]], noise: SampleNoise, top_p: float, temperature: float, guide: Guide | None
    ) -> list[list[int]]:
        """Texts' token ids after each prefix. Finished rows leave the batch when they are the larger part of it."""
        device = next(self.parameters()).device
        mask = lengths_to_mask(torch.tensor([len(prefix) for prefix in prefixes]), max(map(len, prefixes))).flip(1)
        ids = torch.full(mask.shape, self.tokenizer.pad_token_id)
        ids[mask] = torch.tensor([token for prefix in prefixes for token in prefix])
        ids, mask = ids.to(device), mask.to(device)
        texts: list[list[int]] = [[] for _ in prefixes]
        rows, alive = list(range(len(prefixes))), torch.ones(len(prefixes), dtype=torch.bool, device=device)
        # Prefixes are padded on the left, so places are counted from each row's own first token.
        places, cache = (mask.long().cumsum(1) - 1).clamp_min(0), None
        for _ in range(self.config.max_tokens):
            output = self.causal(
                input_ids=ids, attention_mask=mask.long(), position_ids=places, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache = output.past_key_values
            uniform = noise.uniform().to(device)  # of every row, finished or not: a stream depends on its own row only
            token = self._choose(output.logits[:, -1].float(), uniform[rows], top_p, temperature, guide)
            alive = alive & (token != self.tokenizer.eos_token_id)
            for i, (kept, number) in enumerate(zip(alive.tolist(), token.tolist(), strict=True)):
                if kept:
                    texts[rows[i]].append(number)
            if not alive.any():
                break
            if guide is not None:
                guide.chose(token)
            places = places[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            ids = token[:, None]
            if alive.float().mean() < SHRINK_BELOW:
                kept_rows = alive.nonzero()[:, 0]
                cache.batch_select_indices(kept_rows)
                rows = [rows[i] for i in kept_rows.tolist()]
                ids, mask, places, alive = ids[kept_rows], mask[kept_rows], places[kept_rows], alive[kept_rows]
                if guide is not None:
                    guide.keep(kept_rows)
        return texts

    def _choose(
        self, logits: Tensor, uniform: Tensor, top_p: float, temperature: float, guide: Guide | None = None
    ) -> Tensor:
        """logits [B, V], uniform [B] -> ids [B] of tokens that are text."""
        logits[:, len(self.tokenizer) :] = -torch.inf  # separator and labels are no text
        logits[:, self.tokenizer.pad_token_id] = -torch.inf
        if guide is not None:
            logits = guide.guided(logits)
        return chosen_ids(logits, uniform, top_p, temperature)


def _build(config: AutoregressiveConfig, tokenizer: Any, vocab_size: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    if config.width % config.num_heads:
        raise UserError(f"num_heads is {config.num_heads}; it must divide the width, {config.width}")
    positions = config.max_tokens + (config.max_source_tokens if config.source else 0) + 2
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size, n_positions=positions, n_embd=config.width, n_layer=config.num_layers,
            n_head=config.num_heads, resid_pdrop=config.dropout, embd_pdrop=config.dropout,
            attn_pdrop=config.dropout, bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
            attn_implementation=ATTENTION, activation_function=ACTIVATION,
        )
    )  # fmt: skip
