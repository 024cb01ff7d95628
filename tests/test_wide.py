"""The compiled double-double arithmetic: states to the last bit of float64, and C without warnings and faults."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

import linode
from linode.engine.careful import Careful
from linode.kernels import wide
from linode.methods import Workload
from tests import oracles
from tests.accuracy import norm
from tests.case_builders import generator, normal
from tests.cases import CASES, Case

needs_kernel = pytest.mark.skipif(not wide.is_in_use(), reason="the compiled arithmetic is not in use")
SOURCE = Path(__file__).resolve().parents[1] / "linode" / "kernels" / "wide.c"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(
    not COMPILERS or not sys.platform.startswith("linux"), reason="needs gcc or clang, and Linux"
)


def states(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(T, n)."""
    systems, starts, times = (torch.tensor(x)[None] for x in (Xi, z0[None].astype(Xi.dtype), t[None]))
    plan = Careful().plan(systems, work=Workload.of(systems)._replace(t_max=float(t.max())))
    return plan.evaluate(starts, times)[0, 0].numpy()


@needs_kernel
@pytest.mark.parametrize("case", CASES[::3], ids=[case.name for case in CASES[::3]])
def test_states_are_right_to_the_last_bit(case: Case):
    t = np.abs(case.t)
    true = oracles.trajectory(case.Xi, case.z0, t)
    assert norm(states(case.Xi, case.z0, t) - true) <= 2.0**-53 * norm(true)


@needs_kernel
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 31])
@pytest.mark.parametrize("is_complex", [False, True])
def test_rows_of_every_length_are_right(n: int, is_complex: bool):
    rng = generator(f"wide {n} {is_complex}")
    Xi, z0 = normal(rng, n, n, is_complex=is_complex), normal(rng, n, is_complex=is_complex)
    t = np.array([0.0, 1e-9, 0.3, 4.0])
    got, true = states(Xi, z0, t), oracles.trajectory(Xi, z0, t)
    assert np.array_equal(got[0], z0)
    assert norm(got - true) <= 2.0**-53 * norm(true)


@needs_kernel
def test_a_batch_is_that_of_its_elements_however_it_is_divided(monkeypatch: pytest.MonkeyPatch):
    rng = generator("wide batch")
    Xi, z0 = torch.tensor(normal(rng, 5, 3, 3)), torch.tensor(normal(rng, 5, 2, 3))
    t = torch.tensor(rng.uniform(0, 3, (5, 2, 4)))
    plan = Careful().plan(Xi, work=Workload.of(Xi)._replace(t_max=3.0))
    whole = plan.evaluate(z0, t)
    monkeypatch.setattr("linode.engine.careful.MOST_NUMBERS", 2000)
    assert torch.equal(Careful().plan(Xi, work=Workload.of(Xi)._replace(t_max=3.0)).evaluate(z0, t), whole)
    for i in range(5):
        alone = plan.subset(torch.tensor([i])).evaluate(z0[i : i + 1], t[i : i + 1])
        assert torch.equal(alone[0], whole[i])


@needs_kernel
def test_times_beyond_the_powers_are_refused():
    Xi, one = -torch.eye(2, dtype=torch.float64)[None], torch.ones(1, 1, 1, dtype=torch.float64)
    plan = Careful().plan(Xi, work=Workload.of(Xi)._replace(t_max=3.0))
    start = torch.ones(1, 1, 2, dtype=torch.float64)
    for wrong in (1e6, -1.0, np.nan):
        with pytest.raises(ValueError, match="beyond"):
            plan.evaluate(start, wrong * one)
    assert plan.t_most < 1e6


@needs_kernel
def test_what_the_kernel_cannot_read_is_refused():
    A, H = torch.eye(2, dtype=torch.float64)[None], torch.ones(1, dtype=torch.float64)
    for wrong in ((A.float(), None, H, 1), (A, None, H.expand(2), 1), (A, A, H, 1), (A, None, H, 0)):
        with pytest.raises(ValueError, match="does not take A"):
            wide.make_powers(*wrong)
    powers = wide.make_powers(A, None, H, 1)
    for z0 in (torch.ones(1, 1, 3).double(), torch.ones(1, 1, 2), torch.ones(2, 1, 2).double()):
        with pytest.raises(ValueError, match="does not take z0"):
            wide.states(powers, z0, torch.ones(1, 1, 1, dtype=torch.float64))
    start, t = torch.ones(1, 1, 2, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="does not compare"):
        wide.distances_from(powers, None, start, t, torch.ones(1, 1, 2, 2, dtype=torch.float64))


