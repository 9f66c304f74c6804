"""Ladle: latent diffusion for language generation.

    from ladle import LatentDiffusion

    model = LatentDiffusion.from_pretrained("e2e")
    model.generate(num_samples=8)

The names below are imported when they are first used, so that `import ladle` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ladle.version import __version__

if TYPE_CHECKING:
    from ladle.autoencoder.autoencoder import TextAutoencoder as TextAutoencoder
    from ladle.autoencoder.latents import Latents as Latents
    from ladle.control.control import Control as Control
    from ladle.control.fitting import fit_control as fit_control
    from ladle.control.steer import Steer as Steer
    from ladle.control.steer import SteerBy as SteerBy
    from ladle.errors import LadleError as LadleError
    from ladle.errors import UserError as UserError
    from ladle.evaluation.evaluate import evaluate as evaluate
    from ladle.pipeline import LatentDiffusion as LatentDiffusion
    from ladle.sampling.options import SamplingOptions as SamplingOptions
    from ladle.sampling.request import Sample as Sample
    from ladle.training.augment import augment as augment
    from ladle.training.recipe import Recipe as Recipe
    from ladle.training.recipe import load_recipe as load_recipe
    from ladle.training.run import train as train

_HOME = {
    "Control": "ladle.control.control",
    "LadleError": "ladle.errors",
    "LatentDiffusion": "ladle.pipeline",
    "Latents": "ladle.autoencoder.latents",
    "Recipe": "ladle.training.recipe",
    "Sample": "ladle.sampling.request",
    "SamplingOptions": "ladle.sampling.options",
    "Steer": "ladle.control.steer",
    "SteerBy": "ladle.control.steer",
    "TextAutoencoder": "ladle.autoencoder.autoencoder",
    "UserError": "ladle.errors",
    "augment": "ladle.training.augment",
    "evaluate": "ladle.evaluation.evaluate",
    "fit_control": "ladle.control.fitting",
    "load_recipe": "ladle.training.recipe",
    "train": "ladle.training.run",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that holds it."""
    if name not in _HOME:
        raise AttributeError(f"module 'ladle' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
