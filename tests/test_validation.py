"""Arguments that cannot be used: a linode error that is also the built-in one, names the argument and says what came.

Raised before any work is done: `no_plan` fails a test in which a plan is made.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import linode
from linode.engine import evaluation

XI = np.array([[-1.0, 0.5], [0.25, -0.5]])
Z0 = np.array([1.0, -0.5])
TIMES = np.array([0.5, 1.0])
NAN, INF = float("nan"), float("inf")
BUILT_IN = {
    linode.ShapeError: ValueError,
    linode.DtypeError: TypeError,
    linode.DeviceError: ValueError,
    linode.NonFiniteError: ValueError,
    linode.MethodError: ValueError,
}


@pytest.fixture
def no_plan(monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object, **options: object) -> None:
        pytest.fail("work was done before the arguments were checked")

    monkeypatch.setattr(evaluation.Planner, "plan", fail)


class ArrayLike:
    """What pandas and others offer."""

    def __init__(self, values: object) -> None:
        self.values = values

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype)


CALLS: dict[str, tuple[str, Callable[[object], object]]] = {  # the argument's name, and a call that takes it
    "LinearODE_Xi": ("Xi", lambda x: linode.LinearODE(x, Z0)),
    "LinearODE_z0": ("z0", lambda x: linode.LinearODE(XI, x)),
    "call_t": ("t", lambda x: linode.LinearODE(XI, Z0)(x)),
    "solve_t": ("t", lambda x: linode.LinearODE(XI, Z0).solve(x)),
    "propagator_t": ("t", lambda x: linode.LinearODE(XI, Z0).propagator(x)),
    "condition_t": ("t", lambda x: linode.LinearODE(XI, Z0).condition(x)),
    "odeint_Xi": ("Xi", lambda x: linode.odeint(x, Z0, TIMES)),
    "odeint_z0": ("z0", lambda x: linode.odeint(XI, x, TIMES)),
    "odeint_t": ("t", lambda x: linode.odeint(XI, Z0, x)),
    "expm_A": ("A", lambda x: linode.expm(x)),
    "expm_multiply_A": ("A", lambda x: linode.expm_multiply(x, Z0)),
    "expm_multiply_v": ("v", lambda x: linode.expm_multiply(XI, x)),
    "expm_multiply_t": ("t", lambda x: linode.expm_multiply(XI, Z0, x)),
}
every_call = pytest.mark.parametrize("call", CALLS)
MATRIX_CALLS = [call for call, (name, _) in CALLS.items() if name in ("Xi", "A")]


def check(call: str, value: object, error: type[linode.LinodeError], *, says: str = "") -> None:
    """Passing `value` raises `error`, which is also a built-in, and the message starts with the argument's name."""
    name, function = CALLS[call]
    with pytest.raises(error) as caught:
        function(value)
    assert isinstance(caught.value, BUILT_IN[error])
    assert name in str(caught.value).split()
    assert says in str(caught.value)


# ---- types -------------------------------------------------------------------------------------------------------

