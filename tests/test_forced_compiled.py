"""The compiled kernel for forced systems: against ball arithmetic, against torch's way, what it refuses, and as C."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import linode
from linode.forcing import compiled
from linode.kernels import forced
from tests import forced_oracles as oracle
from tests.test_forced import KINDS, SYSTEMS, error, every_kind

needs_kernel = pytest.mark.skipif(not forced.is_in_use(), reason="the compiled kernel is not in use")
SOURCE = Path(__file__).resolve().parents[1] / "linode" / "kernels" / "forced.c"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(
    not COMPILERS or not sys.platform.startswith("linux"), reason="needs gcc or clang, and Linux"
)


REFUSED = {("stiff", 1.0), ("graded", 1.0), ("oscillator", 1.0)}  # the bound of rounding is too large for the kernel


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the kernel took what it was asked, each time."""
    found: list[bool] = []
    states = compiled.Problem.states

    def noted(self: compiled.Problem, *args: Any) -> Tensor | None:
        z = states(self, *args)
        found.append(z is not None)
        return z

    monkeypatch.setattr(compiled.Problem, "states", noted)
    return found


# ---- truth ----------------------------------------------------------------------------------------------------------


@needs_kernel
@every_kind
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("dt", [1e-3, 0.05, 1.0])
def test_equal_steps_are_those_of_ball_arithmetic_however_long(kind: str, system: str, dt: float, answers: list[bool]):
    """|Xi| dt up to 1e4: matrices of a step by doublings."""
    rng = np.random.default_rng(1)
    K = 12
    times = dt * np.arange(K)
    arguments = SYSTEMS[system], rng.standard_normal(3), times, rng.standard_normal(3), rng.standard_normal((3, 2))
    values = rng.standard_normal((K, 2))
    got = linode.LinearODE(*arguments[:2], b=arguments[3], B=arguments[4], u=KINDS[kind][1](times, values))(times)
    few = slice(0, None, 4)
    true = oracle.solution(KINDS[kind][0], *arguments[:2], times[few], *arguments[3:], times, values)
    assert error(got[few], true) < 1e-13
    assert answers == [True] or (system, dt) in REFUSED


@needs_kernel
@every_kind
@pytest.mark.parametrize("inner", [False, True], ids=["at breaks", "between"])
def test_gradients_of_long_equal_steps_are_those_of_ball_arithmetic(kind: str, inner: bool, answers: list[bool]):
    rng = np.random.default_rng(2)
    times = 0.5 * np.arange(9)
    t = times + (0.2 if inner else 0.0)
    Xi, z0, b, B = SYSTEMS["oscillator"], rng.standard_normal(3), rng.standard_normal(3), rng.standard_normal((3, 2))
    values, g = rng.standard_normal((9, 2)), rng.standard_normal((9, 3))
    truth = oracle.gradients(KINDS[kind][0], g, Xi, z0, t, b, B, times, values)
    tensors = [torch.tensor(x, requires_grad=True) for x in (Xi, z0, b, B, values)]
    own = tensors[:2], tensors[2], tensors[3]
    z = linode.LinearODE(*own[0], b=own[1], B=own[2], u=KINDS[kind][1](times, tensors[4]))(torch.tensor(t))
    (z * torch.tensor(g)).sum().backward()
    for x, i in zip(tensors, (0, 1, 3, 4, 6)):
        assert error(x.grad, truth[i]) < 1e-12
    assert answers == [True]


# ---- torch's way ----------------------------------------------------------------------------------------------------


def anything(seed: int) -> tuple[Tensor, list[Tensor]]:
    """States of some forced problem, and the gradients of a sum of them."""
    rng = np.random.default_rng(seed)
    n, m, K, is_complex = int(rng.integers(1, 9)), int(rng.integers(1, 4)), int(rng.integers(1, 40)), rng.random() < 0.3
    batch = [(), (), (3,), (2, 3)][rng.integers(0, 4)]

    def of_batch() -> tuple[int, ...]:
        return tuple(s if rng.random() < 0.6 else 1 for s in batch) if rng.random() < 0.7 else ()

    def draw(*shape: int) -> Tensor:
        x = rng.standard_normal(shape)
        return torch.tensor(x + 1j * rng.standard_normal(shape) if is_complex else x, requires_grad=True)

    size, kind = 10.0 ** rng.uniform(-2, 1.5), rng.integers(0, 4)
    A, z0, b = draw(*of_batch(), n, n), draw(*of_batch(), n), draw(*of_batch(), n)
    Xi, start = A * (size / np.sqrt(n)) - 2 * size * torch.eye(n), rng.uniform(-1, 1) * (rng.random() < 0.5)
    times = start + (0.1 * np.arange(K) if rng.random() < 0.5 else np.sort(rng.uniform(0, 0.1 * K, K)))
    B = draw(*of_batch(), n, m) if rng.random() < 0.8 else None
    values = draw(*of_batch(), K, n if B is None else m)
    u = None if kind == 3 else list(KINDS.values())[kind][1](torch.tensor(times), values)
    t = [times.clip(0), np.sort(rng.uniform(0, 0.12 * K, 30)), rng.uniform(0, 0.12 * K, (*of_batch(), 7))][seed % 3]
    z = linode.LinearODE(Xi, z0, b=b, B=None if u is None else B, u=u)(torch.tensor(t))
    g = torch.tensor(np.random.default_rng(seed).standard_normal(z.shape))
    loss = (z * g).sum()
    given = [x for x in (A, z0, b, B, values) if x is not None]
    grads = torch.autograd.grad(loss.real if is_complex else loss, given, allow_unused=True)
    return z.detach(), [torch.zeros_like(y) if x is None else x for x, y in zip(grads, given)]


