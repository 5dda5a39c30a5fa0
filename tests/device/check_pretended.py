"""The pretended device itself: it refuses what a GPU refuses, and allows what a GPU allows.

On a GPU the same checks say whether the rules are right.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn


def here(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CPU = torch.tensor([0, 1])
REFUSED = {
    "add": lambda x: x + here(3, 4),
    "add in place": lambda x: x.add_(here(3, 4)),
    "a row": lambda x: x * here(4),
    "matmul": lambda x: x @ here(4, 2),
    "index_select": lambda x: x.index_select(0, CPU),
    "gather": lambda x: x.gather(1, torch.zeros(3, 1, dtype=torch.long)),
    "index_add": lambda x: x.index_add_(0, torch.arange(3), x),
    "indexed by the device": lambda x: here(3)[torch.tensor([1]).to(x.device)],
    "masked by the device": lambda x: here(3)[(x > 0)[:, 0]],
    "stack": lambda x: torch.stack([x[0, 0], torch.tensor(1.0)]),
    "cat": lambda x: torch.cat([x, here(3, 4)]),
    "where": lambda x: torch.where(here(3, 4) > 0, x, 0.0),
    "where, values": lambda x: torch.where(x > 0, x, here(3, 4)),
    "lerp": lambda x: torch.lerp(x, here(3, 4), 0.5),
    "searchsorted": lambda x: torch.searchsorted(here(4).sort().values, x),
    "bucketize": lambda x: torch.bucketize(x, here(4).sort().values),
    "masked_fill": lambda x: x.masked_fill(here(3, 4) > 0, 0.0),
    "index put": lambda x: x.__setitem__(CPU, here(2, 4)),
    "generator": lambda x: torch.randn(3, device=x.device, generator=torch.Generator()),
    "embedding": lambda x: nn.functional.embedding(CPU, x),
    "conv": lambda x: nn.functional.conv1d(x[None], here(2, 3, 1)),
    "layer norm": lambda x: nn.functional.layer_norm(x, (4,), here(4)),
    "array": lambda x: x.numpy(),
    "np.asarray": lambda x: np.asarray(x),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, device):
    x = here(3, 4).to(device)
    with pytest.raises((RuntimeError, TypeError)):
        REFUSED[what](x)


ALLOWED = {
    "a number": lambda x: x + torch.tensor(2.0),
    "a number, first": lambda x: torch.tensor(2.0) * x,
    "where, a number": lambda x: torch.where(x > 0, x, 0.0),
    "indices of the CPU": lambda x: x[CPU],
    "a slice": lambda x: x[1:],
    "a mask": lambda x: x[x > 0],
    "put by indices of the CPU": lambda x: x.__setitem__(CPU, 0.0) or x,
    "copy": lambda x: x.copy_(here(3, 4)),
    "from a list": lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device),
    "new_tensor": lambda x: x + x.new_tensor([1.0, 2.0, 3.0, 4.0]),
    "as_tensor": lambda x: x + torch.as_tensor(here(4), device=x.device),
    "randn_like": lambda x: torch.randn_like(x) * 0.0 + x,
    "softmax": lambda x: x.softmax(1),
    "attention": lambda x: nn.functional.scaled_dot_product_attention(x[None], x[None], x[None]),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_allowed(what, device):
    found, expected = ALLOWED[what](here(3, 4).to(device)), ALLOWED[what](here(3, 4))
    assert found.device == device
    torch.testing.assert_close(found.cpu(), expected)


WAITING = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool((x > 0).any()),
    "float": lambda x: float(x[0, 0]),
    "tolist": lambda x: x.tolist(),
    "back": lambda x: x.cpu(),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "indices of the CPU": lambda x: x[CPU],
    "to": lambda x: here(3).to(x.device),
    "from a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "as_tensor of a number": lambda x: torch.as_tensor(1.0, device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
}


@pytest.mark.parametrize("what", WAITING)
def test_waiting(what, device, no_waits):
    x = here(3, 4).to(device)
    WAITING[what](x)
    with pytest.raises((AssertionError, RuntimeError)), no_waits():
        WAITING[what](x)


PATIENT = {
    "sent": lambda x: here(3).to(x.device, non_blocking=True),
    "sent with its type": lambda x: here(3).double().to(x, non_blocking=True),
    "a number": lambda x: x + torch.tensor(2.0),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "filled": lambda x: x.new_full((3,), 2.0),
    "arange": lambda x: torch.arange(5, device=x.device),
    "indexed": lambda x: x[torch.arange(2, device=x.device)],
    "norm": lambda x: nn.utils.clip_grad_norm_([nn.Parameter(x)], 1.0),
}


@pytest.mark.parametrize("what", PATIENT)
def test_not_waiting(what, device, no_waits):
    x = here(3, 4).to(device)
    PATIENT[what](x)
    with no_waits():
        PATIENT[what](x)


def test_learning_is_that_of_the_cpu(device):
    """Modules move, gradients flow, views are views, optimisers step, copies are copies."""
    nets = [nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 1)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, place in zip(nets, (torch.device("cpu"), device)):
        net.to(place)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
        for i in range(3):
            x = here(5, 4, seed=i).to(place)
            x[1:2].mul_(2.0)
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(nets[0].parameters(), copy.deepcopy(nets[1]).parameters()):
        assert b.device == device
        torch.testing.assert_close(a, b.cpu(), atol=1e-4, rtol=1e-4)
