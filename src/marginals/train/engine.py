"""One process or many, one loop: everything that depends on the machine is behind `Engine`.

This is the only module that knows Lightning Fabric. Alone it is one process on the best device
there is; under `torchrun` (or any launcher that sets the same variables) it becomes one rank of
distributed data parallel training, where gradients are averaged over the ranks. All ranks have
batches of the same size, so that average is the gradient of the mean over the whole batch.
"""

import logging
import os
import warnings
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Engine"]

M = TypeVar("M", bound=nn.Module)

_PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}


class Engine:
    """Where and how steps are computed: device, precision, ranks, gradients."""

    def __init__(self, precision: str = "fp32") -> None:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        gpu = torch.cuda.is_available()
        # Fabric greets on the log what we say better in the run's own words.
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._fabric = Fabric(
                accelerator="cuda" if gpu else "cpu",
                devices=local if world > 1 else 1,
                num_nodes=max(world // local, 1),
                strategy="ddp" if world > 1 else "auto",
                precision=_PRECISIONS[precision],
            )
            self._fabric.launch()
        self._model: Any = None

    @property
    def device(self) -> torch.device:
        """Where tensors of a step live."""
        return self._fabric.device

    @property
    def rank(self) -> int:
        """Number of this process, 0 for the one that writes files."""
        return self._fabric.global_rank

    @property
    def world(self) -> int:
        """Number of processes."""
        return self._fabric.world_size

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self._fabric.is_global_zero

    def place(self, module: M) -> M:
        """Move a module to the device."""
        return module.to(self.device)

    def setup(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Wrap the model for this machine; its parameters stay the same objects.

        Returns the optimizer to call `step` on. `losses` then runs the wrapped model.
        """
        wrapped, optimizer = self._fabric.setup(model, optimizer)
        wrapped.mark_forward_method("losses")
        self._model = wrapped
        return optimizer

    def losses(
        self, x: Tensor, cond: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """`model.losses` through the wrapper: loss and λ per example, (B,); λ may be None. The
        precision is set here: Fabric's wrapper of one process sets it for `forward` alone."""
        assert self._model is not None, "setup comes first"
        with self._fabric.autocast():
            return self._model.losses(x, cond, generator=generator)

    def gradients(self, loss: Tensor, optimizer: Optimizer, clip: float) -> Tensor:
        """Backward pass and clipping; returns the gradient's length before it was clipped."""
        optimizer.zero_grad(set_to_none=True)
        self._fabric.backward(loss)
        norm = self._fabric.clip_gradients(
            self._model, optimizer, max_norm=clip, error_if_nonfinite=False
        )
        assert norm is not None
        return norm

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all processes must ask together."""
        if self.world == 1:
            return flag
        return self._fabric.strategy.reduce_boolean_decision(flag, all=False)

    def same(self, value: Any) -> Any:
        """Process 0's value, in every process."""
        return value if self.world == 1 else self._fabric.broadcast(value)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            self._fabric.barrier()