@needs_kernel
@pytest.mark.parametrize("seed", range(40))
def test_states_and_gradients_are_those_without_the_kernel(
    seed: int, answers: list[bool], monkeypatch: pytest.MonkeyPatch
):
    z, grads = anything(seed)
    assert answers == [True]
    monkeypatch.setattr(forced, "_forced", None)
    other, others = anything(seed)
    assert torch.dist(z, other) <= 1e-12 * other.norm()
    for x, y in zip(grads, others):
        assert torch.dist(x, y) <= 1e-11 * y.norm()


@needs_kernel
def test_threads_do_not_change_a_result():
    """Trajectories of one system are shared out in parts that do not depend on the number of threads."""
    times, n_threads, found = torch.arange(400).double() / 50, torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            Xi = torch.tensor(SYSTEMS["random"] - 2 * np.eye(3), requires_grad=True)
            u = linode.ZeroOrderHold(times, np.random.default_rng(0).standard_normal((40, 400, 3)))
            z = linode.LinearODE(Xi, torch.zeros(3).double(), u=u)(times)
            z.square().sum().backward()
            found.append((z.detach(), Xi.grad))
    finally:
        torch.set_num_threads(n_threads)
    assert all(torch.equal(x, y) for x, y in zip(*found))


@needs_kernel
def test_second_derivatives_are_those_of_differences():
    rng = np.random.default_rng(4)
    given = [torch.tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 2), (2,), (2,), (2, 1), (5, 1))]
    times = torch.arange(5).double() / 4

    def f(Xi: Tensor, z0: Tensor, b: Tensor, B: Tensor, values: Tensor) -> Tensor:
        return linode.LinearODE(Xi, z0, b=b, B=B, u=linode.FirstOrderHold(times, values))(times + 0.1)

    assert torch.autograd.gradgradcheck(f, given)


# ---- what it refuses -------------------------------------------------------------------------------------------------


@needs_kernel
def test_a_stiff_system_with_times_between_long_steps_is_left_to_other_methods(answers: list[bool]):
    rng = np.random.default_rng(5)
    times, t = np.sort(rng.uniform(0, 10, 6)), np.sort(rng.uniform(0, 12, 5))
    arguments = SYSTEMS["stiff"], rng.standard_normal(3), t, rng.standard_normal(3), rng.standard_normal((3, 2))
    values = rng.standard_normal((6, 2))
    u = linode.ZeroOrderHold(times, values)
    got = linode.LinearODE(*arguments[:2], b=arguments[3], B=arguments[4], u=u)(t)
    assert answers == [False]
    assert error(got, oracle.solution(oracle.zero_order, *arguments, times, values)) < 2e-13


@needs_kernel
def test_a_method_chosen_by_name_is_the_one_that_is_used(answers: list[bool]):
    linode.LinearODE([[-1.0]], [1.0], b=[1.0], method="propagator")([1.0])
    assert answers == []


@needs_kernel
def test_states_and_gradients_beyond_the_largest_float_are_those_without_the_kernel(monkeypatch: pytest.MonkeyPatch):
    found = []
    for module in (forced._forced, None):
        monkeypatch.setattr(forced, "_forced", module)
        Xi = torch.tensor([[300.0, 0.0], [0.0, -1.0]], dtype=torch.float64, requires_grad=True)
        z = linode.LinearODE(Xi, torch.ones(2).double(), b=torch.ones(2).double())(torch.tensor([1.0, 2.0, 3.0]))
        z[0].sum().backward()
        found.append((z.detach(), Xi.grad))
    (z, dXi), (other, of_other) = found
    assert torch.equal(z.isinf(), other.isinf())
    assert z.isinf().any()
    assert torch.allclose(z, other, rtol=1e-12)
    assert torch.allclose(dXi, of_other, rtol=1e-11)


