"""What goes in comes out: NumPy or torch, dtype, device, layout; single precision to the last digit it has."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

import linode
from tests import oracles
from tests.accuracy import GENERAL
from tests.case_builders import jordan

METHODS = GENERAL
XI = np.array([[-1.0, 0.2, 0.0], [0.0, 0.2, 1.5], [0.1, -1.5, 0.2]])
Z0 = np.array([1.0, -0.5, 0.25])
TIMES = np.array([0.5, -0.25, 0.0, 2.0])
UNIT_ROUNDOFF = {"float32": 2.0**-24, "complex64": 2.0**-24, "float64": 2.0**-53, "complex128": 2.0**-53}
DTYPES = list(UNIT_ROUNDOFF)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
COMPLEX_PART = {"complex64": 0.5j, "complex128": 0.5j}


def arrays(dtype: str, Xi: np.ndarray = XI) -> tuple[np.ndarray, np.ndarray]:
    factor = 1 + COMPLEX_PART.get(dtype, 0)
    return (Xi * factor).astype(dtype), (Z0[: len(Xi)] * factor).astype(dtype)


def tensors(dtype: str, Xi: np.ndarray = XI) -> list[Tensor]:
    return [torch.from_numpy(x) for x in arrays(dtype, Xi)]


def leaf_functions(t: object) -> dict:
    """Everything that answers with arrays, from Xi and z0."""
    return {
        "call": lambda Xi, z0: linode.LinearODE(Xi, z0)(t),
        "solve": lambda Xi, z0: linode.LinearODE(Xi, z0).solve(t).z,
        "propagator": lambda Xi, z0: linode.LinearODE(Xi, z0).propagator(t),
        "odeint": lambda Xi, z0: linode.odeint(Xi, z0, t),
        "expm": lambda Xi, z0: linode.expm(Xi),
        "expm_multiply": lambda Xi, z0: linode.expm_multiply(Xi, z0, t),
    }


every_leaf = pytest.mark.parametrize("leaf", leaf_functions(None))


# ---- dtypes ------------------------------------------------------------------------------------------------------


@every_leaf
@every_dtype
def test_tensors_give_a_tensor_of_their_dtype_and_device(leaf: str, dtype: str):
    z = leaf_functions(torch.from_numpy(TIMES))[leaf](*tensors(dtype))
    assert (type(z), z.dtype, z.device.type) == (Tensor, getattr(torch, dtype), "cpu")


@every_leaf
@every_dtype
def test_numpy_arrays_give_a_numpy_array_of_their_dtype(leaf: str, dtype: str):
    z = leaf_functions(TIMES)[leaf](*arrays(dtype))
    assert (type(z), z.dtype) == (np.ndarray, np.dtype(dtype))
    assert np.array_equal(z, leaf_functions(torch.from_numpy(TIMES))[leaf](*tensors(dtype)).numpy())


@every_leaf
def test_lists_give_numpy_arrays_of_double_precision(leaf: str):
    z = leaf_functions(TIMES.tolist())[leaf](XI.tolist(), Z0.tolist())
    assert (type(z), z.dtype) == (np.ndarray, np.float64)
    assert np.array_equal(z, leaf_functions(TIMES)[leaf](XI, Z0))


@pytest.mark.parametrize("z0_dtype", DTYPES)
@pytest.mark.parametrize("Xi_dtype", DTYPES)
def test_mixed_dtypes_promote_as_torch_promotes_them(Xi_dtype: str, z0_dtype: str):
    Xi, z0 = tensors(Xi_dtype)[0], tensors(z0_dtype)[1]
    z = linode.LinearODE(Xi, z0)(torch.from_numpy(TIMES))
    assert z.dtype == torch.promote_types(Xi.dtype, z0.dtype)
    true = oracles.trajectory(Xi.numpy(), z0.numpy(), TIMES)
    bound = max(8e-15, 8 * UNIT_ROUNDOFF[str(z.dtype).split(".")[1]])
    assert np.linalg.norm(z.numpy() - true) <= bound * np.linalg.norm(true)


@pytest.mark.parametrize("t_dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_the_dtype_of_t_does_not_change_that_of_the_answer(t_dtype: torch.dtype):
    for dtype in DTYPES:
        z = linode.LinearODE(*tensors(dtype))(torch.ones(2).to(t_dtype))
        assert z.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_integers_become_float64_and_in_tensors_the_dtype_of_the_others_or_the_default(default: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        z = linode.LinearODE(torch.tensor([[0, 1], [-1, 0]]), torch.tensor([1, 0], dtype=torch.int32))(
            torch.tensor([1])
        )
        array = linode.LinearODE(np.array([[0, 1], [-1, 0]]), [1, 0])([1])
        mixed = linode.LinearODE(torch.tensor([[0, 1], [-1, 0]]), torch.ones(2, dtype=torch.float64))(1)
    finally:
        torch.set_default_dtype(before)
    assert (z.dtype, mixed.dtype) == (default, torch.float64)
    assert array.dtype == np.float64
    assert torch.allclose(z.double(), torch.tensor([[np.cos(1.0), -np.sin(1.0)]]), rtol=1e-6)


LARGE = [[0, 123456789], [-123456789, 0]]  # rounded to float32 it is another matrix
TRUE = [np.cos(1234.56789), -np.sin(1234.56789)]


@pytest.mark.parametrize("Xi", [LARGE, np.array(LARGE), torch.tensor(LARGE), np.array(LARGE, dtype=np.int32)])
@pytest.mark.parametrize("z0", [[1.0, 0.0], np.array([1.0, 0.0]), torch.tensor([1.0, 0.0], dtype=torch.float64)])
def test_integers_lose_no_digit_beside_double_precision(Xi: Any, z0: Any):
    z = np.asarray(linode.LinearODE(Xi, z0)([1e-5]))
    assert z.dtype == np.float64
    assert z[0] == pytest.approx(TRUE, rel=1e-12)
    pieces = np.asarray(linode.PiecewiseLinearODE([(0, Xi), (1, Xi)], z0)([1e-5]))
    assert pieces[0] == pytest.approx(TRUE, rel=1e-12)


def test_integers_in_lists_and_arrays_are_numpys():
    assert linode.expm([[0, 1], [0, 0]]).dtype == np.float64
    assert linode.expm(torch.tensor([[0, 1], [0, 0]])).dtype == torch.get_default_dtype()
    system = scipy.signal.StateSpace(
        np.array([[0, 1], [-2, -3]]), np.array([[0], [1]]), np.array([[1, 0]]), np.array([[0]])
    )
    ode = linode.LinearODE.from_statespace(system, np.array([1, 0]), u=linode.ZeroOrderHold([0, 1], [[1], [0]]))
    assert ode([0.5]).dtype == ode.output([0.5]).dtype == np.float64
    back = ode.to_statespace()
    assert np.dtype(np.float32) not in {x.dtype for x in (back.A, back.B, back.C, back.D)}
    step = linode.discretize(np.array([[0, 123456789], [-123456789, 0]]), torch.ones(2, 1, dtype=torch.float64), 1e-5)
    assert float(step[0][0, 0]) == pytest.approx(TRUE[0], rel=1e-11)


EXACT = {"generic": XI, "jordan": jordan(3, -0.5), "stiff": np.diag([-1e3, -1.0, 1.0]) + 0.1}
REFUSED = (("eig", "jordan"), ("taylor", "stiff"), ("chain", "stiff"))


@pytest.mark.parametrize(("method", "name"), [(m, name) for m in METHODS for name in EXACT if (m, name) not in REFUSED])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision_results_are_the_rounded_exact_ones(method: str, name: str, dtype: str):
    arguments = arrays(dtype, EXACT[name])
    t = TIMES[[0, 2, 3]].astype(np.float32)
    z = linode.LinearODE(*map(torch.from_numpy, arguments), method=method)(torch.from_numpy(t))
    true = oracles.trajectory(*arguments, t)
    # per state: one rounding to single precision, and double-precision noise below it
    assert (np.linalg.norm(z.numpy() - true, axis=1) <= 1.01 * 2.0**-24 * np.linalg.norm(true, axis=1)).all()


def test_a_real_matrix_that_was_looked_at_moves_a_complex_start_rightly():
    Xi, z0 = tensors("float64")[0], tensors("complex128")[1]
    true = oracles.trajectory(XI, z0.numpy(), TIMES)
    for method in METHODS:
        ode = linode.LinearODE(Xi, z0, method=method)
        for look in (
            lambda ode: ode.decomposition,
            lambda ode: ode.propagator(TIMES),
            repr,
            lambda ode: ode.solve([1.0]),
        ):
            look(ode)
            assert np.linalg.norm(ode(torch.from_numpy(TIMES)).numpy() - true) <= 1e-14 * np.linalg.norm(true) * 3


# ---- mixing and layout -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(3))
def test_one_tensor_among_arrays_gives_a_tensor(which: int):
    args = [XI, Z0, TIMES]
    args[which] = torch.from_numpy(args[which])
    z = linode.LinearODE(*args[:2])(args[2])
    assert (type(z), z.dtype) == (Tensor, torch.float64)
    assert np.array_equal(z.numpy(), linode.LinearODE(XI, Z0)(TIMES))


LAYOUTS = {
    "fortran": np.asfortranarray,
    "negative_strides": lambda x: x[::-1].copy()[::-1],
    "every_other": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "big_endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "broadcast": lambda x: np.broadcast_to(x, (2, *x.shape))[0],
    "subclass": lambda x: x.view(type("Array", (np.ndarray,), {})),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", range(3))
def test_numpy_arrays_of_any_layout_give_the_same_numbers(which: int, layout: str):
    args = [XI, Z0, TIMES]
    args[which] = LAYOUTS[layout](args[which])
    z = linode.LinearODE(*args[:2])(args[2])
    assert type(z) is np.ndarray
    assert np.array_equal(z, linode.LinearODE(XI, Z0)(TIMES))


def test_read_only_arrays_are_accepted_and_left_alone():
    args = [x.copy() for x in (XI, Z0, TIMES)]
    for x in args:
        x.flags.writeable = False
    assert np.array_equal(linode.LinearODE(*args[:2])(args[2]), linode.LinearODE(XI, Z0)(TIMES))
    assert all(np.array_equal(a, b) for a, b in zip(args, (XI, Z0, TIMES)))


def test_arguments_are_left_alone():
    args = [torch.tensor(x, requires_grad=True) for x in (XI, Z0, TIMES)]
    linode.LinearODE(*args[:2])(args[2]).sum().backward()
    assert all(np.array_equal(a.detach().numpy(), b) for a, b in zip(args, (XI, Z0, TIMES)))


def test_changing_an_answer_changes_neither_the_arguments_nor_the_next_answer():
    for args in ((XI.copy(), Z0.copy()), (torch.from_numpy(XI.copy()), torch.from_numpy(Z0.copy()))):
        ode = linode.LinearODE(*args)
        first = ode(TIMES)
        kept = copy.deepcopy(first)
        first *= 0.0
        assert np.array_equal(np.asarray(args[1]), Z0)
        assert np.array_equal(np.asarray(ode(TIMES)), np.asarray(kept))


def test_numpy_arguments_are_copied_at_construction():
    Xi = XI.copy()
    ode = linode.LinearODE(Xi, Z0)
    Xi *= 2.0
    assert np.array_equal(ode(TIMES), linode.LinearODE(XI, Z0)(TIMES))


def test_tensors_of_any_layout_give_the_same_numbers():
    true = linode.LinearODE(torch.from_numpy(XI), torch.from_numpy(Z0))(torch.from_numpy(TIMES))
    Xi = torch.from_numpy(np.ascontiguousarray(XI.T)).mT
    z0, t = (torch.from_numpy(np.repeat(x, 2))[::2] for x in (Z0, TIMES))
    assert torch.equal(linode.LinearODE(Xi, z0)(t), true)


def test_lazily_conjugated_tensors_are_conjugated():
    Xi, z0 = tensors("complex128")
    lazy = linode.LinearODE(Xi.conj(), z0.conj())(torch.from_numpy(TIMES))
    assert torch.allclose(lazy, linode.LinearODE(Xi, z0)(torch.from_numpy(TIMES)).conj(), rtol=1e-13)
    imaginary = linode.LinearODE(Xi.conj().imag, z0.conj().imag)(torch.from_numpy(TIMES))  # negative bit
    assert torch.equal(imaginary, linode.LinearODE(-Xi.imag, -z0.imag)(torch.from_numpy(TIMES)))


def test_parameters_and_tensor_subclasses_are_tensors():
    z = linode.LinearODE(torch.nn.Parameter(torch.from_numpy(XI)), torch.nn.Buffer(torch.from_numpy(Z0)))(TIMES)
    assert isinstance(z, Tensor)
    assert z.requires_grad


def test_numpy_answers_need_no_grad():
    z = linode.LinearODE(XI, Z0)(TIMES)
    assert z.flags.writeable
    assert isinstance(linode.LinearODE(XI, Z0)(torch.from_numpy(TIMES).requires_grad_()), Tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
@every_dtype
def test_on_a_gpu_values_and_gradients_equal_those_on_the_cpu(method: str, dtype: str):
    answers = []
    for device in ("cpu", "cuda"):
        x = [x.to(device).requires_grad_() for x in (*tensors(dtype), torch.from_numpy(TIMES))]
        z = linode.LinearODE(*x[:2], method=method)(x[2])
        assert (z.device.type, z.dtype) == (device, getattr(torch, dtype))
        grads = torch.autograd.grad(z.abs().square().sum(), x)
        assert all(g.device.type == device for g in grads)
        answers.append([y.detach().cpu() for y in (z, *grads)])
    tolerance = 100 * UNIT_ROUNDOFF[dtype]
    assert all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(*answers))
