"""Sparse Xi through the surface: what is read, layouts of gradients, batches, times, inputs, errors, statuses.

Methods are tested elsewhere. Here answers are compared with those of the same matrix as a dense one, which are tested
against ball arithmetic, and with ball arithmetic itself.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

import linode
from linode import LinearODE, SparseMatrix
from linode.engine import progress
from linode.engine.progress import Progress
from linode.methods import Faber
from tests import large_truth, oracles
from tests.documents import ROOT
from tests.large_stand_in import Formed

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*beta state.*", "ignore:.*invariant checks.*", "ignore:.*torch.jit.script.*"
)
N, CLOSE = 7, 1e-9
T = torch.tensor([0.0, 1.0, -0.5, 2.0, 1.0], dtype=torch.float64)


def matrix(n: int = N, seed: int = 0, is_complex: bool = False) -> np.ndarray:
    """A third of the entries, some of the rows empty."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.35)
    A[n // 2] = 0
    return A * (1 + 0.5j) if is_complex else A


A = matrix()
PLACES = np.stack(np.nonzero(A))


def as_coo(values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(torch.from_numpy(PLACES), values, A.shape, check_invariants=False)


def compressed(Xi: scipy.sparse.csr_array, layout: str, index: torch.dtype = torch.int64) -> Tensor:
    make = {"csr": torch.sparse_csr_tensor, "csc": torch.sparse_csc_tensor}[layout]
    own = Xi if layout == "csr" else Xi.tocsc()
    pointers, inner = (torch.from_numpy(x).to(index) for x in (own.indptr, own.indices))
    return make(pointers, inner, torch.from_numpy(own.data), Xi.shape, check_invariants=False)


LAYOUTS: dict[str, Callable[[np.ndarray], Tensor]] = {
    "csr": lambda A: compressed(scipy.sparse.csr_array(A), "csr"),
    "csr, int32": lambda A: compressed(scipy.sparse.csr_array(A), "csr", torch.int32),
    "csc": lambda A: compressed(scipy.sparse.csr_array(A), "csc"),
    "coo": lambda A: torch.from_numpy(A).to_sparse_coo(),
}
METHODS = {"auto": "auto", "faber": Faber()}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_method = pytest.mark.parametrize("method", METHODS)


def start(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


def distance(x: Any, y: Any) -> float:
    x, y = (torch.as_tensor(a).detach() for a in (x, y))
    assert x.shape == y.shape
    return float(torch.linalg.vector_norm(x - y) / max(float(torch.linalg.vector_norm(y)), 1e-300))


def loss(z: Tensor) -> Tensor:
    g = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(2))
    return (g.conj() * z).sum().real


# ---- what is read ----------------------------------------------------------------------------------------------------

FORMATS = ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("form", FORMATS)
@every_method
def test_every_format_of_scipy_gives_the_states_of_the_dense_matrix_as_an_array(form: str, kind: str, method: str):
    Xi = getattr(scipy.sparse, f"{form}_{kind}")(A)
    z0 = np.linspace(1, 2, N)
    z = LinearODE(Xi, z0, method=METHODS[method])(T.numpy())
    assert isinstance(z, np.ndarray)
    assert distance(z, oracles.trajectory(A, z0, T.numpy())) < CLOSE


@every_layout
@every_method
def test_states_and_gradients_of_every_layout_of_torch_are_those_of_ball_arithmetic(layout: str, method: str):
    Xi, z0, t = LAYOUTS[layout](A).requires_grad_(), start(N), T.clone().requires_grad_()
    z = LinearODE(Xi, z0, method=METHODS[method])(t)
    g = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(2))
    (g * z).sum().backward()
    true = oracles.gradients(A, z0.detach().numpy(), T.numpy(), g.numpy())
    assert distance(z, oracles.trajectory(A, z0.detach().numpy(), T.numpy())) < CLOSE
    assert Xi.grad is not None
    assert Xi.grad.layout == Xi.layout
    assert Xi.grad._nnz() == Xi._nnz()
    assert distance(Xi.grad.to_dense(), np.where(A != 0, true.S, 0)) < CLOSE
    assert distance(z0.grad, true.a) < CLOSE
    assert distance(t.grad, true.dt) < CLOSE


@every_layout
def test_gradients_add_up_over_calls_and_can_be_asked_for_alone(layout: str):
    Xi, z0 = LAYOUTS[layout](A).requires_grad_(), torch.ones(N, dtype=torch.float64)
    (once,) = torch.autograd.grad(LinearODE(Xi, z0)(T).sum(), Xi)
    assert Xi.grad is None
    for _ in range(2):
        LinearODE(Xi, z0)(T).sum().backward()
    assert once.layout == Xi.layout == Xi.grad.layout
    assert distance(Xi.grad.to_dense(), 2 * once.to_dense()) < 1e-15


@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
@every_method
def test_values_that_a_sparse_tensor_was_built_of_get_gradients_of_their_shape(layout: str, method: str):
    own = scipy.sparse.csr_array(A) if layout != "csc" else scipy.sparse.csc_array(A)
    values = torch.tensor(own.data).requires_grad_()
    if layout == "coo":
        index = np.stack([np.repeat(np.arange(N), np.diff(own.indptr)), own.indices])
        Xi = torch.sparse_coo_tensor(torch.from_numpy(index), values, A.shape, check_invariants=False)
    else:
        make = torch.sparse_csr_tensor if layout == "csr" else torch.sparse_csc_tensor
        Xi = make(torch.from_numpy(own.indptr), torch.from_numpy(own.indices), values, A.shape, check_invariants=False)
    dense = torch.tensor(A, requires_grad=True)
    z0 = torch.ones(N, dtype=torch.float64)
    loss(LinearODE(dense, z0)(T)).backward()
    loss(LinearODE(Xi, z0, method=METHODS[method])(T)).backward()
    assert values.grad.shape == values.shape
    found = type(own)((values.grad.numpy(), own.indices, own.indptr), shape=A.shape).toarray()
    assert distance(found, np.where(A != 0, dense.grad, 0)) < CLOSE


@every_method
def test_duplicates_in_coo_add_up_and_their_gradient_is_coalesced(method: str):
    index = torch.tensor([[0, 1, 0, 2, 1], [1, 0, 1, 2, 0]])
    values = torch.tensor([1.0, 2.0, 0.5, -1.0, -3.0], dtype=torch.float64)
    Xi = torch.sparse_coo_tensor(index, values, (3, 3), check_invariants=False).requires_grad_()
    dense = Xi.detach().to_dense().requires_grad_()
    z0 = torch.ones(3, dtype=torch.float64)
    z, true = LinearODE(Xi, z0, method=METHODS[method])(T), LinearODE(dense, z0)(T)
    assert distance(z, true) < CLOSE
    loss(z).backward()
    loss(true).backward()
    assert Xi.grad._nnz() == 3
    assert distance(Xi.grad.to_dense(), torch.where(dense.detach() != 0, dense.grad, 0)) < CLOSE
    with torch.no_grad():  # a step of an optimiser then moves each entry once
        Xi.add_(Xi.grad, alpha=-0.1)
    moved = dense.detach() - 0.1 * torch.where(dense.detach() != 0, dense.grad, 0)
    assert distance(Xi.detach().to_dense(), moved) < CLOSE


def test_values_of_a_sparse_matrix_at_one_place_add_up_and_each_gets_the_gradient_of_the_place():
    values = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    z0 = torch.ones(2, dtype=torch.float64)
    z = LinearODE(SparseMatrix(values, [[1, 0, 1], [0, 1, 0]], 2), z0)(T)
    dense = torch.tensor([[0.0, 2.0], [1.5, 0.0]], dtype=torch.float64, requires_grad=True)
    true = LinearODE(dense, z0)(T)
    assert distance(z, true) < 1e-14
    loss(z).backward()
    loss(true).backward()
    assert distance(values.grad, dense.grad[[1, 0, 1], [0, 1, 0]]) < 1e-13


def test_unsorted_indices_are_read_as_they_are():
    own = scipy.sparse.csr_array(A)
    indices, data = own.indices.copy(), own.data.copy()
    for low, high in zip(own.indptr[:-1], own.indptr[1:]):
        indices[low:high], data[low:high] = indices[low:high][::-1].copy(), data[low:high][::-1].copy()
    own = scipy.sparse.csr_array((data, indices, own.indptr), shape=A.shape)
    z0 = torch.ones(N, dtype=torch.float64)
    true = torch.tensor(A, requires_grad=True)
    loss(LinearODE(true, z0)(T)).backward()
    Xi = compressed(own, "csr").requires_grad_()
    z = LinearODE(Xi, z0)(T)
    loss(z).backward()
    assert distance(z, LinearODE(true, z0)(T)) < 1e-14
    assert torch.equal(Xi.grad.col_indices(), Xi.col_indices())
    assert distance(Xi.grad.to_dense(), np.where(A != 0, true.grad, 0)) < 1e-13


@every_method
def test_explicit_zeros_are_entries_with_gradients(method: str):
    places = torch.tensor([[0, 0, 1], [0, 1, 1]])
    values = torch.tensor([-1.0, 0.0, -2.0], dtype=torch.float64, requires_grad=True)
    z0 = torch.ones(2, dtype=torch.float64)
    loss(LinearODE(SparseMatrix(values, places, 2), z0, method=METHODS[method])(T)).backward()
    dense = torch.tensor([[-1.0, 0.0], [0.0, -2.0]], dtype=torch.float64, requires_grad=True)
    loss(LinearODE(dense, z0)(T)).backward()
    assert values.grad[1] != 0
    assert distance(values.grad, dense.grad[places[0], places[1]]) < CLOSE


@pytest.mark.parametrize("n", [1, 3, 300])
def test_a_matrix_without_entries_keeps_the_state(n: int):
    z0 = start(n)
    values = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    z = LinearODE(SparseMatrix(values, np.zeros((2, 0), int), n), z0)(T)
    assert distance(z, z0.detach().expand(len(T), n)) < 1e-15
    z.sum().backward()
    assert values.grad.shape == (0,)
    assert distance(z0.grad, torch.full((n,), float(len(T)), dtype=torch.float64)) < 1e-15


@every_method
def test_one_state(method: str):
    z = LinearODE(scipy.sparse.csr_array([[-2.0]]), [3.0], method=METHODS[method])([0.0, 1.0, -1.0])
    assert distance(z[:, 0], 3 * np.exp([0.0, -2.0, 2.0])) < CLOSE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@every_method
def test_dtypes_are_handed_back(dtype: torch.dtype, method: str):
    own = matrix(is_complex=dtype.is_complex)
    Xi = torch.from_numpy(own).to(dtype).to_sparse_csr().requires_grad_()
    z0 = torch.ones(N, dtype=dtype, requires_grad=True)
    z = LinearODE(Xi, z0, method=METHODS[method])(T)
    loss(z).backward()
    exact = Xi.detach().to_dense().to(torch.complex128 if dtype.is_complex else torch.float64).requires_grad_()
    true = LinearODE(exact, z0.detach().to(exact.dtype))(T)
    assert z.dtype == Xi.grad.dtype == z0.grad.dtype == dtype
    assert distance(z.to(true.dtype), true) < (1e-6 if dtype in (torch.float32, torch.complex64) else CLOSE)


def test_integers_become_what_the_state_is():
    Xi = torch.tensor([[0, 1], [-1, 0]]).to_sparse_csr()
    assert LinearODE(Xi, torch.ones(2)).dtype == torch.float32
    assert LinearODE(Xi, torch.ones(2))(1.0).dtype == torch.float32
    assert LinearODE(scipy.sparse.csr_array([[0, 1], [-1, 0]]), [1, 0])(1.0).dtype == np.float64


@pytest.mark.parametrize("name", ["float32", "complex64", "longdouble", "bool", "int8"])
def test_numbers_of_scipy_are_read_or_refused_by_name(name: str):
    Xi = scipy.sparse.csr_array(np.eye(3).astype(name))
    if name == "longdouble":
        with pytest.raises(linode.DtypeError, match="Xi"):
            LinearODE(Xi, np.ones(3))
    else:
        assert distance(LinearODE(Xi, np.ones(3, np.float32))(1.0), np.full(3, np.e)) < 1e-6


def test_values_changed_in_place_are_seen_by_the_next_call():
    values = torch.tensor(A[tuple(PLACES)])
    for Xi in (SparseMatrix(values, PLACES, N), LAYOUTS["csr"](A), LAYOUTS["coo"](A)):
        own = (
            Xi.values
            if isinstance(Xi, SparseMatrix)
            else Xi._values()
            if Xi.layout == torch.sparse_coo
            else Xi.values()
        )
        for method in METHODS.values():
            ode = LinearODE(Xi, torch.ones(N, dtype=torch.float64), method=method)
            ode(T)
            own.mul_(2.0)
            assert distance(ode(T), oracles.trajectory(2 * A, np.ones(N), T.numpy())) < CLOSE
            own.mul_(0.5)


def test_an_optimiser_changes_a_sparse_parameter():
    Xi = LAYOUTS["csr"](-np.eye(2)).requires_grad_()
    z0, goal = torch.ones(2, dtype=torch.float64), torch.tensor([np.exp(-2.0), np.exp(-0.5)])
    optimiser = torch.optim.SGD([Xi], lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        (LinearODE(Xi, z0)(1.0) - goal).square().sum().backward()
        optimiser.step()
    assert distance(Xi.detach().values(), torch.tensor([-2.0, -0.5], dtype=torch.float64)) < 1e-3


# ---- batches, times, inputs ------------------------------------------------------------------------------------------


def compared(make: Callable[..., LinearODE], leaves: list[Tensor], t: Tensor, method: Any, is_complex: bool = False):
    """States and gradients of a sparse Xi and of the same one as a dense matrix agree."""
    own = matrix(is_complex=is_complex)
    values = torch.tensor(own[tuple(PLACES)], requires_grad=True)
    Xi, found = SparseMatrix(values, PLACES, N), []
    for x, chosen in ((Xi.to_dense(), "auto"), (Xi, method)):
        times = t.clone().requires_grad_()
        z = make(x, chosen)(times)
        grads = torch.autograd.grad(loss(z), [values, times, *leaves], allow_unused=True, retain_graph=True)
        found.append([z.detach(), *grads])
    true, own_found = found
    assert own_found[0].dtype == true[0].dtype
    for x, y in zip(own_found, true):
        assert (x is None) == (y is None)
        assert x is None or distance(x, y) < CLOSE


OWN_TIMES = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
BATCHES = {
    "z0": ((3, N), T),
    "own times": ((3, N), OWN_TIMES),
    "times alone": ((N,), OWN_TIMES),
    "both, crossed": ((4, 1, N), OWN_TIMES),
    "crossed the other way": ((3, 1, N), OWN_TIMES[None, :2]),
    "one of both": ((1, N), OWN_TIMES[:1]),
}


@pytest.mark.parametrize("batch", BATCHES)
@every_method
def test_batches_are_those_of_the_dense_solver(batch: str, method: str):
    shape, t = BATCHES[batch]
    z0 = start(*shape)
    compared(lambda Xi, m: LinearODE(Xi, z0, method=m), [z0], t, METHODS[method])


@pytest.mark.parametrize("batch", BATCHES)
def test_batches_of_constants(batch: str):
    shape, t = BATCHES[batch]
    z0, b = start(*shape), start(N)
    compared(lambda Xi, m: LinearODE(Xi, z0, b=b, method=m), [z0, b], t, Faber())
    other = start(3, N) if t.ndim > 1 and shape != (3, 1, N) else start(N)
    compared(lambda Xi, m: LinearODE(Xi, b, b=other, method=m), [b, other], t, Faber())


@pytest.mark.parametrize("shape", [(0, N), (2, 0, N)])
def test_empty_batches_and_no_times(shape: tuple[int, ...]):
    for method in METHODS.values():
        ode = LinearODE(scipy.sparse.csr_array(A), torch.ones(shape, dtype=torch.float64), method=method)
        assert ode(T).shape == (*shape[:-1], len(T), N)
        assert ode(T[:0]).shape == (*shape[:-1], 0, N)
        assert ode.solve(T).z.shape == (*shape[:-1], len(T), N)
    z0 = start(N)
    z = LinearODE(scipy.sparse.csr_array(A), z0, method=Faber())(T[:0])
    (a,) = torch.autograd.grad(z.sum(), z0)
    assert torch.equal(a, torch.zeros(N, dtype=torch.float64))


@every_method
def test_time_zero_gives_the_initial_state_to_the_last_bit(method: str):
    z0 = start(2, N)
    z = LinearODE(scipy.sparse.csr_array(A), z0, b=start(N), method=METHODS[method])(torch.tensor([0.0, -0.0, 1.0]))
    assert torch.equal(z[:, 0], z0)
    assert torch.equal(z[:, 1], z0)


def test_scalar_times_and_lists():
    ode = LinearODE(scipy.sparse.csr_array(A), np.ones(N), method=Faber())
    assert ode(1.0).shape == (N,)
    assert distance(ode(1.0), ode([1.0])[0]) == 0
    assert isinstance(ode(torch.tensor(1.0)), Tensor)


B_SHAPE, RATES = (N, 2), torch.tensor([1j, -0.5 + 0j, 0.0 + 0j], dtype=torch.complex128)
BREAKS = torch.tensor([-1.0, -0.3, 0.01, 0.55, 1.5], dtype=torch.float64)


def inputs(kind: str) -> tuple[Callable[[], linode.Input], list[Tensor]]:
    values, breaks = start(5, 2), BREAKS.clone().requires_grad_()
    waves = start(3, 2, dtype=torch.complex128)
    if kind == "harmonics":
        return lambda: linode.Harmonics(RATES, waves), [waves]
    if kind == "real harmonics":
        real = start(2, 2)
        return lambda: linode.Harmonics([-1.0, 0.0], real), [real]
    if kind == "sum":
        return (
            lambda: (
                linode.FirstOrderHold(breaks, values) + linode.Harmonics(RATES, waves) + linode.Impulses(breaks, values)
            ),
            [values, breaks, waves],
        )
    if kind == "function":
        w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        return lambda: linode.Smooth(lambda s: torch.stack([(w * s).sin(), s.cos()], -1), 2, n_panels=6), [w]
    make = {"zero": linode.ZeroOrderHold, "first": linode.FirstOrderHold, "impulses": linode.Impulses}[kind.split()[0]]
    if kind.endswith("batch"):
        values = start(3, 5, 2)
    return lambda: make(breaks, values), [values, breaks]


INPUTS = ("harmonics", "real harmonics", "zero", "first", "impulses", "zero batch", "first batch", "sum", "function")


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_and_all_their_gradients_are_those_of_the_dense_solver(kind: str, is_complex: bool):
    make, own = inputs(kind)
    z0, b, B = start(N), start(N), start(*B_SHAPE)
    t = OWN_TIMES if kind.endswith("batch") else T
    leaves = [z0, b, B, *own]
    compared(lambda Xi, m: LinearODE(Xi, z0, b=b, B=B, u=make(), method=m), leaves, t, Faber(), is_complex)


@pytest.mark.parametrize("kind", ["zero", "first", "sum", "harmonics"])
def test_inputs_over_many_steps(kind: str):
    make, own = inputs(kind)
    z0, b, B = start(N), start(N), start(*B_SHAPE)
    skew = (matrix(seed=3) - matrix(seed=3).T) * 60
    values = torch.tensor(skew[np.nonzero(skew)], requires_grad=True)
    Xi, found = SparseMatrix(values, np.stack(np.nonzero(skew)), N), []
    for x, method in ((Xi.to_dense(), "auto"), (Xi, Faber())):
        ode = LinearODE(x, z0, b=b, B=B, u=make(), method=method)
        t = torch.tensor([3.0, 40.0], dtype=torch.float64)
        found.append([ode(t).detach(), *torch.autograd.grad(loss(ode(t)), [values, z0, b, B, *own[:1]])])
        if method != "auto":
            assert ode.solve(t).stats.details["steps"] > 2
    for x, y in zip(*found):
        assert distance(x, y) < 1e-8


def test_rates_of_harmonics_have_no_gradient_and_say_so():
    u = linode.Harmonics(torch.tensor([-1.0], requires_grad=True), [[1.0]])
    with pytest.raises(linode.NotDifferentiableError, match="rates"):
        LinearODE(scipy.sparse.csr_array(A), np.ones(N), B=np.ones((N, 1)), u=u, method=Faber())(1.0)


def test_own_breaks_of_each_trajectory_are_refused_with_the_shape_needed():
    u = linode.ZeroOrderHold(np.array([[0.0, 1.0], [0.0, 2.0]]), np.ones((2, 2, 1)))
    with pytest.raises(linode.ShapeError, match=r"\(K,\)"):
        LinearODE(scipy.sparse.csr_array(A), np.ones(N), B=np.ones((N, 1)), u=u, method=Faber())(1.0)


# ---- derivatives -----------------------------------------------------------------------------------------------------


def states(values: Tensor, z0: Tensor, t: Tensor, method: Any = "auto") -> Tensor:
    return LinearODE(SparseMatrix(values, PLACES, N), z0, method=method)(t)


VALUES = torch.tensor(A[tuple(PLACES)])


@every_method
def test_gradcheck_in_both_modes(method: str):
    inputs = VALUES.clone().requires_grad_(), start(2, N), T[1:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *x: states(*x, method=METHODS[method]), inputs, check_forward_ad=True, check_batched_grad=False
    )


def test_second_derivatives_of_small_systems():
    inputs = VALUES.clone().requires_grad_(), start(N), T[1:3].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(states, inputs)


def test_second_derivatives_of_large_systems_are_refused_and_never_zero():
    values = VALUES.clone().requires_grad_()
    z0 = start(N)
    (first,) = torch.autograd.grad(states(values, z0, T, Faber()).square().sum(), values, create_graph=True)
    with pytest.raises(linode.NotDifferentiableError, match="second"):
        first.sum().backward()
    (first,) = torch.autograd.grad(states(values, z0, T, Faber()).square().sum(), z0, create_graph=True)
    with pytest.raises(linode.NotDifferentiableError, match="second"):
        first.sum().backward()
    for f in (torch.func.hessian, lambda f: torch.func.jacfwd(torch.func.jacfwd(f))):
        with pytest.raises(linode.NotDifferentiableError):
            f(lambda v: states(v, z0.detach(), T, Faber()).sum())(VALUES)


@every_layout
@every_method
def test_second_derivatives_through_sparse_tensors_of_torch_are_refused_and_never_zero(layout: str, method: str):
    z0 = start(N)
    Xi = LAYOUTS[layout](A).requires_grad_()
    z = LinearODE(Xi, z0, method=METHODS[method])(T)
    with pytest.raises(linode.NotDifferentiableError, match="SparseMatrix"):
        torch.autograd.grad(z.square().sum(), Xi, create_graph=True)
    values = VALUES.clone().requires_grad_()
    z = LinearODE(as_coo(values), z0, method=METHODS[method])(T)
    with pytest.raises(linode.NotDifferentiableError, match="SparseMatrix"):
        torch.autograd.grad(z.square().sum(), values, create_graph=True)


def test_transforms_of_torch_func():
    z0 = start(N).detach()
    true = torch.func.jacrev(lambda v: states(v, z0, T))(VALUES)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        assert distance(jacobian(lambda v: states(v, z0, T, Faber()))(VALUES), true) < CLOSE
    batch, scales = start(3, N).detach(), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    found = torch.func.vmap(lambda z, s: states(VALUES, z, T * s, Faber()))(batch, scales)
    assert distance(found, torch.stack([states(VALUES, z, T * s) for z, s in zip(batch, scales)])) < CLOSE
    found = torch.func.vmap(lambda v: states(v, z0, T, Faber()))(torch.stack([VALUES, 2 * VALUES]))
    assert distance(found, torch.stack([states(VALUES, z0, T), states(2 * VALUES, z0, T)])) < CLOSE
    each = torch.func.vmap(torch.func.grad(lambda z: states(VALUES, z, T, Faber()).square().sum()))(batch)
    assert distance(each[1], torch.func.grad(lambda z: states(VALUES, z, T).square().sum())(batch[1])) < CLOSE


def test_batched_cotangents_of_autograd_are_refused():
    z0 = start(N)
    z = states(VALUES, z0, T, Faber())
    with pytest.raises(linode.NotDifferentiableError, match=r"func\.jacrev"):
        torch.autograd.grad(z, z0, torch.ones(2, *z.shape, dtype=z.dtype), is_grads_batched=True)


def test_a_changed_tensor_is_noticed_in_backward():
    z0 = start(N)
    z = states(VALUES, z0, T, Faber())
    with torch.no_grad():
        z0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_backward_twice_gives_the_same():
    z0 = start(N)
    total = states(VALUES, z0, T, Faber()).square().sum()
    (first,) = torch.autograd.grad(total, z0, retain_graph=True)
    (second,) = torch.autograd.grad(total, z0)
    assert torch.equal(first, second)


# ---- the rest of the surface -----------------------------------------------------------------------------------------


def diffusion(n: int = 400) -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array(scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)))


