"""The optimiser that pocket is built with: what it saves is all that it needs to go on."""

import io
from itertools import count

import torch
from muon import Muon
from torch import nn


def made() -> tuple[nn.Sequential, Muon]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    hidden, other = [m.weight for m in model], [m.bias for m in model]  # type: ignore[union-attr]
    return model, Muon(hidden, other, lr=0.01, weight_decay=0.02)  # type: ignore[arg-type]


def trained(model: nn.Sequential, optimiser: Muon, seeds: "count[int]", steps: int) -> None:
    for _ in range(steps):
        data = torch.randn(5, 4, generator=torch.Generator().manual_seed(next(seeds)))
        optimiser.zero_grad()
        model(data).square().mean().backward()
        optimiser.step()


def test_training_that_goes_on_from_a_saved_state_ends_in_the_same_bits() -> None:
    model, optimiser = made()
    trained(model, optimiser, count(), 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict()}, file)
    trained(model, optimiser, count(3), 3)
    file.seek(0)
    saved, (other, its) = torch.load(file, weights_only=True), made()
    other.load_state_dict(saved["model"])
    assert saved["optimiser"]["momentum"][0][0].abs().sum() > 0
    its.load_state_dict(saved["optimiser"])
    trained(other, its, count(3), 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