@needs_kernel
def test_distances_from_huge_tiny_infinite_and_later_states():
    """One step is 1, and A is 0, so that states are z0."""
    powers = wide.make_powers(torch.zeros(1, 2, 2).double(), None, torch.ones(1).double(), 1)
    y = torch.tensor([[3e300, 4e300], [3e-300, 4e-300], [0, 0], [1, 1], [1, 1]], dtype=torch.float64)
    x = torch.tensor([[0, 0], [0, 0], [0, 0], [np.inf, 1], [np.nan, 1]], dtype=torch.float64)
    t = torch.zeros(1, 5, 1, dtype=torch.float64)
    got = wide.distances_from(powers, None, y[None], t, x[None, :, None])
    for (difference, size), own in zip(got[:3], (5e300, 5e-300, 0.0)):
        assert difference == size == pytest.approx(own, rel=1e-15)
    assert got[3][0] == np.inf
    assert np.isnan(got[4][0])
    with pytest.raises(ValueError, match="beyond"):
        wide.distances_from(powers, None, y[None], t - 1, x[None, :, None])  # there are no powers of -A


@needs_kernel
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("is_graded", [False, True])
def test_condition_numbers_are_those_of_ball_arithmetic(is_complex: bool, is_graded: bool):
    """Times of both signs; graded Xi has a late time, for which it is balanced."""
    rng = generator(f"wide condition {is_complex} {is_graded}")
    Xi, z0 = normal(rng, 4, 4, is_complex=is_complex), normal(rng, 4, is_complex=is_complex)
    t = np.array([0.0, 0.7, -1.3, 2.9])
    if is_graded:
        Xi = np.triu(Xi * 1e9, 1) + np.diag(1j * rng.uniform(1, 2, 4) if is_complex else -rng.uniform(1, 2, 4))
        t = np.array([0.0, 0.7, 300.0])
    true = oracles.condition(Xi, z0, t).normwise
    assert float(linode.LinearODE(Xi, z0).condition(t)) == pytest.approx(true, rel=0.02)


# ---- C --------------------------------------------------------------------------------------------------------------

CALLS = """
import importlib.util, sys
import numpy as np

spec = importlib.util.spec_from_file_location("_wide", sys.argv[1])
wide = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wide)
rng = np.random.default_rng(0)
for n in (1, 3, 4, 9):
    for levels in (1, 5):
        powers = np.zeros((2, levels + 1, 2, n, -(-n // 4) * 4))
        powers[:, 0, 0, :, :n] = rng.standard_normal((2, n, n)) / (8 * n)
        z0, t, H, D = rng.standard_normal((2, 3, n)), rng.uniform(-0.9, 0.9, (2, 3, 5)), np.ones(2), np.ones((2, n))
        z, out = np.empty((2, 3, 5, n)), np.empty((2, 3))
        wide.plan(powers.ctypes.data, 2, n, levels)
        places = powers.ctypes.data, H.ctypes.data, D.ctypes.data, levels
        for back, is_complex in ((places, 0), (places, n % 2 == 0)):
            own = places, back, is_complex, 2, 3, 5, n, z0.ctypes.data, t.ctypes.data
            wide.states(*own, z.ctypes.data)
            assert np.isfinite(z).all()
            assert [pair[0] for pair in wide.distances_from(*own, z.ctypes.data)] == [0.0] * 6
            wide.conditions(*own, out.ctypes.data)
            assert (out > 0).all()
        t[1, 2, 4] = -1e9
        for function, to in ((wide.states, z), (wide.distances_from, z), (wide.conditions, out)):
            for other in (back, (0, 0, 0, 0)):
                try:
                    function(places, other, 0, 2, 3, 5, n, z0.ctypes.data, t.ctypes.data, to.ctypes.data)
                except ValueError:
                    continue
                raise AssertionError(function)
print("calls")
"""


def built(compiler: str, target: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    include = f"-I{sysconfig.get_paths()['include']}"
    command = [compiler, "-std=c11", *flags, "-fPIC", "-shared", include, SOURCE, "-o", target, "-lm"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("target", [(), ("-mfma",)], ids=["any", "fma"])
def test_no_compiler_has_a_warning(compiler: str, target: tuple[str, ...], tmp_path: Path):
    if target and "x86" not in sysconfig.get_platform():
        pytest.skip("an option of x86-64")
    done = built(compiler, tmp_path / "wide.so", "-O3", "-Wall", "-Wextra", "-Werror", *target)
    assert done.returncode == 0, done.stderr


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_call_reads_or_writes_where_it_must_not(compiler: str, tmp_path: Path):
    library, script = tmp_path / "wide.so", tmp_path / "calls.py"
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


@needs_kernel
def test_signs_that_torch_puts_off_are_read():
    one = torch.tensor([0.5 - 2j], dtype=torch.complex128).conj().imag  # 2, as a view with another sign
    assert one.is_neg()
    assert one.is_contiguous()
    Xi = torch.tensor([[-1.0]], dtype=torch.float64)
    for z0, t in ((one, torch.tensor([0.0, 0.5]).double()), (torch.ones(1).double(), one)):
        solution = linode.LinearODE(Xi, z0).solve(t)
        assert solution.status is linode.Status.OK
        assert torch.allclose(solution.z, z0 * torch.exp(-t)[:, None], rtol=1e-15)
