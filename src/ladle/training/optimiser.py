"""How a stage is trained: its budget, batch size, optimiser and learning rate over time."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from ladle.config import Config

# What one may change between two runs of one training: it does not touch the weights.
FREE_SETTINGS = {"save_every_seconds", "validate_every", "sample_every", "trackers"}
MUON_SCALE = 5.0  # Muon's learning rate, in multiples of `lr` (benchmarks/LOG.md)


class OptimiserConfig(Config):
    """How steps are made. What is not given here is as suits the stage (`ladle.training.plan.STAGE_DEFAULTS`)."""

    optimizer: Literal["adamw", "muon"] | None = None
    """`muon`: the matrices of repeated blocks by Muon (arXiv 2502.16982), all other parameters by AdamW."""
    lr: float | None = Field(None, gt=0)
    """Learning rate; Muon's is five times this."""
    lr_schedule: Literal["cosine", "linear", "constant", "trapezoid"] = "trapezoid"
    """How the learning rate falls."""
    warmup: float = Field(0.03, ge=0)
    """Linear warm-up of the learning rate: a share of the budget if under 1, otherwise a number of steps."""
    cooldown: float | None = Field(None, gt=0, le=1)
    """The share of the budget, at its end, over which `trapezoid` comes down to 0."""
    weight_decay: float = Field(0.05, ge=0)
    """Of matrices; vectors (biases, gains) are not decayed."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the two moments."""
    grad_clip: float = Field(1.0, ge=0)
    """The largest norm of the gradient; 0 is off."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the averaged weights, which are the result."""
    max_tokens: int | None = Field(None, ge=1)
    """Size of a batch, in tokens with padding."""
    max_rows: int | None = Field(None, ge=1)
    """The most texts of a batch, however short."""
    gradient_accumulation: int = Field(1, ge=1)
    """Batches to a step."""

    @field_validator("betas")
    @classmethod
    def _betas_in_range(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both must be at least 0 and under 1")
        return betas


class TrainingConfig(OptimiserConfig):
    """Everything that the loop needs to know of one training."""

    steps: int | None = Field(None, ge=1)
    """The budget in optimiser steps, or"""
    minutes: float | None = Field(None, gt=0, validate_default=True)
    """in minutes of this loop (with its validations and samples), over all runs together. Exactly one of the two."""
    lr: float = Field(5e-4, gt=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    cooldown: float = Field(0.2, gt=0, le=1)
    max_tokens: int = Field(4096, ge=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the products of matrices (weights stay float32). `auto`: bf16 where the processor has units for it."""
    save_every_seconds: float = Field(45, ge=0)
    """Time between two saved states."""
    validate_every: float = Field(0.1, ge=0)
    """A share of the budget if at most 1, otherwise seconds; 0: only at the end."""
    sample_every: float = Field(0.1, ge=0)
    """As `validate_every`."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of everything random."""
    trackers: tuple[str, ...] = ()
    """What is told what metrics.jsonl is told: `tensorboard`, `wandb` and others, as accelerate names them."""
    keep_best: str | None = None
    """A validation metric: the result is the averaged weights with its lowest value, in place of the last ones."""
    patience: int | None = Field(None, ge=1)
    """With `keep_best`: end after so many validations in a row without a new lowest value."""

    @field_validator("patience")
    @classmethod
    def _patience_for_something(cls, patience: int | None, info: ValidationInfo) -> int | None:
        if patience is not None and info.data.get("keep_best") is None:
            raise ValueError("it needs keep_best: the validation metric to be patient about")
        return patience

    @field_validator("minutes")
    @classmethod
    def _one_budget(cls, minutes: float | None, info: ValidationInfo) -> float | None:
        steps = info.data.get("steps", 0)  # absent: said to be wrong already
        if steps != 0 and (minutes is None) == (steps is None):
            raise ValueError("give either steps or minutes, " + ("one of them" if minutes is None else "not both"))
        return minutes


LR_SCHEDULES: dict[str, Callable[[float, float], float]] = {  # of the share used up and the cooldown
    "cosine": lambda share, cooldown: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share, cooldown: 1 - share,
    "constant": lambda share, cooldown: 1.0,
    "trapezoid": lambda share, cooldown: min(1.0, (1 - share) / cooldown),
}


def lr_factor(config: TrainingConfig, step: int, share: float) -> float:
    """What `config.lr` is multiplied by at a step, `share` of the budget being used up: warm-up times schedule."""
    used, whole = (step + 1, config.warmup) if config.warmup >= 1 else (share, config.warmup)
    ramp = min(1.0, used / whole) if whole else 1.0
    return ramp * LR_SCHEDULES[config.lr_schedule](min(share, 1.0), config.cooldown)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether `precision` (auto, bf16, fp32) means bf16 products here; auto: where they are fast, not only possible."""
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
    """The trained weights of linear layers (also GPT-2's own kind) inside lists of blocks: neither embeddings nor the
    first and last maps.

    Muon makes the update of a matrix orthogonal, which suits maps between hidden states, not tables or outputs.
    """
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    parts = [part for blocks in lists for part in blocks.modules() if not isinstance(part, nn.Embedding)]
    own = (weight for part in parts for name, weight in part.named_parameters(recurse=False) if name == "weight")
    return [weight for weight in dict.fromkeys(own) if weight.ndim == 2 and weight.requires_grad]


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon for `matrices`, each [out, in], and `adamw` for the others (None when there are none), saved and
    restored as one optimiser. lr, weight_decay: Muon's; its updates are scaled to the size of AdamW's.
    """

    found_inf: Tensor | None = None
    """A scalar, 1 for a step that must do nothing."""

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
        """Let the parts work on this optimiser's groups and state, so that there is one of each."""
        groups = list(self.param_groups)
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups, groups = groups[:count], groups[count:]
            part.state = self.state
