"""Checks of arguments (shapes, dtypes, devices, finite values), and the layout of batches.

Arguments become tensors here, differentiably; results go back as NumPy arrays if no argument was a tensor. Code after
these checks does not repeat them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..errors import DeviceError, DtypeError, NonFiniteError, OptionError, ShapeError
from ..kernels import small, tensors
from ..kernels.private import is_readable, is_traced, is_wrapped, untransformed, unwrapped
from ..kernels.small import PLAIN
from ..kernels.tensors import is_deferred, is_finite

HALF = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}
LARGE = ("scipy.sparse", "linode.operators")  # modules of what Xi may be beside a dense array
SUPPORTED = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def as_tensor(x: Any, name: str, integers_become: torch.dtype | None = None, beside: tuple[Any, ...] = ()) -> Tensor:
    """x as a float32, float64, complex64 or complex128 tensor.

    Integers in arrays and lists become float64; in a tensor, `integers_become`, or what the arguments `beside` it have
    in common, or the default dtype. Numbers of half precision become float32 or complex64.
    """
    if isinstance(x, Tensor) and x.dtype in SUPPORTED and x.layout == torch.strided and has_values(x):
        return x
    if type(x) is np.ndarray and x.dtype == np.float64 and not (torch.compiler.is_compiling() or is_traced()):
        return torch.from_numpy(x.copy())
    if isinstance(x, float):
        return torch.tensor(x, dtype=torch.float64, device="cpu")
    if not isinstance(x, Tensor):
        x = _traced_tensor(x) if is_compiling() else _tensor_from_array(x, name)
    elif x.is_nested:
        raise DtypeError(
            f"{name} is a nested tensor, and linode needs one length for all: pad it (times by repeating the last one, "
            "states by zeros) and mask the loss"
        )
    if x.layout != torch.strided or x.is_quantized:
        kind = "a quantized tensor" if x.is_quantized else f"layout {x.layout}"
        raise DtypeError(f"{name} must be a dense tensor of floats, got {kind}")
    if not has_values(x):
        kind = f"is a {type(x).__name__}" if type(x) not in PLAIN else "is followed by a tracer"
        raise DtypeError(
            f"{name} {kind}, so that linode cannot read its values, and it decides by values: give plain tensors; of "
            "the tracers, torch.compile and torch.export work"
        )
    if not (x.is_floating_point() or x.is_complex()):
        x = x.to(integers_become or _common_dtype(beside) or torch.get_default_dtype())
    x = x.to(HALF.get(x.dtype, x.dtype))
    if x.dtype not in SUPPORTED:
        raise DtypeError(f"{name} is {x.dtype}; linode works in float32, float64, complex64 and complex128")
    return x


def is_dense(x: Any) -> bool:
    """Whether x is no sparse tensor, no sparse array of scipy and no operator; scipy.sparse is not imported for it."""
    if isinstance(x, Tensor):
        return x.layout is torch.strided or x.is_nested
    return not any(kind.__module__.startswith(LARGE) for kind in type(x).__mro__)


def _common_dtype(xs: tuple[Any, ...]) -> torch.dtype | None:
    """Of those that are not tensors of integers; None where there are none."""
    known = [x for x in xs if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex()]
    dtypes = [as_tensor(x, "an argument").dtype for x in known]
    return reduce(torch.promote_types, dtypes) if dtypes else None


def _tensor_from_array(x: Any, name: str) -> Tensor:
    """A tensor of its own of an array, a list or a number, on the CPU."""
    if isinstance(x, torch.fx.Proxy):
        raise DtypeError(
            f"{name} is a torch.fx.Proxy, without values; of the tracers, torch.compile and torch.export work"
        )
    if not is_dense(x):
        raise DtypeError(
            f"{name} must be dense here, got {type(x).__name__}: sparse matrices and operators are Xi of LinearODE and "
            "odeint, and A of expm_multiply; x.toarray() makes one dense"
        )
    if callable(x):
        raise DtypeError(
            f"{name} must be an array, got {type(x).__name__}, which is a function: give the matrix Xi of "
            "f(t, z) = Xi z itself, or, where only f is known, torch.func.jacrev(lambda z: f(0.0, z))(z0)"
        )
    if _is_masked(x):
        raise DtypeError(
            f"{name} is an array whose mask hides entries, and the numbers beneath it would be used: fill them first "
            "(x.filled(...)), or leave these rows out"
        )
    if isinstance(x, (list, tuple)) and x and not is_dense(x[0]):
        raise ShapeError(
            f"{name} is a list of sparse matrices or operators, and a sparse {name} has no batch dimensions: solve for "
            "one at a time, or for all as blocks on the diagonal of one sparse matrix (scipy.sparse.block_diag), or, "
            f"where n is small, give a dense {name}"
        )
    try:
        array = np.asarray(x)
    except ValueError as error:  # ragged lists
        raise ShapeError(f"{name} is no regular array: {error}") from None
    except (RuntimeError, TypeError) as error:  # lists of tensors that need gradients, among others
        raise DtypeError(f"{name} is no array: {error} (join tensors by torch.stack)") from None
    if array.dtype.kind not in "fciub":
        raise DtypeError(f"{name} must hold real or complex numbers, got {type(x).__name__} of {array.dtype}")
    if (array.dtype.itemsize > 8 and array.dtype.kind == "f") or array.dtype.itemsize > 16:
        raise DtypeError(f"{name} is {array.dtype}; linode works in float32, float64, complex64 and complex128")
    # a copy: torch warns of arrays that cannot be written to, and takes no negative strides
    dtype = array.dtype.newbyteorder("=") if array.dtype.kind in "fc" else np.dtype(np.float64)
    return torch.from_numpy(array.astype(dtype, order="C", copy=True))


def _traced_tensor(x: Any) -> Tensor:
    """The same while torch.compile traces, which knows few functions of NumPy."""
    if isinstance(x, np.ndarray):
        return torch.as_tensor(x, device="cpu")
    x = torch.tensor(x, device="cpu")
    return x.to(torch.promote_types(x.dtype, torch.float64))


def _is_masked(x: Any) -> bool:
    """Whether x, or an array in a list x, has a mask that hides something."""
    if isinstance(x, (list, tuple)):
        return any(_is_masked(part) for part in x if not isinstance(part, (int, float)))
    return isinstance(x, np.ma.MaskedArray) and bool(np.ma.getmaskarray(x).any())


def has_values(x: Tensor) -> bool:
    """Whether the numbers of x can be read, now or by what torch.compile traces: it is neither fake nor nested nor
    masked, and no other tracer follows it. (check_finite refuses the meta device.)
    """
    if is_compiling():
        return True
    return (type(x) in PLAIN or is_readable(x)) and not x.is_nested and not is_traced()


def check_finite_anywhere(x: Tensor, name: str) -> None:
    """As `check_finite`, also inside transforms of torch.func, where the message cannot name the entry."""
    if is_known(x):
        check_finite(x, name)
    elif is_anywhere(~torch.isfinite(x)):
        raise NonFiniteError(f"{name} must be finite{_advice(concrete(x), name)}")


def check_finite(x: Tensor, name: str) -> None:
    """Raise if x holds NaN or infinity, or is on the meta device."""
    if x.is_meta:
        raise DeviceError(f"{name} is on the meta device and has no values")
    if not is_finite(x):
        where = tuple((~torch.isfinite(x)).nonzero()[0].tolist())
        place = f"{name}[{', '.join(map(str, where))}]" if where else name
        raise NonFiniteError(f"{name} must be finite, but {place} is {x[where].item()}{_advice(x, name)}")


def _advice(x: Tensor, name: str) -> str:
    if name != "t" or not bool(x.isnan().any()):
        return ""
    return "; to fill up trajectories of fewer times, repeat their last time and mask the loss"


def is_known(x: Tensor) -> bool:
    """Whether the values of x can be read: not under torch.compile, nor if a transform of torch.func wraps x."""
    return not is_compiling() and not is_wrapped(x)


def concrete(x: Tensor) -> Tensor:
    """x unwrapped from transforms of torch.func: mapped dimensions become its own, and it is detached."""
    while is_wrapped(x):
        x = unwrapped(x)
    return x.detach()


def is_anywhere(mask: Tensor) -> bool:
    """Whether a mask is true anywhere, also along mapped dimensions; False while torch.compile traces."""
    return not is_compiling() and bool(concrete(mask.any()).any())


def extremes(x: Tensor) -> tuple[float, float]:
    """min(0, smallest value) and max(0, largest value), also over mapped dimensions."""
    with untransformed():
        return tensors.extremes(concrete(x))


def make_matrix(A: Any, name: str, beside: tuple[Any, ...] = ()) -> Tensor:
    """A checked square matrix, (*batch, n, n). beside: as for `as_tensor`."""
    matrix = as_tensor(A, name, beside=beside)
    shape = matrix.shape
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ShapeError(f"{name} has shape {tuple(shape)}; {name} must be (*batch, n, n)")
    if shape[-1] == 0:
        raise ShapeError(f"{name} has shape {tuple(shape)}; n must be at least 1")
    return matrix


def make_system(Xi: Any, z0: Any, names: tuple[str, str] = ("Xi", "z0")) -> tuple[Tensor, Tensor, bool]:
    """Checked Xi and z0, and whether results are NumPy arrays. Tensors of a supported dtype are not copied."""
    if not is_compiling() and small.is_system(Xi, z0):  # the checks that follow, in one look
        return Xi, z0, False
    is_numpy = not isinstance(Xi, Tensor) and not isinstance(z0, Tensor)
    Xi, z0 = make_matrix(Xi, names[0], (z0,)), as_tensor(z0, names[1], beside=(Xi,))
    shape, n = z0.shape, Xi.shape[-1]
    if not shape or shape[-1] != n:
        found = f"has last size {shape[-1]}, but {names[0]} is {n} x {n}" if shape else "is a scalar"
        raise ShapeError(f"{names[1]} {found}; {names[1]} must be (*batch, {n})")
    if Xi.device != z0.device:
        check_same_device(dict(zip(names, (Xi, z0))))
    if len(shape) > 1 or len(Xi.shape) > 2:
        broadcast(dict(zip(names, (Xi.shape[:-2], shape[:-1]))))
    if not is_deferred() and (Xi.is_meta or z0.is_meta or not is_finite(Xi, z0)):
        check_finite(Xi, names[0])
        check_finite(z0, names[1])
    return Xi, z0, is_numpy


def make_times(t: Any, Xi: Tensor, batches: Callable[[], dict[str, torch.Size]]) -> tuple[Tensor, bool]:
    """Checked times (*batch, T), float64, and whether t was a scalar.

    batches: gives the shapes, by argument, that batch dimensions of t must broadcast with; the first is that of Xi.
    """
    if not is_compiling() and Xi.is_cpu and small.rank_of_times(t) == 1:  # the checks that follow, in one look
        return t, False
    t = as_tensor(t, "t", integers_become=torch.float64)
    is_double = t.dtype == torch.float64
    if not is_double and t.is_complex():
        raise DtypeError(f"t must be real, got {t.dtype}")
    if not (Xi.is_cpu and t.is_cpu) and Xi.device != t.device:
        check_same_device({next(iter(batches())): Xi, "t": t})
    rank = len(t.shape)
    t = t if rank else t[None]
    if rank > 1:
        others = batches()
        broadcast({" and ".join(others): common_shape(*others.values()), "t": t.shape[:-1]})
    return t if is_double else t.to(torch.float64), not rank


def check_tolerance(rtol: Any) -> None:
    """Raise unless rtol is None or a number between 0 and 1."""
    if rtol is not None and not (isinstance(rtol, (int, float)) and 0 < rtol < 1):
        raise OptionError(f"rtol must be None or a number between 0 and 1, got {rtol!r}")


def as_answer(x: Tensor, is_numpy: bool) -> Any:
    """x as a NumPy array if is_numpy, else as it is; also as it is if a user's input function gives it gradients."""
    return x.numpy() if is_numpy and not x.requires_grad else x


