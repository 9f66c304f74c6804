"""Optimisers: which parameters Muon takes, that it learns, that a skipped step does nothing, that it is restored."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ladle.training.ema import EMA
from ladle.training.optimiser import MuonWithAdamW, TrainingConfig, build_optimizer, hidden_matrices
from ladle.training.state import Position, StateFolder


class Net(nn.Module):
    """An embedding, two blocks (one linear layer frozen), an output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()) for _ in range(3))
        self.blocks[2].requires_grad_(False)
        self.output = nn.Linear(8, 7)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        for block in self.blocks:
            x = x + block(x)
        return self.output(x)


def config(**settings: Any) -> TrainingConfig:
    return TrainingConfig(steps=10, lr=0.01, weight_decay=0.1, **settings)


def learn(net: Net, optimizer: torch.optim.Optimizer, steps: int) -> float:
    ids = torch.arange(7)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(net(ids), (ids + 1) % 7)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def test_muon_takes_the_trained_matrices_of_blocks_and_nothing_else() -> None:
    net = Net()
    assert hidden_matrices(net) == [net.blocks[0][0].weight, net.blocks[1][0].weight]
    groups = build_optimizer(net, config(optimizer="muon")).param_groups
    assert [len(group["params"]) for group in groups] == [2, 2, 7]
    assert [group["base_lr"] for group in groups] == pytest.approx([0.05, 0.01, 0.01])
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]
    taken = [parameter for group in groups for parameter in group["params"]]
    assert {id(p) for p in taken} == {id(p) for p in net.parameters() if p.requires_grad}


def test_muon_takes_gpt2s_matrices_too() -> None:
    """Its linear layers are of a class of their own; its norms are vectors, its embeddings stay."""
    from transformers import GPT2Config, GPT2LMHeadModel

    net = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=2, n_head=2))
    blocks = [p for name, p in net.named_parameters() if ".h." in name and p.ndim == 2]
    assert len(blocks) == 8
    assert {id(p) for p in hidden_matrices(net)} == {id(p) for p in blocks}


def test_without_blocks_muon_is_adamw() -> None:
    assert isinstance(build_optimizer(nn.Linear(3, 3), config(optimizer="muon")), torch.optim.AdamW)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_learns(name: str) -> None:
    net = Net()
    optimizer = build_optimizer(net, config(optimizer=name))
    frozen = net.blocks[2][0].weight.clone()
    assert learn(net, optimizer, 1) > 1.0
    assert learn(net, optimizer, 60) < 0.05
    assert torch.equal(net.blocks[2][0].weight, frozen)


def test_muon_updates_are_orthogonal() -> None:
    net = Net()
    optimizer = build_optimizer(net, config(optimizer="muon").model_copy(update={"weight_decay": 0.0}))
    before = net.blocks[0][0].weight.detach().clone()
    learn(net, optimizer, 1)
    singular = torch.linalg.svdvals(net.blocks[0][0].weight.detach() - before)
    assert singular[0] / singular[6] < 2  # seven rows of a batch give a gradient of rank seven
    assert float(singular[:7].mean()) == pytest.approx(0.05 * 0.2 * 8**0.5, rel=0.3)


def test_a_step_that_is_not_finite_does_nothing_to_either_part() -> None:
    net = Net()
    optimizer = build_optimizer(net, config(optimizer="muon"))
    assert isinstance(optimizer, MuonWithAdamW)
    learn(net, optimizer, 2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer.found_inf = torch.ones(())
    learn(net, optimizer, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    optimizer.found_inf = torch.zeros(())
    learn(net, optimizer, 1)
    assert not torch.equal(net.blocks[0][0].weight, before["blocks.0.0.weight"])
    assert not torch.equal(net.table.weight, before["table.weight"])


def test_restored_state_goes_on_as_the_original() -> None:
    net, other = Net(), Net()
    optimizer, restored = (build_optimizer(n, config(optimizer="muon")) for n in (net, other))
    learn(net, optimizer, 3)
    other.load_state_dict(net.state_dict())
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # the tensors themselves are not copied
    assert learn(net, optimizer, 3) == learn(other, restored, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_run_state_holds_both_parts(tmp_path: Path) -> None:
    """A resumed run that lost Muon's momentum would go another way without a word."""
    net, other = Net(), Net()
    optimizer, restored = (build_optimizer(n, config(optimizer="muon")) for n in (net, other))
    learn(net, optimizer, 3)
    folder = StateFolder(tmp_path / "state", {})
    folder.save(Position(step=3), net, optimizer, EMA(net, 0.9))
    assert folder.restore(other, restored, EMA(other, 0.9)) == Position(step=3)
    assert learn(net, optimizer, 3) == learn(other, restored, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
