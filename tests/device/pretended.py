"""A pretended accelerator: numbers are real and computed on the CPU, rules are those of a GPU.

A tensor "on" it is a wrapper around one on the CPU. Between the two stands a torch dispatch mode
that sees every operation and

* raises :class:`MixedDevices` where CUDA would: tensors of two devices meet, except that numbers
  (0-dim tensors of the CPU) join elementwise operations, and indices may lie on the CPU;
* counts in ``waits`` what would hold up the program until the device has done all its work: looking
  at a value, a copy that is not ``non_blocking``, an output whose size depends on values.

Importing this registers the device in the whole process; so it is imported in one of its own.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "pretended"
aten = torch.ops.aten


class MixedDevices(RuntimeError):
    """Tensors of two devices in one operation."""


class There(Tensor):
    """A tensor that says it is on the device; ``here`` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "There":
        made = Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(),
            dtype=here.dtype, device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"There({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def there(value: Any) -> bool:
    return isinstance(value, There)


waits: list[str] = []
"""The operations that would have waited for the device, in order, with the line that asked."""


def _wait(what: str) -> None:
    frames = traceback.extract_stack()
    ours = [f for f in frames if "/marginals/" in f.filename and f.name != "send"]
    where = f"{ours[-1].filename.split('/marginals/')[-1]}:{ours[-1].lineno}" if ours else "a test"
    waits.append(f"{what} in {where}")


_LOOKS = {
    aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default,
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default,
    aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
_INDEXED = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default, aten._unsafe_index.Tensor, aten._unsafe_index_put.default,
}  # fmt: skip
_COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
_OF_NUMBERS = {aten.fill_.Tensor, aten.fill.Tensor, aten.index_fill_.int_Tensor}


_FROM_LISTS = {torch.tensor, torch.as_tensor, torch.asarray}


class _Lists(TorchFunctionMode):
    """Tensors made of Python numbers come about on the CPU and are copied, which waits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.new_tensor and there(args[0]):
            options = {"dtype": args[0].dtype} | kwargs
            return torch.tensor(args[1], **options).to(args[0].device)
        if func is Tensor.tolist and there(args[0]):
            return args[0].cpu().tolist()
        if func is Tensor.__format__ and there(args[0]):
            return format(args[0].cpu(), args[1])
        if func in (Tensor.numpy, Tensor.__array__) and there(args[0]):
            raise TypeError("a tensor of the device is no array; copy it with .cpu() first")
        if func not in _FROM_LISTS or kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = torch.device(kwargs["device"])
        if device.type != NAME and not there(args[0]):
            return func(*args, **kwargs)
        rest = {k: v for k, v in kwargs.items() if k != "device"}
        if isinstance(args[0], Tensor):
            return args[0].to(device, **rest)
        return func(*args, **rest).to(device)


class _Operations(TorchDispatchMode):
    """Sees every operation, those that make tensors on the device too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check one operation, then do it on the CPU."""
    asked = kwargs.get("device")
    away = None if asked is None else torch.device(asked).type == NAME
    mine = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    any_there = any(map(there, mine))
    if not any_there and not away:
        return func(*args, **kwargs)
    if func in _COPIES:
        _check_copy(func, args, kwargs, away)
    else:
        _check(func, args, kwargs, mine, away)
    plain = {k: v for k, v in kwargs.items() if k != "device"}
    if asked is not None:
        plain["device"] = torch.device("cpu")
    out = func(*_here(args), **_here(plain))
    if away or (away is None and any_there):
        out = tree_map_only(Tensor, There, out)
    if not any_there or (func in _COPIES and func is not aten.copy_.default):
        return out
    return return_and_correct_aliasing(func, args, kwargs, out)


def _here(tree: Any) -> Any:
    return tree_map_only(There, lambda tensor: tensor.here, tree)


def _check_copy(func: Any, args: Any, kwargs: dict[str, Any], away: bool | None) -> None:
    """A copy between the devices waits, unless it goes to the device and need not be finished."""
    if func is aten._to_copy.default:
        source, target = there(args[0]), there(args[0]) if away is None else away
        patient = kwargs.get("non_blocking", False)
    else:
        target, source = there(args[0]), there(args[1])
        patient = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
    if source != target and not (target and patient):
        _wait(str(func))


def _check(
    func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], away: bool | None
) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise MixedDevices(f"{func}: a generator of the CPU for tensors of the device")
    if func in _LOOKS:
        _wait(str(func))
    if func in _INDEXED:
        tensors = _check_indices(func, args, kwargs)
    if torch.Tag.pointwise in func.tags or func in _OF_NUMBERS:
        tensors = [t for t in tensors if t.ndim or there(t)]
    if func.namespace != "prim" and len({there(t) for t in tensors}) > 1:
        shapes = [(tuple(t.shape), "device" if there(t) else "cpu") for t in tensors]
        raise MixedDevices(f"{func} of tensors on two devices: {shapes}")


def _check_indices(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that must agree besides the indices, which may lie on the CPU."""
    data, indices, *rest = (*args, *kwargs.values())
    indices = [i for i in indices if i is not None]
    if not there(data) and any(map(there, indices)):
        raise MixedDevices(f"{func}: a tensor of the CPU indexed by one of the device")
    if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
        _wait(f"{func} by a mask")
    if any(not there(i) for i in indices):
        _wait(f"{func} by indices of the CPU")
    values = [v for v in rest if isinstance(v, Tensor)]
    return [data, *(v for v in values if v.ndim or there(v))]


@contextmanager
def device() -> Iterator[torch.device]:
    """While it is on, ``device="pretended"`` works everywhere."""
    with _Lists(), _Operations():
        yield torch.device(NAME, 0)


@contextmanager
def no_waits() -> Iterator[None]:
    """Raise where something in the block would have waited for the device."""
    before = len(waits)
    yield
    assert waits[before:] == [], f"waits for the device: {waits[before:]}"


class _Module(backend_registration._DummyBackendModule):
    """What torch asks a backend for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Make the device known to torch: once, for the whole process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    torch.__future__.set_overwrite_module_params_on_conversion(True)


register()
