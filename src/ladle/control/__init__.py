"""Control of a model without training it again: classifiers of its noised latents, and functions, that steer."""

from ladle.control.control import Control as Control
from ladle.control.fitting import fit_control as fit_control
from ladle.control.steer import Steer as Steer
from ladle.control.steer import SteerBy as SteerBy