def test_solve_says_what_was_done():
    ode = LinearODE(diffusion(), np.ones(400))
    solution = ode.solve([1.0, 2.0])
    assert solution.method == "faber"
    assert bool(solution.status)
    assert np.array_equal(solution.z, ode([1.0, 2.0]))
    assert 0 < float(solution.error_estimate) < 1e-8
    assert solution.stats.n == 400
    assert solution.stats.details["n_products"] > 0
    again = LinearODE(diffusion(), np.ones(400)).solve([1.0, 2.0])
    assert again.stats == solution.stats
    assert 1 < float(solution.condition) < 100
    assert pickle.loads(pickle.dumps(solution)).method == "faber"


def test_explain_names_the_method_and_the_region():
    text = LinearODE(diffusion(), np.ones(400)).explain([1.0])
    for words in ("400 x 400", "1198 entries", "faber", "Hermitian", "n_products", "condition", "status: OK"):
        assert words in text
    assert "faber" in LinearODE(diffusion(), np.ones(400)).explain()
    assert "dense" in LinearODE(scipy.sparse.csr_array(A), np.ones(N)).explain([1.0])


def test_condition_is_with_respect_to_the_entries_on_the_pattern():
    small = scipy.sparse.csr_array(A)
    z0 = np.linspace(1, 2, N)
    J = torch.func.jacrev(lambda v: states(v, torch.from_numpy(z0), T))(VALUES).reshape(-1, len(VALUES))
    z = LinearODE(small, z0)(T)
    true = float(torch.linalg.matrix_norm(J, 2) * VALUES.norm() / z.norm())
    for method in METHODS.values():
        found = float(LinearODE(small, z0, method=method).condition(T))
        assert 0.9 * true < found < 1.01 * true
        both = LinearODE(small, np.stack([z0, z0[::-1]]), method=method).condition(T)
        assert both.shape == (2,)
        assert 0.9 * true < float(both[0]) < 1.01 * true