NOT_NUMBERS = {
    "none": (None, "NoneType"),
    "text": ("abc", "str"),
    "texts": (["a", "b"], "list"),
    "bytes": (b"abc", "bytes"),
    "object": (object(), "object"),
    "dict": ({"a": 1}, "dict"),
    "set": ({1, 2}, "set"),
    "function": (len, "builtin_function_or_method"),
    "date": ([datetime.date(2020, 1, 1)], "list"),
    "datetime64": (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
    "timedelta64": (np.array([1, 2], "timedelta64[s]"), "timedelta64"),
    "decimals": ([decimal.Decimal(1), decimal.Decimal(2)], "list"),
    "structured": (np.zeros(2, [("a", float)]), "ndarray"),
    "objects": (np.array([1.0, None]), "ndarray"),
    "frame_of_text": (ArrayLike(["a", "b"]), "ArrayLike"),
}


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("kind", NOT_NUMBERS)
@every_call
def test_what_holds_no_numbers_is_refused_by_its_type(call: str, kind: str):
    value, type_name = NOT_NUMBERS[kind]
    check(call, value, linode.DtypeError, says=type_name)


UNSUPPORTED = {
    "longdouble": lambda shape: np.ones(shape, np.longdouble),
    "clongdouble": lambda shape: np.ones(shape, np.clongdouble),
    "float8": lambda shape: torch.ones(shape).to(torch.float8_e4m3fn),
    "sparse": lambda shape: torch.ones(shape).to_sparse() if len(shape) == 1 else torch.ones(2, 2, 1).to_sparse(2),
    "mkldnn": lambda shape: torch.ones(shape).to_mkldnn(),
}


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("kind", UNSUPPORTED)
@every_call
def test_unsupported_dtypes_and_layouts_are_refused(call: str, kind: str):
    check(call, UNSUPPORTED[kind]((2, 2) if call in MATRIX_CALLS else (2,)), linode.DtypeError)


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("call", ["call_t", "solve_t", "propagator_t", "odeint_t", "expm_multiply_t"])
@pytest.mark.parametrize("value", [[0.0, 1j], torch.tensor([0.0, 1j])], ids=["list", "tensor"])
def test_complex_times_are_refused(call: str, value: object):
    check(call, value, linode.DtypeError, says="real")


@pytest.mark.usefixtures("no_plan")
@every_call
def test_lists_of_tensors_that_need_grad_are_refused_rather_than_detached(call: str):
    # or accepted with a gradient: but never an answer that has lost it, nor NumPy's complaint
    value = [torch.tensor(0.5, requires_grad=True), torch.tensor(1.0, requires_grad=True)]
    value = [value, value] if call in MATRIX_CALLS else value
    with pytest.raises(linode.LinodeError):
        CALLS[call][1](value)


# ---- shapes ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plan")
@every_call
def test_ragged_lists_are_refused(call: str):
    check(call, [[1.0, 2.0], [3.0]], linode.ShapeError)


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 0), (4, 2, 3), (0,)], ids=str)
@pytest.mark.parametrize("call", MATRIX_CALLS)
def test_matrices_that_are_not_square_are_refused(call: str, shape: tuple[int, ...]):
    check(call, np.ones(shape), linode.ShapeError, says=str(shape))


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("call", MATRIX_CALLS)
def test_matrices_without_rows_are_refused(call: str):
    check(call, np.ones((0, 0)), linode.ShapeError, says="at least 1")


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("call", ["LinearODE_z0", "odeint_z0", "expm_multiply_v"])
@pytest.mark.parametrize(("shape", "says"), [((), "scalar"), ((3,), "3"), ((2, 1), "1"), ((0,), "0")], ids=str)
def test_starts_of_another_size_are_refused(call: str, shape: tuple[int, ...], says: str):
    if call == "expm_multiply_v" and len(shape) == 2:
        shape = shape[::-1]  # its vectors are columns
    check(call, np.ones(shape), linode.ShapeError, says=says)


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("name", ["Xi", "A"])
def test_batches_that_do_not_broadcast_are_refused_with_both_shapes(name: str):
    solver, shape = {"Xi": (linode.LinearODE, (4, 2)), "A": (linode.expm_multiply, (4, 2, 1))}[name]
    with pytest.raises(linode.ShapeError, match=rf"{name} \(3,\), .*\(4,\)"):
        solver(np.stack([XI] * 3), np.ones(shape))


@pytest.mark.usefixtures("no_plan")
def test_times_that_do_not_broadcast_are_refused_with_both_shapes():
    ode = linode.LinearODE(np.stack([XI] * 3), Z0)
    for ask in (ode, ode.solve, ode.propagator, ode.condition):
        with pytest.raises(linode.ShapeError, match=r"\(3,\), t \(4,\)"):
            ask(np.ones((4, 5)))


@pytest.mark.usefixtures("no_plan")
def test_expm_multiply_calls_its_arguments_by_its_own_names():
    with pytest.raises(linode.ShapeError, match=r"^(?!.*(Xi|z0))"):
        linode.expm_multiply(np.stack([XI] * 3), Z0, np.ones((4, 5)))


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("t", [0.5, [], [[0.5]]], ids=["scalar", "empty", "matrix"])
def test_odeint_refuses_times_that_are_not_a_list_of_at_least_one(t: object):
    with pytest.raises(linode.ShapeError, match=r"t has shape .*\(T,\)"):
        linode.odeint(XI, Z0, t)


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", ["array", "tensor", "float32", "list"])
@every_call
def test_values_that_are_not_finite_are_refused_with_their_place(call: str, kind: str, value: float):
    x = XI.copy() if call in MATRIX_CALLS else Z0.copy()
    x[..., -1] = value
    given_as = {"array": x, "tensor": torch.tensor(x), "float32": torch.tensor(x).float(), "list": x.tolist()}[kind]
    check(call, given_as, linode.NonFiniteError, says="[0, 1]" if call in MATRIX_CALLS else "[1]")


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_first_time_of_odeint_that_is_not_finite_is_refused_as_it_is(value: float):
    check("odeint_t", [value, 0.0], linode.NonFiniteError, says=str(value))


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("value", [complex(0, NAN), complex(INF, 0)])
def test_complex_values_that_are_not_finite_are_refused(value: complex):
    check("LinearODE_Xi", [[value, 0], [0, 0]], linode.NonFiniteError)


