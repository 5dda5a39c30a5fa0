"""The optimisers of a run: AdamW, or Muon for the matrices inside a transformer.

Both are torch's own. `MuonAdamW` only joins them into one optimiser with one state.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.train.config import TrainConfig

__all__ = ["MuonAdamW", "make_optimizer"]

_BETAS = (0.9, 0.99)  # the second moment of the usual 0.999 is too slow for short runs


def make_optimizer(config: TrainConfig, model: Generative) -> Optimizer:
    """The optimiser over all weights that learn; the rate is set anew before every step."""
    weights = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        decay = config.weight_decay
        return AdamW(weights, lr=config.lr, betas=_BETAS, weight_decay=decay, fused=True)
    if not hasattr(torch.optim, "Muon"):
        raise MarginalsError(
            f"muon needs torch 2.9 or newer, and this is {torch.__version__}; use the optimizer "
            "adamw"
        )
    matrices = _matrices(model)
    if not matrices:
        raise MarginalsError(
            "muon is for the matrices of a transformer, and this network has none; use a dit "
            "network, or the optimizer adamw"
        )
    inside = {id(p) for p in matrices}
    others = [p for p in weights if id(p) not in inside]
    return MuonAdamW(matrices, others, config.lr, config.weight_decay)


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices inside the blocks of every network in the model that names them."""
    networks: list[Any] = [m for m in model.modules() if hasattr(m, "matrices")]
    return [p for net in networks for p in net.matrices() if p.requires_grad]


class MuonAdamW(Optimizer):
    """Muon for some matrices, AdamW for all other weights, one learning rate.

    Muon (Jordan et al. 2024) steps along the momentum with all its singular values made 1, so that
    rare directions learn as fast as common ones. Its step is scaled to the size of AdamW's (root
    mean square 0.2 per entry, Liu et al. 2025), which is why one rate serves both.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        self._muon = torch.optim.Muon(
            matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = AdamW(others, lr=lr, betas=_BETAS, weight_decay=weight_decay, fused=True)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let both parts work on this optimiser's own groups and state."""
        count = len(self._muon.param_groups)
        self._muon.param_groups = self.param_groups[:count]
        self._adamw.param_groups = self.param_groups[count:]
        self._muon.state = self._adamw.state = self.state

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        self._muon.step()
        self._adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()