def check_same_device(tensors: dict[str, Tensor]) -> None:
    first, *others = tensors.values()
    if any(x.device != first.device for x in others):
        found = ", ".join(f"{name} on {x.device}" for name, x in tensors.items())
        raise DeviceError(f"{' and '.join(tensors)} must be on one device, got {found}")


def common_shape(*shapes: torch.Size) -> torch.Size:
    """The shape that all broadcast to; torch.broadcast_shapes takes ten times as long."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    return torch.Size(np.broadcast_shapes(*shapes))


def broadcast(shapes: dict[str, torch.Size]) -> torch.Size:
    """The common batch shape, or an error that names what does not fit."""
    try:
        return common_shape(*shapes.values())
    except ValueError:
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ShapeError(f"batch shapes do not broadcast: {found}") from None


@dataclass(frozen=True)
class Layout:
    """How batch shapes map to S systems with R trajectories each, the shapes of methods and kernels.

    Batch dimensions along which Xi varies come first (S), those along which only z0 or t vary are trajectories (R).
    """

    Xi_shape: torch.Size
    z0_shape: torch.Size
    t_shape: torch.Size
    batch: torch.Size
    z_shape: tuple[int, ...]
    order: tuple[int, ...]
    S: int
    R: int
    n: int
    n_entries: int  # of z
    is_plain: bool  # one batch dimension or none, that of z0; Xi and t have it or none

    @staticmethod
    @lru_cache(maxsize=256)
    def of(Xi_shape: torch.Size, z0_shape: torch.Size, t_shape: torch.Size) -> Layout:
        batch = common_shape(Xi_shape[:-2], z0_shape[:-1], t_shape[:-1])
        own = (1,) * (len(batch) - len(Xi_shape) + 2) + tuple(Xi_shape[:-2])
        systems = [d for d, size in enumerate(own) if size == batch[d]]
        shared = [d for d in range(len(batch)) if d not in systems]
        S, R = prod(batch[d] for d in systems), prod(batch[d] for d in shared)
        z_shape = (*batch, t_shape[-1], Xi_shape[-1])
        is_plain = len(batch) < 2 and z0_shape[:-1] == batch and {Xi_shape[:-2], t_shape[:-1]} <= {(), batch}
        return Layout(
            Xi_shape, z0_shape, t_shape, batch, z_shape, (*systems, *shared), S, R, z_shape[-1], prod(z_shape), is_plain
        )

    def systems(self, Xi: Tensor) -> Tensor:
        """Xi as (S, n, n): a view, since the batch dimensions that go have size 1."""
        return Xi.reshape(self.S, *Xi.shape[-2:])

    def trajectories(self, x: Tensor, n_own: int) -> Tensor:
        """x as (S, R, ...); its last n_own dimensions are no batch dimensions."""
        own = x.shape[x.ndim - n_own :]
        if not self.batch:
            return x.view(1, 1, *own)
        x = x.expand(*self.batch, *own)
        rank = len(self.batch)
        return x.permute(*self.order, *range(rank, rank + n_own)).reshape(self.S, self.R, *own)

    def batched(self, x: Tensor) -> Tensor:
        """Inverse of `trajectories`: (S, R, ...) -> (*batch, ...)."""
        own = x.shape[2:]
        if not self.batch:
            return x.reshape(own)
        x = x.reshape(*(self.batch[d] for d in self.order), *own)
        rank = len(self.batch)
        inverse = sorted(range(rank), key=self.order.__getitem__)
        return x.permute(*inverse, *range(rank, rank + len(own)))
