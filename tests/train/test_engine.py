"""The engine computes in the precision it was asked for."""

import pytest
import torch
from torch import nn

from marginals.train.engine import Engine


class Seen(nn.Module):
    """Notes the precision in which its one product is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)
        self.dtypes: list[torch.dtype] = []

    def losses(self, x, cond=None, generator=None):
        out = self.line(x)
        self.dtypes.append(out.dtype)
        return out.float().square().mean(1), None


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_losses_are_computed_in_the_precision_asked_for(precision: str, dtype: torch.dtype):
    engine, model = Engine(precision), Seen()
    model = engine.place(model)
    optimizer = engine.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    x = torch.randn(8, 4, device=engine.device)
    losses, _ = engine.losses(x, None, torch.Generator())
    engine.gradients(losses.mean(), optimizer, 1.0)
    assert model.dtypes == [dtype]
    assert model.line.weight.dtype == torch.float32 and model.line.weight.grad is not None
