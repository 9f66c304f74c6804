"""How a stage is trained: its budget, batch size, optimiser and learning rate schedule."""

import math
from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from ladle.config import Config

# Settings that may change between two runs of one training, because they do not affect the weights.
FREE_SETTINGS = {"save_every_seconds", "validate_every", "sample_every", "trackers"}
MUON_SCALE = 5.0  # Muon's learning rate, in multiples of `lr` (benchmarks/LOG.md)


class OptimiserConfig(Config):
    """How optimiser steps are made. Settings without a value depend on the stage
    (`ladle.training.plan.STAGE_DEFAULTS`)."""

    optimizer: Literal["adamw", "muon"] | None = None
    """`adamw`: AdamW for all parameters. `muon`: Muon (arXiv 2502.16982) for the matrices of repeated blocks, AdamW for
    all other parameters."""
    lr: float | None = Field(None, gt=0)
    """Learning rate of AdamW. Muon's is five times as high."""
    lr_schedule: Literal["cosine", "linear", "constant", "trapezoid"] = "trapezoid"
    """Shape in which the learning rate falls."""
    warmup: float = Field(0.03, ge=0)
    """Linear warm-up of the learning rate: below 1 it is a share of the budget, from 1 it is a number of steps."""
    cooldown: float | None = Field(None, gt=0, le=1)
    """The last share of the budget, in which `trapezoid` falls to 0."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of matrices. Biases and gains have no weight decay."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the two moments."""
    grad_clip: float = Field(1.0, ge=0)
    """The largest norm of the gradient. 0 turns clipping off."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay rate of the averaged weights, which are the result of the training."""
    max_tokens: int | None = Field(None, ge=1)
    """Size of a batch in tokens, padding included."""
    max_rows: int | None = Field(None, ge=1)
    """Largest number of texts in a batch."""
    gradient_accumulation: int = Field(1, ge=1)
    """Number of batches in each optimiser step."""

    @field_validator("betas")
    @classmethod
    def _betas_in_range(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both values must be at least 0 and below 1")
        return betas


class LoopConfig(Config):
    """The budget and the loop's other settings."""

    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Minutes for all stages together. 15 if neither minutes nor steps are given."""
    steps: int | None = Field(None, gt=0)
    """Optimiser steps for all stages together, instead of minutes."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Random seed of the training."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of matrix products. Weights are always float32. `auto` is bf16 if the processor computes it fast, else
    fp32."""
    save_every_seconds: float = Field(45, ge=0)
    """Seconds between two saved states of an unfinished training."""
    validate_every: float = Field(0.2, ge=0)
    """Time between two validations: up to 1 it is a share of the stage's budget, above 1 it is in seconds. 0: validate
    only at the end."""
    sample_every: float = Field(0.25, ge=0)
    """Time between two sets of written samples, as for `validate_every`."""
    trackers: tuple[str, ...] = ()
    """Tracking services that receive the same numbers as metrics.jsonl: `tensorboard`, `wandb` and others, by
    accelerate's names."""


class TrainingConfig(LoopConfig, OptimiserConfig):
    """All settings of the loop for one training. Its budget is that of this loop alone, with its validations and
    samples, over all runs together."""

    steps: int | None = Field(None, ge=1)
    lr: float = Field(5e-4, gt=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    cooldown: float = Field(0.2, gt=0, le=1)
    max_tokens: int = Field(4096, ge=1)
    validate_every: float = Field(0.1, ge=0)
    sample_every: float = Field(0.1, ge=0)
    keep_best: str | None = None
    """A validation metric. The result is the averaged weights with its lowest value, instead of the last ones."""
    patience: int | None = Field(None, ge=1)
    """With `keep_best`: end after this number of validations in a row without a new lowest value."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.minutes is None) == (self.steps is None):
            which = "one of them" if self.minutes is None else "not both"
            raise ValueError(f"give either steps or minutes, {which}")
        if self.patience is not None and self.keep_best is None:
            raise ValueError("patience needs keep_best, the name of a validation metric")
        return self


LR_SCHEDULES: dict[str, Callable[[float, float], float]] = {  # of the share used up and the cooldown
    "cosine": lambda share, cooldown: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share, cooldown: 1 - share,
    "constant": lambda share, cooldown: 1.0,
    "trapezoid": lambda share, cooldown: min(1.0, (1 - share) / cooldown),
}


def lr_factor(config: TrainingConfig, step: int, share: float) -> float:
    """The factor of `config.lr` at a step, when `share` of the budget is used up: warm-up times schedule."""
    used, whole = (step + 1, config.warmup) if config.warmup >= 1 else (share, config.warmup)
    ramp = min(1.0, used / whole) if whole else 1.0
    return ramp * LR_SCHEDULES[config.lr_schedule](min(share, 1.0), config.cooldown)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether `precision` (auto, bf16, fp32) means bf16 products here. auto: bf16 if it is fast, not only possible."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        units = torch.cpu.get_capabilities()
        return bool(units.get("amx_bf16") or units.get("avx512_bf16"))
    return False


def build_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Fused AdamW, with Muon for the hidden matrices where `config` says so; weight decay for matrices only.

    Every group has its own full learning rate under `base_lr`.
    """
    hidden = hidden_matrices(module) if config.optimizer == "muon" else []
    apart = {id(parameter) for parameter in hidden}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in apart]
    groups = [
        {"params": [parameter for parameter in rest if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in rest if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True) if groups else None
    optimizer = MuonWithAdamW(hidden, MUON_SCALE * config.lr, config.weight_decay, adamw) if hidden else adamw
    assert optimizer is not None, "nothing to train"
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """The trained weights of linear layers (also of GPT-2's kind) inside lists of blocks. Embeddings and the first and
    last maps are not among them.

    Muon makes the update of a matrix orthogonal. That suits maps between hidden states, but not tables or outputs.
    """
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    parts = [part for blocks in lists for part in blocks.modules() if not isinstance(part, nn.Embedding)]
    own = (weight for part in parts for name, weight in part.named_parameters(recurse=False) if name == "weight")
    return [weight for weight in dict.fromkeys(own) if weight.ndim == 2 and weight.requires_grad]


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon for `matrices`, each [out, in], and `adamw` for all other parameters (None if there are none). Both
    are saved and restored as one optimiser. lr, weight_decay: of Muon, whose updates are scaled to the size of AdamW's.
    """

    found_inf: Tensor | None = None
    """A scalar: 1 if the step must change nothing."""

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, weight_decay: float, adamw: torch.optim.AdamW | None
    ) -> None:
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.parts: list[torch.optim.Optimizer] = [muon] if adamw is None else [muon, adamw]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self.register_load_state_dict_post_hook(lambda _: self._share())
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both."""
        muon, *others = self.parts
        for part in others:
            part.found_inf = self.found_inf  # type: ignore[attr-defined]
            part.step()
        if self.found_inf is None or not float(self.found_inf):  # Muon has no fused form that would look by itself
            muon.step()

    def _share(self) -> None:
        """Let both parts use this optimiser's groups and state, so that nothing is stored twice."""
        groups = list(self.param_groups)
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups, groups = groups[:count], groups[count:]
            part.state = self.state
