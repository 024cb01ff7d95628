"""The compiled kernel as C: no warnings of two compilers, and no fault under the sanitizers.

The sanitized build is called with the addresses of NumPy arrays, without torch, whose own memory the sanitizer would
watch too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "linode" / "kernels" / "small.c"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
SANITIZERS = "-fsanitize=address,undefined"

pytestmark = [
    pytest.mark.skipif(not COMPILERS, reason="needs gcc or clang"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for Linux's way to load libraries"),
]

CALLS = """
import importlib.util, itertools, sys
import numpy as np
from scipy.linalg import cython_lapack

spec = importlib.util.spec_from_file_location("_small", sys.argv[1])
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)
small.use_lapack(cython_lapack.__pyx_capi__)
rng = np.random.default_rng(0)
CODES = {np.float32: 0, np.float64: 1, np.complex64: 2, np.complex128: 3}


def at(x):
    return x.ctypes.data, *(step // x.itemsize for step in x.strides)


def normal(dtype, *shape):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


n_calls = 0
SHAPES = ((1, 1, 1), (1, 1, 0), (3, 1, 65), (2, 9, 7))
cases = [*itertools.product(CODES, (1, 3, 6), SHAPES, (False, True)), *((x, 64, (1, 1, 3), False) for x in CODES)]
for i, (dtype, n, (S, R, T), shared) in enumerate(cases):
    threads = 1 + 2 * (i % 2)
    code, is_complex = CODES[dtype], np.dtype(dtype).kind == "c"
    w = 2 * n if is_complex else n
    sizes = {0: 6 + 2 * n + 4 * n * n + -(-n * n // 8), 1: 6 + 2 * w * (-(-w // 4) * 4)}
    for repeated in (False, True):  # equal eigenvalues are taken time by time
        Xi = np.stack([-np.eye(n, dtype=dtype)] * S) if repeated else normal(dtype, S, n, n) / np.sqrt(n).astype("f4")
        Xi = Xi.astype(dtype)
        z0, g = normal(dtype, S, R, n), normal(dtype, S, R, T, n)
        t = rng.uniform(0, 3, (1, 1, T) if shared else (S, R, T))
        t = np.broadcast_to(t, (S, R, T))
        own_times = rng.uniform(0, 3, S)
        for kind in (0, 1):
            latest = own_times.ctypes.data if kind == 0 and not shared else 0
            plans, n_refused, t_needed, structure = small.plan(kind, code, *at(Xi), S, n, 1e9, 3.0, latest, threads)
            if structure:  # one state, or repeated eigenvalues: eig leaves these plans to its caller
                assert (kind, n_refused, len(plans)) == (0, S, 0) and (n == 1 or repeated)
                continue
            z, of_Xi, of_z0 = np.empty((S, R, T, n), dtype), np.empty((S, n, n), dtype), np.empty((S, R, n), dtype)
            head = (plans, code, S, R, T, n, *at(z0), *at(t))
            norm, is_diagonal, is_metzler, start, least, most, smallest = small.sizes(code, *at(Xi), S, n, *head[1:])
            assert np.isclose(norm, np.abs(Xi).sum(1).max()) and is_diagonal == (n == 1 or repeated)
            assert (least, most) == (0, t.max(initial=0)) and start >= smallest > 0
            assert small.states(*head, z.ctypes.data, threads) == 0
            assert small.vjp(*head, *at(g), of_Xi.ctypes.data, of_z0.ctypes.data, threads) == 0
            assert np.isfinite(z).all() and np.isfinite(of_Xi).all() and np.isfinite(of_z0).all()
            if kind == 1 and T:  # times that no plan has room for
                for wrong in (np.full((S, R, T), -1.0), np.full((S, R, T), 1e300), np.full((S, R, T), np.nan)):
                    own = (*head[:-4], *at(wrong))
                    assert small.states(*own, z.ctypes.data, threads) == 1
                    assert small.vjp(*own, *at(g), of_Xi.ctypes.data, of_z0.ctypes.data, threads) == 1
            n_calls += 3
for value in (np.nan, np.inf, 1e300, 1e-320, 0.0):  # whatever stands in a matrix, memory is not touched
    Xi, t = np.full((1, 4, 4), value), np.linspace(0, 1, 9)[None, None]
    for kind in (0, 1):
        plans, n_refused, *_ = small.plan(kind, 1, *at(Xi), 1, 4, 1e9, 1.0, 0, 1)
        assert n_refused in (0, 1)
        if plans:
            z0, z = np.ones((1, 1, 4)), np.empty((1, 1, 9, 4))
            small.states(plans, 1, 1, 1, 9, 4, *at(z0), *at(t), z.ctypes.data, 1)
for wrong in (0, -1, 65):
    try:
        small.plan(0, 1, 0, 0, 0, 0, 1, wrong, 1.0, 1.0, 0, 1)
    except ValueError as error:
        assert "beyond" in str(error)
    else:
        raise AssertionError("n was not checked")
try:
    small.plan(0, 1)
except TypeError as error:
    assert "too few" in str(error)
print(n_calls, "calls")
"""


def compiled(compiler: str, target: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    include = sysconfig.get_paths()["include"]
    command = [
        compiler,
        "-std=c11",
        *flags,
        "-fPIC",
        "-shared",
        f"-I{include}",
        SOURCE,
        "-o",
        target,
        "-lm",
        "-lpthread",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_compiler_has_a_warning(compiler: str, tmp_path: Path):
    done = compiled(compiler, tmp_path / "small.so", "-O3", "-Wall", "-Wextra", "-Werror")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_call_reads_or_writes_where_it_must_not(compiler: str, tmp_path: Path):
    library, script = tmp_path / "small.so", tmp_path / "calls.py"
    done = compiled(compiler, library, "-O1", "-g", SANITIZERS, "-fno-sanitize-recover=all", "-shared-libasan")
    if done.returncode and "shared-libasan" in done.stderr:  # gcc's is shared anyway
        done = compiled(compiler, library, "-O1", "-g", SANITIZERS, "-fno-sanitize-recover=all")
    if done.returncode:
        pytest.skip(f"{compiler} has no sanitizers here: {done.stderr.splitlines()[-1]}")
    script.write_text(CALLS)
    name = "libasan.so" if compiler == "gcc" else "libclang_rt.asan-x86_64.so"
    runtime = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    preload = runtime.stdout.strip()
    if not Path(preload).is_file():
        pytest.skip(f"{compiler} has no {name} here")
    # Python does not free all that it takes, and OpenBLAS starts threads of its own
    own = {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, script, library], capture_output=True, text=True, check=False, env={**os.environ, **own}
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "calls" in ran.stdout