@needs_kernel
@pytest.mark.parametrize("name", ["Xi", "z0", "t", "times", "values"])
def test_what_was_changed_in_place_before_backward_is_noticed_or_has_no_effect(name: str):
    given = {
        "Xi": torch.tensor([[-1.0]]).double().requires_grad_(),
        "z0": torch.ones(1).double(),
        "t": torch.arange(4).double(),
        "times": torch.arange(4).double(),
        "values": torch.ones(4, 1).double(),
    }

    def states() -> Tensor:
        return linode.LinearODE(given["Xi"], given["z0"], u=linode.ZeroOrderHold(given["times"], given["values"]))(
            given["t"]
        ).sum()

    (true,) = torch.autograd.grad(states(), given["Xi"])
    z = states()
    with torch.no_grad():
        given[name] += 1
    if name in ("times", "values"):  # they were copied
        assert torch.equal(torch.autograd.grad(z, given["Xi"])[0], true)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.backward()


@needs_kernel
def test_signs_that_torch_puts_off_are_read():
    one = torch.tensor([0.5 - 2j], dtype=torch.complex128).conj().imag  # 2, as a view with another sign
    assert one.is_neg()
    z = linode.LinearODE(-one[:, None], one, b=one)(one / 2)
    assert torch.allclose(z, 1 + torch.exp(torch.tensor([[-2.0]]).double()), rtol=1e-15)
    u = linode.ZeroOrderHold(one, one[:, None])
    assert torch.allclose(linode.LinearODE(-one[:, None], one, u=u)(one / 2), z, rtol=1e-15)


@needs_kernel
def test_what_the_kernel_cannot_read_is_refused():
    Xi, x0, t = torch.eye(2).double()[None], torch.ones(2).double(), torch.ones(1).double()
    none = torch.zeros(0).double()
    grid = forced.Grid(none, none, torch.zeros(1).double(), 1.0)
    for own in ((Xi.float(), x0, None), (Xi, x0[:1], None), (Xi, x0, torch.ones(2, 2).double())):
        with pytest.raises(ValueError, match="does not take"):
            forced.Walk(*own, None, t, grid, 1.0)
    walk = forced.Walk(Xi, x0, None, None, t, grid, 1.0)
    with pytest.raises(ValueError, match="of another problem"):
        walk.gradients(bytearray(8), torch.ones(1, 2).double())
    assert forced.steps(torch.full((2, 2), 1e9).double(), 1) is None
    assert forced.steps(torch.eye(2), 1) is None
    assert not forced.takes(forced.MOST_STATES + 1, 1)


# ---- C ---------------------------------------------------------------------------------------------------------------