def test_small_systems_have_all_of_the_dense_surface():
    ode = LinearODE(scipy.sparse.csr_array(A), np.ones(N))
    dense = LinearODE(A, np.ones(N))
    assert np.array_equal(ode.propagator([1.0]), dense.propagator([1.0]))
    assert ode.decomposition.method == dense.decomposition.method
    assert np.array_equal(ode.to_statespace().A, A)
    assert distance(LinearODE(scipy.sparse.csr_array(A), np.ones(N), method="propagator")([1.0]), dense([1.0])) < 1e-13


def test_what_needs_a_dense_matrix_is_refused_with_what_to_do_instead():
    ode = LinearODE(diffusion(), np.ones(400))
    for call, words in (
        (lambda: ode.propagator(1.0), "columns"),
        (ode.to_statespace, "to_dense"),
        (ode.plot_phase, "to_dense"),
        (ode.plot_eigenvalues, "eigs"),
    ):
        with pytest.raises(linode.MethodError, match=words):
            call()


@pytest.mark.parametrize("name", ["eig", "taylor", "propagator", "schur", "chain", "metzler"])
def test_methods_for_dense_matrices_are_refused_by_name(name: str):
    with pytest.raises(linode.MethodError, match=f"{name}.*dense.*faber"):
        LinearODE(diffusion(), np.ones(400), method=name)