def test_values_whose_sum_overflows_are_accepted():
    huge = np.full(2, 1.7e308)
    assert np.array_equal(linode.LinearODE(np.zeros((2, 2)), huge)([0.0])[0], huge)


# ---- devices -----------------------------------------------------------------------------------------------------

META = {
    "Xi": lambda x: linode.LinearODE(x, torch.ones(2)),
    "z0": lambda x: linode.LinearODE(torch.eye(2), x[0]),
    "t": lambda x: linode.LinearODE(torch.eye(2), torch.ones(2))(x[0]),
    "A": lambda x: linode.expm_multiply(x, torch.ones(2)),
    "v": lambda x: linode.expm_multiply(torch.eye(2), x[0]),
}


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("name", META)
def test_arguments_on_different_devices_are_refused_with_both(name: str):
    with pytest.raises(linode.DeviceError, match="cpu") as caught:
        META[name](torch.ones(2, 2, device="meta"))
    assert f"{name} on meta" in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_tensors_without_values_are_refused():
    with pytest.raises(linode.LinodeError, match="meta"):
        linode.LinearODE(torch.ones(2, 2, device="meta"), torch.ones(2, device="meta"))


# ---- methods and tolerances --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("method", [None, 3, "Eig", "", b"eig", ["eig"], linode.methods.Eig])
@pytest.mark.parametrize("solver", ["LinearODE", "odeint", "expm", "expm_multiply"])
def test_methods_that_are_none_are_refused_with_the_names_of_those_that_are(solver: str, method: object):
    args = {"expm": (XI,), "odeint": (XI, Z0, TIMES)}.get(solver, (XI, Z0))
    with pytest.raises(linode.MethodError, match="'auto', 'chain', 'eig', 'metzler', 'propagator', 'schur', 'taylor'"):
        getattr(linode, solver)(*args, method=method)


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("rtol", ["abc", [1e-3], 1j, NAN, -1.0], ids=str)
def test_a_tolerance_that_is_none_is_refused_at_construction(rtol: object):
    with pytest.raises(linode.LinodeError, match="rtol"):
        linode.LinearODE(XI, Z0, rtol=rtol)


@pytest.mark.parametrize(
    "make",
    [
        lambda: linode.methods.Propagator(precision="quad"),
        lambda: linode.methods.Eig(max_condition="a"),
        lambda: linode.methods.Eig(max_condition=NAN),
        lambda: linode.methods.Auto(candidates=()),
        lambda: linode.methods.Auto(candidates=("unknown",)),
    ],
    ids=["precision", "condition_of_text", "condition_nan", "no_candidates", "unknown_candidate"],
)
def test_options_of_a_method_that_mean_nothing_are_refused(make: Callable[[], object]):
    with pytest.raises((linode.LinodeError, ValueError, TypeError)):
        linode.LinearODE(XI, Z0, method=make())(1.0)


def test_a_choice_whose_every_candidate_refuses_raises():
    shear = np.array([[0.0, 1.0], [0.0, 0.0]])
    for Xi in (shear, np.stack([XI, shear])):
        with pytest.raises(linode.MethodError, match="eig"):
            linode.LinearODE(Xi, Z0, method=linode.methods.Auto(candidates=("eig",)))(TIMES)


# ---- rubbish -----------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(width=16), st.complex_numbers(), st.text(max_size=2)
)
dtypes = st.sampled_from(["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "g", "c8", "c16", "O", "U1", "M8[s]"])
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=2)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes, elements=st.none() if dtype == "O" else None))
rubbish = st.one_of(
    scalars,
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6),
    arrays,
    arrays.filter(lambda x: x.dtype.kind in "?iufc" and x.dtype.char != "g").map(torch.tensor),
    st.builds(SimpleNamespace),
    st.builds(ArrayLike, st.lists(st.floats(), max_size=2)),
)
mostly = settings(max_examples=150, deadline=None, derandomize=True)


@mostly
@given(st.sampled_from(sorted(CALLS)), rubbish)
def test_whatever_comes_gives_an_answer_or_a_linode_error(call: str, value: object):
    try:
        CALLS[call][1](value)
    except linode.LinodeError as error:
        assert CALLS[call][0] in str(error).split() or "Xi and z0" in str(error)
