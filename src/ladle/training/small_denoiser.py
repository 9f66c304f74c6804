"""Trains a denoiser for a few minutes. `ladle inspect --health` uses it to test how easily latents are learnt."""

import tempfile
from pathlib import Path

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.data.row_portions import in_every_epoch
from ladle.data.stores import VectorStore
from ladle.diffusion.loss import DenoisingLoss
from ladle.diffusion.model import DiffusionConfig, LatentDiffusionModel
from ladle.sampling.options import SamplingOptions
from ladle.training.loop import train_stage
from ladle.training.plan import stage_settings
from ladle.training.progress import Log
from ladle.training.recipe import TrainingPlanConfig
from ladle.training.stages.diffusion import DiffusionStage


def fit_small_denoiser(
    autoencoder: TextAutoencoder, known: VectorStore, held_out: VectorStore, minutes: float, seed: int, log: Log
) -> LatentDiffusionModel:
    """Train an unconditional denoiser with the default settings, small enough for a training of minutes.

    It learns from the latents `known`, and its loss is measured on the latents `held_out`; both come from
    `autoencoder`. Returns the trained model, in eval mode.
    """
    config = DiffusionConfig.model_validate({"denoiser": {"width": 256, "num_layers": 4, "num_skips": 1}})
    condition = ConditionConfig()
    torch.manual_seed(seed)
    model = LatentDiffusionModel(autoencoder, config, condition, autoencoder.backbone.width)
    model.to(autoencoder.device)
    plan = TrainingPlanConfig(validate_every=0, sample_every=0, seed=seed)
    settings = stage_settings(plan, "diffusion", from_nothing=True, minutes=minutes)
    nothing = ConditionStore.of(SourceReader(autoencoder, condition), [])
    stage = DiffusionStage(
        DenoisingLoss(model, plan.diffusion).to(model.device), autoencoder, in_every_epoch((known, nothing)),
        (held_out, nothing), settings, SamplingOptions(num_inference_steps=1),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, torch.enable_grad():
        train_stage(stage, settings, Path(folder), log=log)
    return model.eval()