def test_methods_for_sparse_matrices_are_refused_for_dense_ones():
    for method in ("faber", Faber()):
        with pytest.raises(linode.MethodError, match=r"faber.*sparse"):
            LinearODE(np.eye(3), np.ones(3), method=method)
    with pytest.raises(linode.MethodError, match="unknown"):
        LinearODE(diffusion(), np.ones(400), method="krylov")


def test_expm_multiply_and_odeint():
    small, v = scipy.sparse.csr_array(A), np.linspace(1, 2, 2 * N).reshape(N, 2)
    for Xi in (small, LAYOUTS["csr"](A)):
        found, true = linode.expm_multiply(Xi, v, T.numpy()), linode.expm_multiply(A, v, T.numpy())
        assert isinstance(found, np.ndarray) == (Xi is small)
        assert distance(found, true) < 1e-13
        assert distance(linode.expm_multiply(Xi, v[:, 0]), linode.expm_multiply(A, v[:, 0])) < 1e-13
        assert distance(linode.expm_multiply(Xi, v, 2.0), linode.expm_multiply(A, v, 2.0)) < 1e-13
        t = [5.0, 6.0, 4.5]
        assert distance(linode.odeint(Xi, v.T, t), linode.odeint(A, v.T, t)) < 1e-13
    with pytest.raises(linode.ShapeError, match="v has shape"):
        linode.expm_multiply(small, np.ones((N + 1, 2)))


