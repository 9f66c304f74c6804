"""A sampler of one's own: a plain function of a denoiser, entered into SAMPLERS by name.

python examples/own_sampler.py
"""

from itertools import pairwise

import ladle
from ladle.diffusion.samplers import SAMPLERS


def restless(denoise, zt, levels, *, noise, callback=None):
    """Predict z0, noise it afresh to the next level, and so on: what consistency models do with many steps."""
    z0_hat = None
    for step, (level, next_level) in enumerate(pairwise(levels)):
        z0_hat = denoise(zt, level, z0_hat)
        if callback is not None:
            callback(step, zt, z0_hat)
        zt = next_level.alpha * z0_hat + next_level.sigma * noise()
    return zt


if __name__ == "__main__":
    SAMPLERS["restless"] = restless
    model = ladle.LatentDiffusion.from_pretrained("e2e")
    for text in model.generate(num_samples=5, seed=0, sampler="restless", num_inference_steps=20):
        print(text)
