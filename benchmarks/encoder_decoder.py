"""Paraphrases by beam search of an encoder-decoder that was trained on pairs: the rival in benchmarks/paraphrase.py.

    python benchmarks/encoder_decoder.py --train train.jsonl.gz --valid valid.jsonl.gz --test test.jsonl.gz \
        --minutes 15 -o runs/beam
    python benchmarks/paraphrase.py MODEL --data test.jsonl.gz --beside beam=runs/beam/texts.jsonl

The rows have source and text (or target). The model is BART's architecture with random weights, about as many
parameters as Ladle trains (19.7M), Ladle's tokenizer and training loop. Its texts are in the file texts.jsonl.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ladle.baselines.fitting import autoregressive_settings
from ladle.data.batching import epoch_batches
from ladle.data.rows import Row, read_rows
from ladle.storage.model_folder import load_parts
from ladle.storage.names import resolve_model
from ladle.storage.writing import write_rows
from ladle.training.loop import train_stage

MOST = 64  # tokens of a source, and of a text


class EncoderDecoderStage:
    """Pairs of source and text, for `ladle.training.loop`."""

    name = "encoder-decoder"
    progress = 0.0

    def __init__(self, module: nn.Module, tokenizer: Any, train: Sequence[Row], valid: Sequence[Row], config: Any):
        self.module, self.tokenizer, self.config = module, tokenizer, config
        self.train_rows, self.valid_rows = self._encode(train), self._encode(valid)

    def batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches([len(source) + len(text) for source, text in self.train_rows], self.config, epoch)

    def load(self, rows: list[int]) -> dict[str, Tensor]:
        return self._tensors([self.train_rows[row] for row in rows])

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor | float]]:
        nll, tokens = self._nll(batch)
        return nll / tokens, {"nll": (nll / tokens).detach(), "num_tokens": tokens}

    def validate(self) -> dict[str, float]:
        """nll: nats per token of the texts."""
        found = torch.zeros(2)
        for start in range(0, len(self.valid_rows), 64):
            batch = self._tensors(self.valid_rows[start : start + 64])
            found += torch.stack([value.float().cpu() for value in self._nll(batch)])
        return {"nll": float(found[0] / found[1])}

    def sample(self) -> list[str]:
        return self.texts([source for source, _ in self.valid_rows[:16]], beams=1)

    @torch.no_grad()
    def texts(self, sources: Sequence[list[int]], beams: int) -> list[str]:
        """The likeliest texts that beam search finds."""
        found: list[str] = []
        for start in range(0, len(sources), 64):
            ids, mask = self._padded(sources[start : start + 64])
            made = self.module.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, num_beams=beams, max_new_tokens=MOST, do_sample=False
            )
            found += self.tokenizer.batch_decode(made, skip_special_tokens=True)
        return [text.strip() for text in found]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, with the end token."""
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=MOST)["input_ids"]
        return ids

    def _encode(self, rows: Sequence[Row]) -> list[tuple[list[int], list[int]]]:
        sources, texts = (self.encode([row[part] for row in rows]) for part in ("source", "text"))
        return list(zip(sources, texts, strict=True))

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        pad = self.tokenizer.pad_token_id
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
        return ids, ids != pad

    def _tensors(self, rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
        ids, mask = self._padded([source for source, _ in rows])
        labels, known = self._padded([text for _, text in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels.masked_fill(~known, -100)}

    def _nll(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self.module(**batch).logits
        nll = F.cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten(), reduction="sum")
        return nll, (batch["labels"] >= 0).sum()


def build(tokenizer: Any, width: int, layers: int) -> nn.Module:
    """A BART of that size with random weights."""
    from transformers import BartConfig, BartForConditionalGeneration

    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(tokenizer), d_model=width, encoder_layers=layers, decoder_layers=layers,
            encoder_attention_heads=width // 64, decoder_attention_heads=width // 64,
            encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, max_position_embeddings=MOST + 2,
            pad_token_id=pad, eos_token_id=end, bos_token_id=end, decoder_start_token_id=end,
            forced_eos_token_id=None, dropout=0.1,
        )
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write the texts of the test rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--valid", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    train, valid, test = (read_rows(path, need=("text", "source")) for path in (given.train, given.valid, given.test))
    tokenizer = load_parts(resolve_model("base-en")).autoencoder.backbone.tokenizer
    torch.manual_seed(given.seed)
    module = build(tokenizer, given.width, given.layers)
    print(f"{sum(parameter.numel() for parameter in module.parameters()):,} parameters")
    settings = autoregressive_settings(minutes=given.minutes, seed=given.seed)
    settings = settings.model_copy(update={"lr": given.lr, "keep_best": "nll", "max_tokens": given.batch_tokens})
    stage = EncoderDecoderStage(module, tokenizer, train, valid[:1000], settings)
    result = train_stage(stage, settings, given.output)
    print(f"{result.metrics['nll']:.3f} nats per token of {len(valid[:1000])} held-out texts, {result.step} steps")
    sources = stage.encode([row["source"] for row in test[: given.n]])
    texts = stage.texts(sources, given.beams)
    write_rows(given.output / "texts.jsonl", [{"text": text} for text in texts])
    for row, text in list(zip(test, texts, strict=False))[:10]:
        print(f"{row['source']}\n    {text}")


if __name__ == "__main__":
    main()
