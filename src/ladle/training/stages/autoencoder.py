"""Stage `autoencoder`: text -> latents -> text, from masked tokens and noised latents."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.encoding import store_tokens
from ladle.autoencoder.reconstruction import ReconstructionConfig, reconstruction_loss
from ladle.data.batching import epoch_batches
from ladle.data.row_portions import PerPortion
from ladle.data.rows import Row
from ladle.data.stores import TokenStore
from ladle.training.optimiser import TrainingConfig
from ladle.training.stages.diffusion import NUM_SAMPLES
from ladle.training.stages.interface import mean_metrics, to_device


class AutoencoderStage:
    """Reconstruction from masked tokens and noised latents, by both decoders.

    train: gives the rows of an epoch. objective: the loss. with_sources: train on source texts too, each once, because
    the denoiser reads them through the modules trained here.
    """

    name = "autoencoder"
    progress = 0.0

    def __init__(
        self,
        autoencoder: TextAutoencoder,
        train: Callable[[int], Sequence[Row]],
        valid: Sequence[Row],
        settings: TrainingConfig,
        objective: ReconstructionConfig,
        with_sources: bool = True,
    ):
        self.module, self.settings, self.objective = autoencoder, settings, objective

        def tokens(rows: Sequence[Row]) -> TokenStore:
            sources = dict.fromkeys(row["source"] for row in rows if row.get("source")) if with_sources else {}
            return store_tokens(autoencoder, [row["text"] for row in rows] + list(sources))

        self._tokens_of = PerPortion(train, tokens)
        self.train_tokens = self._tokens_of(0)
        self.valid_texts = [row["text"] for row in valid or train(0)][:256]
        self.valid_tokens = store_tokens(autoencoder, self.valid_texts)

    def batches(self, epoch: int) -> list[list[int]]:
        self.train_tokens = self._tokens_of(epoch)
        return epoch_batches(self.train_tokens.lengths.tolist(), self.settings, epoch)

    def load(self, rows: list[int]) -> dict[str, Tensor]:
        return self.train_tokens.gather(torch.tensor(rows))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, metrics = reconstruction_loss(self.module, batch, self.objective, self.progress)
        return loss, {**metrics, "num_tokens": batch["attention_mask"].sum()}

    def validate(self) -> dict[str, float]:
        def metrics(rows: Tensor) -> dict[str, Tensor]:
            batch = to_device(self.valid_tokens.gather(rows), self.module)
            return reconstruction_loss(self.module, batch, self.objective)[1]

        return mean_metrics(len(self.valid_texts), 64, metrics)

    def sample(self) -> list[str]:
        tokens = to_device(self.valid_tokens.gather(torch.arange(min(NUM_SAMPLES, len(self.valid_texts)))), self.module)
        return self.module.backbone.detokenize(self.module.decode(self.module.encode(**tokens)))
