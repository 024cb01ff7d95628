"""The few things that NumPy arrays and tensors spell differently, for kernels that are written once and run on both.

NumPy is the faster of the two where arrays are small: a call costs a fifth. All else goes through `namespace(x)`, which
is `numpy` or `torch`, by the names that the two share.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.lib import introspect
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any] | Tensor
# Values up to which functions are left to NumPy, where it has a vector form of them and where not. torch is faster, but
# its MKL wakes a second thread even for a hundred values, which then spins for some 7 ms: on two hyperthreads all that
# follows takes 1.5 times as long.
FEW_VALUES = {True: 2**16, False: 2**12}
# values of which it is worth knowing whether exp underflows; arguments from which on it is quick, and not 0
MANY_VALUES, LOWEST, VANISHING = 4096, -700.0, -746.0
# states up to which LAPACK and products by NumPy stay in one thread; beyond, theirs would wait for work beside torch's
MOST_STATES_OF_NUMPY = 64
# multiplications in one that OpenBLAS leaves to one thread: interface/gemm.c, and as measured
MOST_OF_ONE_THREAD, MOST_OF_ONE_THREAD_COMPLEX = 2**18, 2**16
MOST_SCRATCH = 2**22  # bytes that a thread keeps
_OF_THREAD = threading.local()


def namespace(x: Array) -> Any:
    return torch if isinstance(x, Tensor) else np


def is_complex(x: Array) -> bool:
    return x.is_complex() if isinstance(x, Tensor) else x.dtype.kind == "c"


def conj(x: Any) -> Any:
    """The conjugate, physically: torch's lazy one is lost beneath dispatch modes."""
    if not is_complex(x):
        return x
    return x.conj_physical() if isinstance(x, Tensor) else x.conj()


def real(x: Any) -> Any:
    return x.real if is_complex(x) else x


@lru_cache
def _few_values(name: str) -> int:
    known = introspect.opt_func_info(func_name=f"^{name}$", signature="float64")
    forms = [form["current"] for by_types in known.values() for form in by_types.values()]
    return FEW_VALUES[bool(forms) and not any("baseline" in form for form in forms)]


def elementwise(name: str, x: Any, out: Any) -> Any:
    """exp, sin or cos of float64 into `out`."""
    if isinstance(x, Tensor):
        return getattr(torch, name)(x, out=out)
    if x.size <= _few_values(name) or not x.dtype == out.dtype == np.float64:
        return getattr(np, name)(x, out=out)
    getattr(torch, name)(torch.from_numpy(x), out=torch.from_numpy(out))
    return out


def polar(size: Any, omega: Any, t: Any, sine: Any) -> None:
    """size cos(omega t) in place of size, size sin(omega t) into sine.

    NumPy has no vector form of sine and cosine of float64, but of the tangent: with u = tan(omega t / 2) they are
    2 / (1 + u^2) - 1 and 2 u / (1 + u^2), to 2 units of rounding.
    """
    if isinstance(size, Tensor) or size.size > _few_values("tan"):
        xp, angle = namespace(size), omega * t
        xp.multiply(elementwise("sin", angle, sine), size, out=sine)
        xp.multiply(elementwise("cos", angle, angle), size, out=size)
        return
    u = (0.5 * omega) * t
    np.tan(u, out=u)
    np.multiply(u, u, out=sine)
    sine += 1.0
    np.divide(size, sine, out=sine)
    sine *= 2.0
    np.subtract(sine, size, out=size)
    sine *= u


def exponential(x: Any) -> Any:
    """exp of float64, in place. Where it underflows processors take some forty times as long, so not there."""
    if isinstance(x, Tensor) and not x.is_cpu:
        return x.exp_()
    values = as_array(x)
    if values.size < MANY_VALUES or np.minimum.reduce(values, axis=None) >= LOWEST:
        return elementwise("exp", x, x)
    low = values < LOWEST
    among = np.unravel_index((low & (values > VANISHING)).reshape(-1).nonzero()[0], values.shape)
    late = np.exp(values[among])
    np.maximum(values, LOWEST, out=values)
    elementwise("exp", x, x)
    values *= ~low
    values[among] = late
    return x


def product(a: Any, b: Any) -> Any:
    """a @ b. Large products of arrays, and many of them, go through torch: the threads of NumPy's BLAS would wait for
    work beside torch's, each for the other, and it takes batches one at a time.
    """
    if isinstance(a, Tensor):
        return a @ b
    work, n_products = a.shape[-2] * a.shape[-1] * b.shape[-1], a.size // (a.shape[-2] * a.shape[-1])
    if work * n_products <= MOST_OF_ONE_THREAD_COMPLEX:
        return a @ b
    if n_products == 1 and work <= MOST_OF_ONE_THREAD and not (is_complex(a) or is_complex(b)):
        return a @ b
    dtype = np.result_type(a, b)
    return (_shared(a.astype(dtype, copy=False)) @ _shared(b.astype(dtype, copy=False))).numpy()


def products(a: NDArray[Any], b: NDArray[Any], out: Any = None) -> Any:
    """a @ b for stacks of small arrays, which NumPy does in one thread; of larger ones through torch, as `product`."""
    limit = MOST_OF_ONE_THREAD_COMPLEX if "c" in (a.dtype.kind, b.dtype.kind) else MOST_OF_ONE_THREAD
    if a.shape[-2] * a.shape[-1] * b.shape[-1] <= limit:
        return np.matmul(a, b, out=out)
    dtype = np.result_type(a, b)
    left, right = (_shared(x.astype(dtype, copy=False)) for x in (a, b))
    if out is None:
        return (left @ right).numpy()
    if out.size == out.shape[-2] * out.shape[-1]:  # one product
        rows, columns, result = (x.reshape(x.shape[-2:]) for x in (left, right, torch.from_numpy(out)))
        torch.mm(rows, columns, out=result)
    else:
        out[:] = (left @ right).numpy()
    return out


