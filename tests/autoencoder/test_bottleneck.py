"""Token states to latents and back: shapes, and what may depend on what."""

import math

import pytest
import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import AutoencoderConfig
from ladle.autoencoder.bottleneck import BOTTLENECKS, BottleneckConfig
from ladle.errors import UserError

WIDTH, MAX_TOKENS = 32, 20


def config_of(kind: str, **settings: object) -> BottleneckConfig:
    """As a recipe gives it."""
    return AutoencoderConfig.parse({"bottleneck": {"kind": kind, **settings}}).bottleneck


def build(kind: str, width: int = WIDTH, num_heads: int = 4, **settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    number = {"tokens_per_latent": 3} if kind == "aligned" else {"num_latents": 5}
    config = config_of(kind, **{"latent_dim": 8, "num_layers": 2} | number | settings)
    return BOTTLENECKS[kind](config, width, num_heads, MAX_TOKENS).eval()


def states(size: int, rows: int = 2) -> tuple[Tensor, Tensor]:
    """Token states [B, S, W] and a mask in which the second row is one token shorter."""
    torch.manual_seed(1)
    mask = torch.ones(rows, size, dtype=torch.bool)
    mask[1, -1] = False
    return torch.randn(rows, size, WIDTH), mask


# A plan is an embedding of the backbone's own width, and always whole (tests/autoencoder/test_plan.py).
@pytest.fixture(params=[kind for kind in BOTTLENECKS if kind != "plan"])
def bottleneck(request: pytest.FixtureRequest) -> torch.nn.Module:
    return build(request.param)


def test_padding_does_not_change_the_latents(bottleneck: torch.nn.Module) -> None:
    """A text must have the same latents in whatever batch it is encoded, or the prior learns the padding."""
    tokens, mask = states(7)
    raw, latent_mask = bottleneck.compress(tokens, mask)
    noise = 100 * torch.randn(2, 6, WIDTH)
    padded, padded_mask = bottleneck.compress(torch.cat([tokens, noise], 1), torch.cat([mask, mask[:, :6] & False], 1))
    torch.testing.assert_close(padded[padded_mask], raw[latent_mask], atol=1e-5, rtol=1e-5)


def test_masked_latents_do_not_change_the_memory(bottleneck: torch.nn.Module) -> None:
    """On the way back, too: what stands in padding must not be read."""
    torch.manual_seed(2)
    raw, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    memory, memory_mask = bottleneck.expand(raw, mask)
    other, _ = bottleneck.expand(raw.masked_fill(~mask[..., None], 50.0), mask)
    torch.testing.assert_close(other[memory_mask], memory[memory_mask], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(bottleneck.expand(raw + 1, mask)[0], memory, atol=1e-2)


def test_each_latent_has_the_norm_of_the_paper(bottleneck: torch.nn.Module) -> None:
    """regulariser = "norm": every latent vector lies on the sphere of radius sqrt(D)."""
    raw, mask = bottleneck.compress(*states(9))
    torch.testing.assert_close(raw.norm(dim=-1)[mask], torch.full((int(mask.sum()),), math.sqrt(8)), rtol=1e-3, atol=0)


def test_without_the_norm_latents_have_their_own_length() -> None:
    """regulariser = "none"."""
    raw, _ = build("aligned", regulariser="none").compress(*states(9))
    assert raw.norm(dim=-1).std() > 0.01


@pytest.mark.parametrize(("size", "expected"), [(1, [1, 0]), (3, [1, 1]), (4, [2, 1]), (20, [7, 7])])
def test_aligned_latents_are_as_many_as_the_text_needs(size: int, expected: list[int]) -> None:
    """L = ceil(tokens / tokens_per_latent) for each text by itself."""
    raw, mask = build("aligned").compress(*states(size))
    assert mask.sum(1).tolist() == expected
    assert raw.shape == (2, max(expected), 8)


def test_an_aligned_latent_holds_its_own_tokens_only() -> None:
    """Position l keeps its place in the text: infilling by masks rests on it."""
    bottleneck = build("aligned")
    tokens, mask = states(9)
    changed = tokens.clone()
    changed[:, 4] = torch.randn(2, WIDTH)
    difference = (bottleneck.compress(changed, mask)[0] - bottleneck.compress(tokens, mask)[0]).abs().amax(-1)
    assert (difference[:, 1] > 1e-3).all()
    assert torch.equal(difference[:, [0, 2]], torch.zeros(2, 2))


def test_aligned_memory_has_a_place_for_each_token() -> None:
    """The parallel decoder writes one token a place."""
    memory, mask = build("aligned").expand(torch.randn(1, 4, 8), torch.tensor([[True, True, True, False]]))
    assert memory.shape == (1, 12, WIDTH)
    assert mask.tolist() == [[True] * 9 + [False] * 3]


@pytest.mark.parametrize("size", [1, 4, 20])
def test_perceiver_latents_are_always_as_many(size: int) -> None:
    """Learned queries: the number does not depend on the text."""
    raw, mask = build("perceiver").compress(torch.randn(2, size, WIDTH), torch.ones(2, size, dtype=torch.bool))
    assert raw.shape == (2, 5, 8)
    assert mask.all()


def test_perceiver_latents_tell_the_order_of_the_tokens() -> None:
    """Attention alone forgets it; position codes of the tokens keep it."""
    bottleneck = build("perceiver")
    torch.nn.init.normal_(bottleneck.token_positions)
    tokens, mask = states(6, rows=2)
    mask[:] = True
    assert not torch.allclose(
        bottleneck.compress(tokens.flip(1), mask)[0], bottleneck.compress(tokens, mask)[0], atol=1e-2
    )


@pytest.mark.parametrize(("kind", "width", "heads"), [("aligned", 32, 5), ("perceiver", 32, 5), ("paper", 200, 3)])
def test_heads_that_do_not_divide_the_width_are_named(kind: str, width: int, heads: int) -> None:
    """A setting that cannot work says so when the model is built, not in the middle of a batch. The paper's has as
    many heads as 64 channels go into the width."""
    with pytest.raises(UserError, match=f"num_heads is {heads}; it must divide the width, {width}"):
        build(kind, width, num_heads=5)


def test_the_papers_bottleneck_has_its_parameters() -> None:
    """Over BART-base: 25,618,432 trained parameters, by hand from its code; 26M in the paper."""
    config = config_of("paper", latent_dim=64, num_latents=32, num_layers=3)
    with torch.device("meta"):
        bottleneck = BOTTLENECKS["paper"](config, 768, 5, 64)
    assert {module.num_heads for module in bottleneck.modules() if hasattr(module, "num_heads")} == {12}
    assert sum(parameter.numel() for parameter in bottleneck.parameters()) == 25_618_432
    raw, mask = bottleneck.compress(torch.randn(2, 9, 768, device="meta"), torch.ones(2, 9, device="meta") > 0)
    assert raw.shape == (2, 32, 64)
    assert bottleneck.expand(raw, mask)[0].shape == (2, 32, 768)


def test_the_papers_bottleneck_has_no_divergence() -> None:
    with pytest.raises(UserError, match="bottleneck.regulariser: must be 'norm' or 'none'"):
        build("paper", regulariser="gaussian")


def test_an_unknown_kind_is_refused() -> None:
    """It says what is allowed."""
    with pytest.raises(UserError, match="kind 'pooled' of bottleneck: allowed: aligned, paper, perceiver, plan$"):
        config_of("pooled")
    with pytest.raises(UserError, match="unknown kind 'percever' of bottleneck: did you mean 'perceiver'"):
        config_of("percever")


def test_a_setting_of_another_kind_is_refused() -> None:
    """It would mean nothing."""
    with pytest.raises(UserError, match="'bottleneck.num_latents' belongs to kind 'perceiver'"):
        config_of("aligned", num_latents=5)
    with pytest.raises(UserError, match="'bottleneck.tokens_per_latent' belongs to kind 'aligned'"):
        config_of("perceiver", tokens_per_latent=3)
