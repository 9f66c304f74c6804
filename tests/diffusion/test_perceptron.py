"""The denoiser of plans: what its output may depend on, and that nothing in it is dead."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.encoder import Condition, ConditionEncoder, RawCondition
from ladle.diffusion.model import DENOISERS, DiffusionConfig
from ladle.diffusion.perceptron import DenoisingPerceptron, PerceptronConfig
from ladle.diffusion.schedule import sampling_levels

DIM, COUNT, WIDTH, BATCH = 6, 4, 32, 3


def build(*, random: bool = True, **settings: Any) -> DenoisingPerceptron:
    """Two blocks; `random`: no parameter is at its special start."""
    torch.manual_seed(0)
    values = {"denoiser": {"kind": "perceptron", "width": WIDTH, "num_layers": 2} | settings}
    config = DiffusionConfig.parse(values).denoiser
    network: Any = DENOISERS[config.kind](config, DIM, COUNT, False, True).eval()
    if random:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "zt": torch.randn(BATCH, COUNT, DIM),
        "log_snr": torch.tensor([2.0, -3.0, 0.5]),
        "mask": torch.ones(BATCH, COUNT, dtype=torch.bool),
        "condition": Condition(torch.randn(BATCH, WIDTH)),
        "self_condition": torch.randn(BATCH, COUNT, DIM),
    }


def changes(network: DenoisingPerceptron, **other: Any) -> Tensor:
    """How much the output of each row moves with other inputs."""
    with torch.no_grad():
        return (network(**inputs() | other) - network(**inputs())).abs().amax((1, 2))


def test_a_new_network_says_zero() -> None:
    """Training starts from v = 0, the best constant guess, not from noise."""
    output = build(random=False)(**inputs())
    assert output.shape == (BATCH, COUNT, DIM)
    assert not output.any()


def test_level_condition_and_estimate_are_read_row_by_row() -> None:
    """Each changes its own row, and no other."""
    network, given = build(), inputs()
    for name, other in {
        "log_snr": given["log_snr"] + torch.tensor([1.0, 0, 0]),
        "condition": Condition(given["condition"].vector * torch.tensor([[-1.0], [1], [1]])),
        "self_condition": given["self_condition"] * torch.tensor([-1.0, 1, 1])[:, None, None],
        "zt": given["zt"] * torch.tensor([-1.0, 1, 1])[:, None, None],
    }.items():
        moved = changes(network, **{name: other})
        assert moved[0] > 1e-3, name
        assert moved[1:].max() < 1e-6, name


def test_every_latent_of_a_plan_decides_on_every_other() -> None:
    """The parts are channels of one embedding, without an order: the network reads them as one vector."""
    network, given = build(), inputs()
    jacobian = torch.func.jacrev(lambda zt: network(**given | {"zt": zt})[0])(given["zt"])[:, :, 0]
    assert jacobian.abs().amax((1, 3)).min() > 1e-4  # [part of the output, part of the input]


def test_one_level_for_all_is_the_same_as_one_each() -> None:
    """Samplers give a scalar, training a level for each row."""
    with torch.no_grad():
        scalar = build()(**inputs() | {"log_snr": torch.tensor(1.5)})
        each = build()(**inputs() | {"log_snr": torch.full((BATCH,), 1.5)})
    torch.testing.assert_close(scalar, each, atol=1e-5, rtol=1e-5)


def test_self_conditioning_is_masked_sample_by_sample() -> None:
    """Half of a training batch has an estimate to read; the others must see what a first step sees."""
    network, given = build(), inputs()
    mask = torch.tensor([True, False, True])
    with torch.no_grad():
        masked = network(**given, self_condition_mask=mask)
        without = network(**given | {"self_condition": None})
        whole = network(**given)
    torch.testing.assert_close(masked[1], without[1])
    torch.testing.assert_close(masked[[0, 2]], whole[[0, 2]])
    assert (without - whole).abs().amax((1, 2)).min() > 1e-3


def test_without_any_condition_it_works() -> None:
    """An unconditional model has no vector to give; a source comes as the pooled vector, not as a memory."""
    network, given = build(), inputs()
    with torch.no_grad():
        assert network(**given | {"condition": Condition()}).isfinite().all()
        memory = replace(given["condition"], memory=torch.randn(BATCH, 5, WIDTH))
        torch.testing.assert_close(network(**given | {"condition": memory}), network(**given))


def test_the_vector_of_a_source_reaches_it() -> None:
    """The condition encoder pools a source into the vector, which is all that this network reads of it."""
    network = build()
    config = ConditionConfig.parse({"source": {"memory": "latents", "max_tokens": 6}})
    torch.manual_seed(0)
    encoder = ConditionEncoder(config, WIDTH, DIM, PerceptronConfig(kind="perceptron", width=WIDTH).num_heads)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    source, mask = torch.randn(BATCH, COUNT, DIM), torch.ones(BATCH, COUNT, dtype=torch.bool)
    with torch.no_grad():
        one, other = (
            network(**inputs() | {"condition": encoder.encode(RawCondition(source=x, source_mask=mask), BATCH)})
            for x in (source, -source)
        )
    assert (one - other).abs().amax((1, 2)).min() > 1e-3


def test_dropout_is_for_training_alone() -> None:
    """A sampler's estimates are not random; the training of so wide a network on few texts needs dropout."""
    network, given = build(dropout=0.5), inputs()
    with torch.no_grad():
        assert torch.equal(network(**given), network(**given))
        network.train()
        assert not torch.equal(network(**given), network(**given))


def test_every_parameter_learns() -> None:
    """Nothing is dead once the output is not zero."""
    network = build()
    network(**inputs()).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("width", "heads"), [(512, 8), (36, 4), (10, 2), (9, 1)])
def test_the_heads_of_a_sources_layers_divide_the_width(width: int, heads: int) -> None:
    """There is no setting for them."""
    assert PerceptronConfig(kind="perceptron", width=width).num_heads == heads


@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_worked_out_ahead_changes_no_estimate(labelled: bool) -> None:
    """A sampler's steps, some at levels that were said before, in chunks that end on the way, and one that was not."""
    model = tiny.tiny_plan_parts(labels=tiny.LABELS if labelled else (), source=False).diffusion
    assert model is not None and isinstance(model.denoiser, DenoisingPerceptron)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    condition = model.condition.encode(RawCondition(torch.tensor([0, 1]) if labelled else None), 2)
    mask = torch.ones(2, model.max_latents, dtype=torch.bool)
    levels = sampling_levels(model.schedule, 40)
    with torch.no_grad():
        zt = torch.randn(2, model.max_latents, model.latent_dim)
        ahead, each = model.denoise(mask, condition, levels), model.denoise(mask, condition)
        for level in [*levels, levels[3], sampling_levels(model.schedule, 7)[2]]:
            torch.testing.assert_close(ahead(zt, level, zt), each(zt, level, zt), atol=1e-4, rtol=1e-4)
        assert (each(zt, levels[3]) - each(zt, levels[30])).abs().max() > 0.1  # (the level matters)