@pytest.mark.parametrize("trouble", ["REGION", "DECAY", "NOT_CONVERGED"])
def test_trouble_of_a_method_is_a_status_with_advice_and_a_warning(trouble: str):
    ode = LinearODE(scipy.sparse.csr_array(A), np.ones(N), method=Formed(trouble))
    solution = ode.solve([1.0])
    assert solution.status is linode.Status[trouble]
    assert not solution.status
    assert len(str(solution.status)) > 80
    with pytest.warns(linode.InaccurateWarning, match=trouble):
        ode([1.0])


def test_growth_past_the_largest_float_is_a_status():
    Xi = SparseMatrix(np.full(300, 10.0), np.stack([np.arange(300)] * 2), 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert LinearODE(Xi, np.ones(300)).solve([200.0]).status is linode.Status.OVERFLOW


# ---- errors ----------------------------------------------------------------------------------------------------------

EYE = torch.eye(3)
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "not square": (lambda: LinearODE(scipy.sparse.csr_array((3, 4)), np.ones(4)), linode.ShapeError, r"\(3, 4\)"),
    "empty": (lambda: LinearODE(scipy.sparse.csr_array((0, 0)), np.ones(0)), linode.ShapeError, r"\(0, 0\)"),
    "one dimension": (lambda: LinearODE(scipy.sparse.coo_array(np.ones(4)), np.ones(4)), linode.ShapeError, r"\(4,\)"),
    "batch": (lambda: LinearODE(EYE.expand(2, 3, 3).to_sparse(), torch.ones(3)), linode.ShapeError, "one at a time"),
    "batch of csr": (
        lambda: LinearODE(EYE.expand(2, 3, 3).contiguous().to_sparse_csr(), torch.ones(3)),
        linode.ShapeError,
        "block_diag",
    ),
    "list": (lambda: LinearODE([scipy.sparse.eye_array(3)] * 2, np.ones(3)), linode.ShapeError, "list of sparse"),
    "list of tensors": (lambda: LinearODE([EYE.to_sparse()] * 2, torch.ones(3)), linode.ShapeError, "list of sparse"),
    "blocks": (
        lambda: LinearODE(torch.eye(4).to_sparse_bsr((2, 2)), torch.ones(4)),
        linode.DtypeError,
        "to_sparse_csr",
    ),
    "hybrid": (lambda: LinearODE(torch.ones(3, 3, 2).to_sparse(2), torch.ones(3)), linode.DtypeError, "hybrid"),
    "nan": (lambda: LinearODE(scipy.sparse.csr_array([[np.nan]]), np.ones(1)), linode.NonFiniteError, "Xi"),
    "row": (lambda: LinearODE(SparseMatrix([1.0], [[3], [0]], 3), np.ones(3)), linode.ShapeError, "row index 3"),
    "column of coo": (
        lambda: LinearODE(torch.sparse_coo_tensor([[0], [5]], [1.0], (3, 3), check_invariants=False), torch.ones(3)),
        linode.ShapeError,
        "column index 5",
    ),
    "column of csr": (
        lambda: LinearODE(
            torch.sparse_csr_tensor([0, 1, 1, 1], [-7], [1.0], (3, 3), check_invariants=False), torch.ones(3)
        ),
        linode.ShapeError,
        "column index -7",
    ),
    "pointers": (
        lambda: LinearODE(
            torch.sparse_csr_tensor([0, 1, 0, 1], [1], [1.0], (3, 3), check_invariants=False), torch.ones(3)
        ),
        linode.ShapeError,
        "pointers",
    ),
    "z0": (lambda: LinearODE(scipy.sparse.eye_array(3), np.ones(4)), linode.ShapeError, "z0 has last size 4"),
    "scalar z0": (lambda: LinearODE(scipy.sparse.eye_array(3), 1.0), linode.ShapeError, "z0 is a scalar"),
    "z0 is nan": (lambda: LinearODE(scipy.sparse.eye_array(3), [1.0, np.nan, 1.0]), linode.NonFiniteError, "z0"),
    "b": (lambda: LinearODE(scipy.sparse.eye_array(3), np.ones(3), b=np.ones(2)), linode.ShapeError, "b has shape"),
    "rtol": (lambda: LinearODE(scipy.sparse.eye_array(3), np.ones(3), rtol=2.0), linode.OptionError, "rtol"),
    "t": (lambda: LinearODE(scipy.sparse.eye_array(300), np.ones(300))([np.nan]), linode.NonFiniteError, "t"),
    "batch of t": (
        lambda: LinearODE(scipy.sparse.eye_array(300), np.ones((3, 300)))(np.ones((2, 1))),
        linode.ShapeError,
        "broadcast",
    ),
    "values": (lambda: SparseMatrix([1.0, 2.0], [[0], [0]], 1), linode.ShapeError, "values has shape"),
    "indices": (lambda: SparseMatrix([1.0], [[0.5], [0.0]], 1), linode.ShapeError, "indices must be integers"),
    "n": (lambda: SparseMatrix([1.0], [[0], [0]], 0), linode.OptionError, "n must be"),
    "device": (lambda: LinearODE(EYE.to_sparse_csr(), torch.ones(3, device="meta")), linode.DeviceError, "meta"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_by_name(case: str):
    call, error, words = BAD[case]
    with pytest.raises(error, match=words) as found:
        call()
    assert isinstance(found.value, linode.LinodeError)


# ---- around ----------------------------------------------------------------------------------------------------------


def test_solvers_are_copied_and_pickled():
    for Xi in (scipy.sparse.csr_array(A), LAYOUTS["coo"](A), diffusion(), SparseMatrix(VALUES, PLACES, N)):
        ode = LinearODE(Xi, np.ones(Xi.shape[0]))
        z = ode([1.0])
        assert type(ode).__name__ == "SparseLinearODE"
        for other in (copy.deepcopy(ode), pickle.loads(pickle.dumps(ode))):
            assert distance(other([1.0]), z) == 0
    assert type(LinearODE(A, np.ones(N))) is LinearODE


def test_dense_solvers_import_nothing_for_large_ones():
    script = (
        "import sys, linode\n"
        "ode = linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0])\n"
        "ode.solve([1.0]), linode.expm([[1.0]]), linode.expm_multiply([[1.0]], [1.0])\n"
        "late = ('linode.large', 'linode.operators', 'linode.sparse_ode', 'linode.engine.large', 'scipy.sparse')\n"
        "found = [name for name in sys.modules if name.startswith(late)]\n"
        "assert not found, found\n"
        "assert linode.methods.Faber().name == 'faber'\n"
        "assert 'faber' in linode.methods.large_registry()\n"
        "assert {'Operator', 'SparseMatrix'} <= set(dir(linode)) and 'Faber' in dir(linode.methods)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_progress_is_shown_in_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch):
    shown: list[float] = []

    class Bar:
        def __init__(self, **options: Any) -> None:
            self.n = 0.0

        def update(self, amount: float) -> None:
            self.n += amount
            shown.append(self.n)

        def close(self) -> None:
            shown.append(-1.0)

    clock = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=Bar, __spec__=object()))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("sweep") as watch:
        assert watch is not None
        watch(0.1)
        assert shown == []
        clock[0] = 2.0
        watch(0.5)
        watch(0.75)
    assert shown == [0.5, 0.75, -1.0]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with Progress("sweep") as watch:
        assert watch is None


def test_an_interrupt_between_products_leaves_a_solver_that_works():
    calls = [0]

    def matvec(v: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 30:
            raise KeyboardInterrupt
        return v.roll(1, -1) - v

    ode = LinearODE(linode.Operator(matvec, 300, dissipative=True), torch.ones(300, dtype=torch.float64))
    with pytest.raises(KeyboardInterrupt):
        ode([50.0])
    assert distance(ode([50.0]), torch.ones(1, 300, dtype=torch.float64)) < 1e-9


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, of a broken graph
@pytest.mark.parametrize("n", [N, 300])
def test_torch_compile_runs_it_outside_of_the_graph(n: int):
    values = torch.randn(n, dtype=torch.float64, requires_grad=True)
    Xi = SparseMatrix(values, np.stack([np.arange(n)] * 2), n)
    z0 = torch.ones(n, dtype=torch.float64)

    def total(s: Tensor) -> Tensor:
        return LinearODE(Xi, z0)(s).sum() * 2

    t = torch.tensor([0.5], dtype=torch.float64)
    torch._dynamo.reset()
    found = torch.compile(total, backend="eager")(t)
    assert distance(found, 2 * torch.exp(values * 0.5).sum()) < 1e-9


# ---- against ball arithmetic -----------------------------------------------------------------------------------------

KINDS = {case.name: case for case in large_truth.systems(60)}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("layout", ["csr", "coo"])
def test_states_and_gradients_of_all_kinds_are_within_ten_tolerances(name: str, layout: str):
    case, rtol = KINDS[name], 1e-8
    rng = np.random.default_rng(0)
    g = rng.standard_normal((len(case.t), case.n))
    if np.iscomplexobj(case.dense) or np.iscomplexobj(case.z0):
        g = g + 1j * rng.standard_normal(g.shape)
    true = large_truth.truth(case, g)
    Xi = compressed(case.Xi, "csr") if layout == "csr" else compressed(case.Xi, "csr").to_sparse_coo()
    Xi, z0 = Xi.detach().requires_grad_(), torch.from_numpy(case.z0).requires_grad_()
    t = torch.from_numpy(case.t).requires_grad_()
    z = LinearODE(Xi, z0, method="faber", rtol=rtol)(t)
    (torch.from_numpy(g).conj() * z).sum().real.backward()
    for found, exact in zip(z, true.z):
        assert distance(found, exact) < 10 * rtol
    assert distance(z0.grad, true.z0) < 10 * rtol
    assert distance(t.grad, true.dt) < 10 * rtol
    if layout == "csr":
        values = Xi.grad.values().clone()
    else:
        rows = np.repeat(np.arange(case.n), np.diff(case.Xi.indptr))
        values = Xi.grad.to_dense()[rows, case.Xi.indices]
    assert distance(values, true.values) < 10 * rtol


def test_on_another_device_work_is_done_on_the_host_and_handed_back():
    script = """
import os
import numpy as np, torch, linode
from tests import second_device
second_device.install()
for n, method in ((5, "auto"), (5, "faber"), (300, "auto")):
    places, results = np.stack([np.arange(n), np.roll(np.arange(n), 1)]), []
    for device in ("cpu", second_device.DEVICE):
        values = torch.linspace(-1, 1, n, dtype=torch.float64).to(device).requires_grad_()
        z0 = torch.ones(n, dtype=torch.float64).to(device).requires_grad_()
        t = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64).to(device).requires_grad_()
        Xi = linode.SparseMatrix(values, places, n)
        z = linode.LinearODE(Xi, z0, b=torch.ones_like(z0), method=method)(t)
        results.append([z, *torch.autograd.grad(z.square().sum(), [values, z0, t])])
        assert {x.device.type for x in results[-1]} == {device}
        rate = torch.tensor(-0.5, dtype=torch.float64).to(device).requires_grad_()
        operator = linode.Operator(lambda v, s: s * v, n, hermitian=True, parameters=[rate])
        y = linode.LinearODE(operator, z0)(t)
        assert {y.device.type, torch.autograd.grad(y.sum(), rate)[0].device.type} == {device}
    for x, y in zip(*results):
        assert torch.equal(x.detach(), y.detach().cpu())
    try:
        linode.LinearODE(Xi, torch.ones(n, dtype=torch.float64))
    except linode.DeviceError as error:
        assert "Xi on second" in str(error)
    else:
        raise AssertionError("two devices were taken")
os._exit(0)  # threads of the autograd engine for an emulated device may abort when Python ends
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_one_plan_serves_all_pieces_of_an_input(monkeypatch: pytest.MonkeyPatch):
    made: list[float] = []
    plan_large = Faber.plan_large

    def counted(self: Faber, A: Any, task: Any) -> Any:
        made.append(task.t_max)
        return plan_large(self, A, task)

    monkeypatch.setattr(Faber, "plan_large", counted)
    breaks = np.sort(np.random.default_rng(0).uniform(0, 10, 40))
    u = linode.FirstOrderHold(breaks, np.sin(breaks)[:, None])
    ode = LinearODE(diffusion(), np.ones(400), B=np.ones((400, 1)), u=u, method=Faber())
    t = np.linspace(0, 12, 30)
    z = ode(t)
    assert len(made) == 1
    dense = LinearODE(diffusion().toarray(), np.ones(400), B=np.ones((400, 1)), u=u)
    assert distance(z, dense(t)) < 1e-9


def test_inference_mode():
    with torch.inference_mode():
        for layout in LAYOUTS.values():
            ode = LinearODE(layout(A), torch.ones(N, dtype=torch.float64), method=Faber())
            assert distance(ode(T), oracles.trajectory(A, np.ones(N), T.numpy())) < CLOSE


def test_a_module_that_puts_another_tensor_in_place_is_noticed():
    class Model(torch.nn.Module):
        def __init__(self, is_operator: bool) -> None:
            super().__init__()
            self.rates = torch.nn.Parameter(VALUES.clone())
            Xi: Any = SparseMatrix(self.rates, PLACES, N)
            if is_operator:
                Xi = linode.Operator(lambda v, r: r.sum() * v, N, parameters=[self.rates])
            self.ode = LinearODE(Xi, torch.ones(N, dtype=torch.float64))

    for is_operator in (False, True):
        model = Model(is_operator)
        model.load_state_dict({"rates": VALUES.clone()}, assign=True)
        with pytest.raises(linode.StaleError, match="rates"):
            model.ode(1.0)


@pytest.mark.parametrize(
    "Xi", [scipy.sparse.eye_array(2), scipy.sparse.linalg.aslinearoperator(np.eye(2)), torch.eye(2).to_sparse()]
)
def test_functions_for_dense_matrices_refuse_sparse_ones(Xi: Any):
    for call in (linode.expm, lambda x: linode.discretize(x, np.eye(2), 0.1), lambda x: LinearODE(np.eye(2), x)):
        with pytest.raises(linode.DtypeError, match="dense"):
            call(Xi)


def test_a_state_space_object_may_have_a_sparse_a():
    B, C, D = np.ones((400, 1)), np.ones((2, 400)), np.ones((2, 1))
    u = linode.ZeroOrderHold([0.0, 1.0], [[1.0], [-1.0]])
    sparse, dense = (SimpleNamespace(A=x, B=B, C=C, D=D) for x in (diffusion(), diffusion().toarray()))
    found, true = (LinearODE.from_statespace(x, u=u).output([0.5, 2.0]) for x in (sparse, dense))
    assert distance(found, true) < 1e-9
