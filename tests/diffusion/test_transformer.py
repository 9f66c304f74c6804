"""The network: what its output may depend on, and that nothing in it is dead."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ladle.conditioning.config import ConditionConfig, SourceConfig
from ladle.conditioning.encoder import Condition, ConditionEncoder
from ladle.diffusion.model import DENOISERS, DiffusionConfig
from ladle.diffusion.transformer import DenoisingTransformer
from ladle.errors import UserError
from ladle.paper.transformer import PaperTransformer, PaperTransformerConfig

DIM, WIDTH, MAX_LATENTS = 6, 32, 9
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def build(*, random: bool = True, reads_memory: bool = True, **settings: Any) -> DenoisingTransformer:
    """Three blocks; `random`: no parameter is at its special start."""
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "num_layers": 3, "num_skips": 1, "num_heads": 4}
    config = DiffusionConfig.parse({"denoiser": sizes | settings}).denoiser
    network: Any = DENOISERS[config.kind](config, DIM, MAX_LATENTS, reads_memory, True).eval()
    if random:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    memory_mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    condition = Condition(torch.randn(2, WIDTH), torch.randn(2, 4, WIDTH), memory_mask)
    return {"zt": torch.randn(2, 5, DIM), "log_snr": torch.tensor([2.0, -3.0]), "mask": MASK, "condition": condition}


KINDS: dict[str, dict[str, Any]] = {
    "adaln": {}, "in_context": {"conditioning": "in_context"}, "paper": {"kind": "paper"}
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
def network(request: pytest.FixtureRequest) -> DenoisingTransformer:
    return build(**KINDS[request.param])


def changes(network: DenoisingTransformer, **other: Any) -> Tensor:
    """How much the output at the latents that exist moves with other inputs, per row."""
    with torch.no_grad():
        difference = (network(**inputs() | other) - network(**inputs())).abs().amax(-1)
    return torch.stack([row[mask].max() for row, mask in zip(difference, MASK, strict=True)])


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_new_network_says_zero(kind: str) -> None:
    """The zero-initialised output: training starts from v = 0, the best constant guess, not from noise."""
    assert not build(random=False, **KINDS[kind])(**inputs()).any()


def test_masked_latents_are_not_read(network: DenoisingTransformer) -> None:
    """Padding of a batch must not change its neighbours."""
    given = inputs()
    garbage = given["zt"].masked_fill(~MASK[..., None], 100.0)
    assert changes(network, zt=garbage).max() < 1e-5
    assert changes(network, zt=given["zt"] + 1).min() > 1e-3


def test_padding_to_any_length_gives_the_same(network: DenoisingTransformer) -> None:
    """A sample by itself and beside a longer one: the same output, also without a mask to apply."""
    given = inputs()
    wide = torch.cat([given["zt"], torch.randn(2, 4, DIM)], dim=1)
    mask = torch.cat([MASK, torch.zeros(2, 4, dtype=torch.bool)], dim=1)
    with torch.no_grad():
        narrow, padded = network(**given), network(**given | {"zt": wide, "mask": mask})[:, :5]
        alone = network(given["zt"][1:, :3], given["log_snr"][1:], mask=MASK[1:, :3], condition=given["condition"][1:])
    torch.testing.assert_close(padded[MASK], narrow[MASK], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone[0], narrow[1, :3], atol=1e-5, rtol=1e-4)


def test_the_condition_is_read_and_its_padding_is_not(network: DenoisingTransformer) -> None:
    """The vector, the memory where its mask is True, and nothing else."""
    condition = inputs()["condition"]
    hidden = condition.memory.masked_fill(~condition.memory_mask[..., None], 100.0)
    assert changes(network, condition=Condition(condition.vector, hidden, condition.memory_mask)).max() < 1e-5
    for other in (
        Condition(-condition.vector, condition.memory, condition.memory_mask),
        Condition(condition.vector, -condition.memory, condition.memory_mask),
    ):
        assert changes(network, condition=other).min() > 1e-3


def test_the_noise_level_and_the_number_of_latents_are_read(network: DenoisingTransformer) -> None:
    """Both say what to expect before a single latent is looked at."""
    given = inputs()
    assert changes(network, log_snr=given["log_snr"] + 1).min() > 1e-3
    if isinstance(network, PaperTransformer):
        return  # which does not know how many there are
    longer = torch.nn.functional.pad(given["zt"], (0, 0, 0, 2))
    more = torch.nn.functional.pad(MASK, (0, 2), value=True)
    with torch.no_grad():
        assert not torch.allclose(network(**given | {"zt": longer, "mask": more})[:, :3], network(**given)[:, :3])


def test_one_level_for_all_is_the_same_as_one_each(network: DenoisingTransformer) -> None:
    """Samplers hand over a scalar, training hands over [B]."""
    given = inputs() | {"log_snr": torch.tensor(1.5)}
    torch.testing.assert_close(network(**given), network(**given | {"log_snr": torch.full((2,), 1.5)}))


def test_self_conditioning_is_masked_sample_by_sample(network: DenoisingTransformer) -> None:
    """A row left out is as one that was given nothing; the other row is as if all were given."""
    given, previous = inputs(), torch.randn(2, 5, DIM)
    with torch.no_grad():
        none = network(**given)
        both = network(**given, self_condition=previous)
        first = network(**given, self_condition=previous, self_condition_mask=torch.tensor([True, False]))
    torch.testing.assert_close(first[0], both[0])
    torch.testing.assert_close(first[1], none[1])
    assert not torch.allclose(both, none, atol=1e-3)


@pytest.mark.parametrize("settings", [*KINDS.values(), {"num_skips": 0}])
def test_every_parameter_learns(settings: dict[str, Any]) -> None:
    """A part that no gradient reaches is a part that is not wired in."""
    network = build(**settings)
    given = inputs()
    chosen = torch.tensor([True, False])
    network(**given, self_condition=torch.randn(2, 5, DIM), self_condition_mask=chosen).square().sum().backward()
    dead = [
        name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not dead


@pytest.mark.parametrize(("labels", "source", "millions"), [(0, False, 188), (4, False, 190), (0, True, 217)])
def test_the_papers_network_has_its_parameters(labels: int, source: bool, millions: int) -> None:
    """12 blocks of 768 over 32 latents of 64: 188M, for four classes 190M, for a source 217M, within one percent."""
    config = PaperTransformerConfig(kind="paper", width=768, num_layers=12, num_heads=12, num_skips=3)
    condition = ConditionConfig(labels=tuple("abcd"[:labels]), source=SourceConfig(plain=True) if source else None)
    with torch.device("meta"):
        network = PaperTransformer(config, 64, 64, reads_memory=source, reads_vector=bool(labels))
        parts = (network, ConditionEncoder(condition, 768, 768, config.num_heads))
    assert sum(p.numel() for part in parts for p in part.parameters()) == pytest.approx(millions * 1e6, rel=0.01)


def test_skips_are_never_more_than_half_the_blocks() -> None:
    """Each joins one of the first blocks to one of the last."""
    assert len(build(num_layers=3, num_skips=5).skips) == 1
    assert len(build(num_layers=6, num_skips=2).skips) == 2


def test_every_second_block_reads_the_memory() -> None:
    """Of the paper's network every one; and none where conditions bring no memory."""
    for kind, expected in (("compact", [False, True, False, True]), ("paper", [True] * 4)):
        reading = [block.cross_attention is not None for block in build(num_layers=4, kind=kind).blocks]
        assert reading == expected
        assert not any(block.cross_attention for block in build(reads_memory=False, kind=kind).blocks)


def test_heads_that_do_not_divide_the_width_are_named() -> None:
    """When it is built, in one line."""
    with pytest.raises(UserError, match="num_heads is 5; it must divide the width, 32"):
        build(num_heads=5)