def _shared(x: NDArray[Any]) -> Tensor:
    """As a tensor of the same memory that is only read, which torch has no notion of."""
    return torch.from_numpy(x if x.flags.writeable else x.copy())


def as_type(x: Any, like: Any) -> Any:
    """x in the dtype of `like`."""
    return x.to(like.dtype) if isinstance(x, Tensor) else x.astype(like.dtype, copy=False)


def empty(shape: tuple[int, ...], like: Array) -> Any:
    return like.new_empty(shape) if isinstance(like, Tensor) else np.empty(shape, like.dtype)


def empty_rows(S: int, R: int, k: int, T: int, like: Array) -> Any:
    """(S, R, k, T); of one system it holds a row of all trajectories together, so that passes over rows are long."""
    return empty((1, k, R, T), like).swapaxes(1, 2) if S == 1 else empty((S, R, k, T), like)


def scratch(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array that is good until the next call in this thread: new memory of the system takes longer than a pass."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > MOST_SCRATCH:
        return np.empty(shape, dtype)
    known: NDArray[Any] | None = getattr(_OF_THREAD, "scratch", None)
    if known is None or known.size < size:
        known = _OF_THREAD.scratch = np.empty(size, np.uint8)
    return known[:size].view(dtype).reshape(shape)


def nonzero(x: Any) -> Any:
    """Indices, a dimension at a time."""
    return x.nonzero(as_tuple=True) if isinstance(x, Tensor) else x.nonzero()


def copy(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x.copy()


def split(x: Any, size: int, axis: int) -> list[Any]:
    """Parts of `size` along an axis, the last one shorter."""
    starts = range(0, x.shape[axis], size)
    return [x[(slice(None),) * axis + (slice(i, i + size),)] for i in starts]


def amax(x: Any, axis: Any = None) -> Any:
    """The largest values along axes; NumPy's own function wraps this in some Python."""
    return x.amax(() if axis is None else axis) if isinstance(x, Tensor) else np.maximum.reduce(x, axis=axis)


def amin(x: Any, axis: Any) -> Any:
    """The smallest, as `amax`."""
    return x.amin(axis) if isinstance(x, Tensor) else np.minimum.reduce(x, axis=axis)


def largest(x: Any) -> float:
    """max |x|, NaN where there is one."""
    return float(amax(abs(x)))


def one_norm(A: Any) -> Any:
    """|A|_1 (S,) of A (S, n, n)."""
    return amax(abs(A).sum(-2), -1)


def of_kind(x: Any, like: Array) -> Any:
    """x as a tensor or as an array, as `like` is and where it is; of the same memory on the CPU."""
    if isinstance(x, Tensor) == isinstance(like, Tensor):
        return x
    return as_array(x) if isinstance(x, Tensor) else torch.from_numpy(x).to(like.device)


def as_array(x: Any) -> NDArray[Any]:
    """An array as it is, a tensor as one; of memory that is shared where it is on the CPU."""
    return x.numpy(force=True) if isinstance(x, Tensor) else x


def as_host(x: Tensor) -> NDArray[Any]:
    """A tensor as float64 or complex128 array; of memory that is shared where nothing has to change."""
    array = as_array(x)
    return array if array.dtype.char in "dD" else array.astype("c16" if array.dtype.kind == "c" else "f8")


def is_repeated(x: Any) -> bool:
    """By expand(): the same memory along the first dimension."""
    return (x.stride(0) if isinstance(x, Tensor) else x.strides[0]) == 0


def distinct(x: Any) -> Any:
    """Without what expand() repeats along the first two dimensions."""
    strides = x.stride() if isinstance(x, Tensor) else x.strides
    return x[tuple(slice(1) if stride == 0 else slice(None) for stride in strides[:2])]


def as_tensor(x: Array) -> Tensor:
    """x, or a copy of it that may be written to."""
    return x if isinstance(x, Tensor) else torch.tensor(x)


def as_tensor_of(x: Array, like: Tensor) -> Tensor:
    """As a contiguous tensor in the dtype of `like`."""
    if not isinstance(x, Tensor):
        x = torch.from_numpy(np.ascontiguousarray(x))
    elif not x.is_contiguous():
        x = x.contiguous()
    return x if x.dtype == like.dtype else x.to(like.dtype)


def summed(x: Any, shape: torch.Size) -> Any:
    """The sum over what broadcasting `shape` to that of x repeats."""
    if x.shape == tuple(shape):
        return x
    lead = x.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, size in enumerate(shape) if size == 1 and x.shape[lead + i] > 1)
    return x.sum(axes).reshape(tuple(shape)) if axes else x


def take(x: Any, index: Any, axis: int) -> Any:
    """Entries along an axis, by an index of the same rank."""
    return torch.take_along_dim(x, index, axis) if isinstance(x, Tensor) else np.take_along_axis(x, index, axis)


def expand(x: Any, shape: tuple[int, ...]) -> Any:
    return x.expand(shape) if isinstance(x, Tensor) else np.broadcast_to(x, shape)


def permute(x: Any, axes: tuple[int, ...]) -> Any:
    return x.permute(axes) if isinstance(x, Tensor) else x.transpose(axes)