CALLS = """
import importlib.util, itertools, sys
import numpy as np

spec = importlib.util.spec_from_file_location("_forced", sys.argv[1])
forced = importlib.util.module_from_spec(spec)
spec.loader.exec_module(forced)
rng = np.random.default_rng(0)


def at(x):
    return (0, 0, 0, 0) if x is None else (x.ctypes.data, *(step // x.itemsize for step in x.strides[:-1]))


def normal(dtype, *shape):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype == complex else x).astype(dtype)


n_calls, n_refused = 0, 0
SHAPES = ((1, 1), (3, 1), (1, 20), (2, 3))
cases = itertools.product((float, complex), (1, 3, 6), SHAPES, (0, 1, 2), (0, 1, 30), (0.01, 1.0, 40.0))
for i, (dtype, n, (S, R), p, K, size) in enumerate(cases):
    J, T, kind = 1 + K * (i % 3 == 0), 7, i % 4
    uniform = i % 2
    breaks = np.arange(K) * 0.1 if uniform else np.sort(rng.uniform(-0.3, 3, K))
    gaps = np.full(1, 0.1) if uniform else np.ascontiguousarray(np.diff(breaks))
    refs, units = np.concatenate([breaks[:1], breaks]) if K else np.zeros(1), np.full(K + 1, 0.5)
    t = [np.broadcast_to(breaks.clip(0), (S, R, K)), np.broadcast_to(rng.uniform(0, 4, T), (S, R, T)),
         rng.uniform(0, 4, (S, R, T)), np.zeros((S, R, 1))][kind]
    T = t.shape[2]
    Xi, x0 = normal(dtype, S, J, n, n) * size, normal(dtype, S, R, n)
    F = normal(dtype, S, R, K + 1, p * n) if p else None
    jumps = normal(dtype, S, R, K, n) if i % 5 == 0 and K else None
    z, g = np.empty((S, R, T, n), dtype), normal(dtype, S, R, T, n)
    of_Xi, of_x0 = np.empty_like(Xi), np.empty_like(x0)
    of_F, of_J = (None if x is None else np.zeros_like(x) for x in (F, jumps))
    strides = lambda x: tuple(step // x.itemsize for step in x.strides)
    problem = (
        int(dtype == complex), S, R, J, K, T, n, p, Xi.ctypes.data, *strides(Xi), *at(x0), *at(F), *at(jumps),
        t.ctypes.data, *strides(t), breaks.ctypes.data, gaps.ctypes.data, int(not uniform), refs.ctypes.data,
        units.ctypes.data if i % 7 == 0 else 0, 0.5, float(t.max(initial=0)),
    )
    threads = 1 + 2 * (i % 2)
    nodes = forced.states(1, threads, *problem, z.ctypes.data)
    if nodes is None:
        n_refused += 1
        continue
    assert np.isfinite(z).all()
    assert len(forced.states(0, threads, *problem, z.ctypes.data)) == 0
    places = (0 if x is None else x.ctypes.data for x in (of_F, of_J))
    own = g.ctypes.data, of_Xi.ctypes.data, of_x0.ctypes.data, *places
    assert forced.gradients(nodes, threads, *problem, *own) in (1, None)
    try:
        forced.gradients(nodes + b"12345678", threads, *problem, *own)
    except ValueError as error:
        assert "another problem" in str(error)
    else:
        raise AssertionError("nodes were not checked")
    n_calls += 4
for dtype, n, p, size in itertools.product((float, complex), (1, 5, 64), (1, 2, 5), (1e-3, 1.0, 30.0, 1e9, np.nan)):
    A = normal(dtype, 2, n, n) * size / n
    E, Phi, of_A = np.empty_like(A), np.empty((2, p, n, n), dtype), np.empty_like(A)
    head = int(dtype == complex), 2, 1, 1, 0, 0, n, p, A.ctypes.data, n * n, 0, n, 1
    done = forced.steps(0, 2, *head, E.ctypes.data, Phi.ctypes.data)
    assert done is None or np.isfinite(E).all() and np.isfinite(Phi).all()
    assert (done is None) == (not size < 1e3) or n == 64 or done
    if done:
        assert forced.steps(1, 2, *head, E.ctypes.data, Phi.ctypes.data, of_A.ctypes.data) in (1, None)
    n_calls += 2
for K in (0, 1, 2, 9):
    times = np.arange(K) * 0.5
    least, most, off = forced.spacing(times.ctypes.data, K)
    assert K < 2 or (least, most, off) == (0.5, 0.5, 0.0)
for wrong in (0, -1, 65):
    try:
        forced.steps(0, 1, 0, 1, 1, 1, 0, 0, wrong, 1, 0, 0, 0, 0, 0, 0, 0)
    except ValueError as error:
        assert "beyond" in str(error)
    else:
        raise AssertionError("n was not checked")
try:
    forced.states(1, 1)
except TypeError as error:
    assert "too few" in str(error)
assert n_calls > 1000 and n_refused < n_calls / 8, (n_calls, n_refused)
print(n_calls, "calls")
"""


def built(compiler: str, target: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    include = f"-I{sysconfig.get_paths()['include']}"
    command = [compiler, "-std=c11", *flags, "-fPIC", "-shared", include, SOURCE, "-o", target, "-lm", "-lpthread"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_compiler_has_a_warning(compiler: str, tmp_path: Path):
    done = built(compiler, tmp_path / "forced.so", "-O3", "-Wall", "-Wextra", "-Werror")
    assert done.returncode == 0, done.stderr


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_call_reads_or_writes_where_it_must_not(compiler: str, tmp_path: Path):
    library, script = tmp_path / "forced.so", tmp_path / "calls.py"
    shared = ["-shared-libasan"] if compiler == "clang" else []
    done = built(compiler, library, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *shared)
    if done.returncode:
        pytest.skip(f"{compiler} has no sanitizers here: {done.stderr.splitlines()[-1]}")
    script.write_text(CALLS)
    name = "libasan.so" if compiler == "gcc" else "libclang_rt.asan-x86_64.so"
    runtime = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    if not Path(runtime.stdout.strip()).is_file():
        pytest.skip(f"{compiler} has no {name} here")
    own = {"LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, script, library], capture_output=True, text=True, check=False, env={**os.environ, **own}
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "calls" in ran.stdout
