"""A second device, emulated over CPU memory: what would a GPU have to do, and how often would the host wait for it?

A tensor of this device is a wrapper around a CPU tensor. Every operator on wrappers calls `__torch_dispatch__`, which
counts it, refuses tensors of the CPU beside wrappers as a GPU does, and runs it on the CPU tensors inside.
    launches   operators that would start a kernel: all but views and allocations
    waits      operators after which the host must wait for a result: item, tolist, equal, nonzero, checks of LAPACK
    to_host    copies of tensors to the CPU
    uploads    copies of tensors from the CPU
    bytes      of these copies, both ways
Registration is global: call `install` in a process of its own. `python -m tests.second_device` does so, solves PROBLEMS
on the CPU and on the device by every method, and prints errors and counts as JSON, for test_second_device.py.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

import linode

DEVICE = "second"
KINDS = ("launches", "waits", "to_host", "uploads", "bytes")
ALLOCATES = {"empty_like", "new_empty", "new_empty_strided"}
RESHAPES = {"_unsafe_view", "_reshape_alias", "lift_fresh"}  # views that the schema does not call so
READS = {"_local_scalar_dense"}  # waits without a kernel
WAITS = {
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave.Tensor",
    "_linalg_check_errors",
    "linalg_eig",  # on a GPU its iterations run on the host
    "linalg_eigvals",
    "_linalg_eigvals",
}
counts = dict.fromkeys(KINDS, 0)


class OnSecond(Tensor):
    """A tensor of the second device; `inside` is the CPU tensor that holds its numbers."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> OnSecond:
        layout = {"strides": inside.stride(), "storage_offset": inside.storage_offset(), "dtype": inside.dtype}
        x = Tensor._make_wrapper_subclass(cls, inside.size(), device=torch.device(DEVICE, 0), **layout)
        torch._C._set_conj(x, inside.is_conj())
        torch._C._set_neg(x, inside.is_neg())
        x.inside = inside
        return x

    def __init__(self, inside: Tensor) -> None:
        """All is done in __new__."""

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnSecond({self.inside!r})"

    def tolist(self) -> Any:
        counts["waits"] += 1
        return self.inside.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {DEVICE}:0 device type tensor to numpy")
        return self.detach().cpu().resolve_conj().resolve_neg().numpy()

    @classmethod
    def __torch_dispatch__(
        cls, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = operator.__name__.removesuffix(".default")
        if torch.Tag.inplace_view in operator.tags:
            raise NotImplementedError(f"{name} changes the shape of a tensor in place")
        if name == "copy_":
            return _copied(*args)
        _check_devices(name, args, kwargs)
        device = kwargs.get("device")
        is_for_host = device is not None and torch.device(device).type == "cpu"
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        result = operator(*tree_map(_inside, args), **tree_map(_inside, kwargs))
        if is_for_host:
            counts["to_host"] += name == "_to_copy"
            counts["bytes"] += result.nbytes if name == "_to_copy" else 0
            return result
        _count(operator, name, args)
        known = {id(x.inside): x for x in tree_leaves((args, kwargs)) if isinstance(x, OnSecond)}
        return tree_map(lambda x: _on_second(x, known), result)


def _inside(x: Any) -> Any:
    return x.inside if isinstance(x, OnSecond) else x


def _on_second(x: Any, known: dict[int, OnSecond]) -> Any:
    """The wrapper of a result: the argument's own where the operator worked in place."""
    if not isinstance(x, Tensor):
        return x
    wrapper = known[id(x)] if id(x) in known else OnSecond(x)
    if wrapper.shape != x.shape:
        raise NotImplementedError("an operator resized its output")
    return wrapper


def _check_devices(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """As on a GPU: 0-d tensors of the CPU are numbers, and those that index are uploaded; all others are refused."""
    for x in tree_leaves((args, kwargs)):
        if not isinstance(x, Tensor) or isinstance(x, OnSecond) or x.ndim == 0:
            continue
        if not name.startswith(("index.", "index_put")) or x.dtype.is_floating_point:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found {DEVICE}:0 and cpu")
        counts["uploads"] += 1
        counts["bytes"] += x.nbytes


def _count(operator: Any, name: str, args: tuple[Any, ...]) -> None:
    by_mask = name.startswith("index.") and any(x.dtype == torch.bool for x in args[1] if x is not None)
    counts["waits"] += name in WAITS or name in READS or by_mask
    counts["launches"] += not (operator.is_view or name in ALLOCATES or name in RESHAPES or name in READS)


def _copied(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    ends = isinstance(source, OnSecond), isinstance(target, OnSecond)
    counts[{(True, True): "launches", (True, False): "to_host", (False, True): "uploads"}[ends]] += 1
    counts["bytes"] += 0 if all(ends) else source.nbytes
    _inside(target).copy_(_inside(source))
    return target


def install() -> None:
    """Register the device and what makes tensors on it from none."""
    backend_registration._setup_privateuseone_for_python_backend(DEVICE)

    def implement(name: str, n_launches: int) -> None:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet), overload or "default")

        def make(*args: Any, device: Any = None, pin_memory: Any = None, **kwargs: Any) -> Tensor:
            counts["launches"] += n_launches
            return OnSecond(operator(*args, device=torch.device("cpu"), **kwargs))

        library.impl(name, make, "PrivateUse1")

    for name in ("empty.memory_format", "empty_strided"):
        implement(name, 0)
    for name in ("arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m"):
        implement(name, 1)
    library.impl("_copy_from", lambda source, target, non_blocking=False: _copied(target, source), "PrivateUse1")


library = torch.library.Library("aten", "IMPL")  # what it holds lives as long as it does


# ---- steps ---------------------------------------------------------------------------------------------------------


def _problems() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Xi, z0 and t of each, on the CPU."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=rng)

    def system(n: int, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return normal(*batch, n, n, dtype=dtype) / n**0.5 - torch.eye(n, dtype=dtype)

    def irregular(*shape: int) -> Tensor:
        return 5.0 * torch.rand(*shape, dtype=torch.float64, generator=rng).sort(dim=-1).values

    jordan = torch.diag(torch.ones(5, dtype=torch.float64), 1) - torch.eye(6, dtype=torch.float64)
    some_defective = system(6, 256)
    some_defective[::2] = jordan
    return {
        "n = 6": (system(6), normal(6), irregular(100)),
        "n = 32": (system(32), normal(32), irregular(100)),
        "256 systems": (system(8, 256), normal(256, 8), irregular(50)),
        "256 systems, own times": (system(8, 256), normal(256, 8), irregular(256, 50)),
        "defective": (jordan, normal(6), irregular(100)),
        "256 systems, half defective": (some_defective, normal(256, 6), irregular(50)),
        "float32": (system(6).float(), normal(6).float(), irregular(100).float()),
        "complex": (system(6, dtype=torch.complex128), normal(6, dtype=torch.complex128), irregular(100)),
        # too large to be answered on the host
        "n = 70": (system(70), normal(70), irregular(100)),
        "256 systems, many times": (system(8, 256), normal(256, 8), irregular(300)),
    }


PROBLEMS = _problems()


def step(method: str, Xi: Tensor, z0: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z, and the gradients of the sum of |z|^2."""
    Xi, z0 = Xi.requires_grad_(), z0.requires_grad_()
    z = linode.LinearODE(Xi, z0, method=method)(t)
    (z.square() if not z.is_complex() else z.real.square() + z.imag.square()).sum().backward()
    return z.detach(), Xi.grad, z0.grad


def compared(method: str, problem: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> dict[str, Any]:
    """The counts of a step and its largest error relative to what the CPU found; or why there is none."""
    Xi, z0, t = problem
    try:
        step(method, OnSecond(0.9 * Xi), OnSecond(z0.clone()), OnSecond(t))  # uploads what is kept for each device
        on_device = [OnSecond(x.clone()) for x in (Xi, z0, t)]
        counts.update(dict.fromkeys(KINDS, 0))
        found = step(method, *on_device)
    except linode.MethodError as error:
        return {"refused": str(error)}
    except (RuntimeError, TypeError, NotImplementedError) as error:  # mixed devices, and what a GPU has not
        return {"raised": f"{type(error).__name__}: {error}"}
    result: dict[str, Any] = dict(counts)
    errors = [((_inside(x) - y).abs().max() / y.abs().max()).item() for x, y in zip(found, expected, strict=True)]
    return result | {"error": max(errors), "devices": [x.device.type for x in found]}


# ---- the emulation itself ------------------------------------------------------------------------------------------


def counted(action: Callable[[Tensor], object]) -> list[int] | str:
    """What an action on a matrix of the device counts, in the order of KINDS, or the error that it raises."""
    x = OnSecond(torch.eye(3, dtype=torch.float64))
    counts.update(dict.fromkeys(KINDS, 0))
    try:
        action(x)
    except (RuntimeError, TypeError) as error:
        return type(error).__name__
    return [counts[kind] for kind in KINDS]


ACTIONS: dict[str, Callable[[Tensor], object]] = {
    "a sum": lambda x: x + x,
    "a sum in place": lambda x: x.add_(1.0),
    "a view": lambda x: x.mT[0].expand(4, 3),
    "memory": lambda x: torch.empty_like(x),
    "zeros": lambda x: torch.zeros(3, device=x.device),
    "a range": lambda x: torch.arange(3, device=x.device),
    "an item": lambda x: x[0, 0].item(),
    "a truth value": lambda x: bool(x[0, 0]),
    "a list": lambda x: x.tolist(),
    "a copy to the host": lambda x: x.cpu(),
    "a copy into the host's memory": lambda x: torch.empty(3, 3).copy_(x),
    "an upload": lambda x: torch.ones(3).to(x.device),
    "an upload of numbers": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "an upload into memory": lambda x: x.copy_(torch.ones(3, 3)),
    "a number of the host": lambda x: x + torch.tensor(1.0),
    "a selection by a mask": lambda x: x[x.detach() > 0],
    "a solve": lambda x: torch.linalg.solve(x, x),
    "mixed devices": lambda x: x + torch.ones(3, 3),
    "NumPy": lambda x: x.numpy(),
}


def main() -> None:
    warnings.simplefilter("ignore")  # torch: "the API is experimental"
    install()
    found: dict[str, Any] = {"emulation": {name: counted(action) for name, action in ACTIONS.items()}, "steps": {}}
    for name, (Xi, z0, t) in PROBLEMS.items():
        expected = step("auto", Xi.clone(), z0.clone(), t)
        methods = [x for x in linode.methods.registry() if x != "schur" or Xi.ndim == 2]  # it is slow for many systems
        found["steps"][name] = {method: compared(method, (Xi, z0, t), expected) for method in methods}
    print(json.dumps(found, indent=1))
    sys.stdout.flush()
    os._exit(0)  # torch's thread for the device does not end: an ordinary exit aborts


if __name__ == "__main__":
    main()
