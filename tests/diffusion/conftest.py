"""A path that no schedule of ours takes, so that nothing is right on ours alone."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ladle.diffusion.schedule import PATHS


def _variance_exploding(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = 1 (Karras et al.): neither alpha^2 + sigma^2 nor alpha + sigma is 1."""
    return torch.ones_like(log_snr), (-log_snr / 2).exp()


@pytest.fixture(scope="module")
def exploding_path() -> Iterator[None]:
    """`variance_exploding` among PATHS while the tests of one file run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PATHS, "variance_exploding", _variance_exploding)
        yield
