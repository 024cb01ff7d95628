"""The compiled kernel as C: no warnings of two compilers, and no fault under the sanitizers.

The sanitized build is called with NumPy arrays that are shown to it as torch shows tensors, without torch, whose own
memory the sanitizer would watch too.
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
import ctypes, importlib.util, itertools, sys
import numpy as np
from scipy.linalg import cython_lapack

spec = importlib.util.spec_from_file_location("_small", sys.argv[1])
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)
small.use_lapack(cython_lapack.__pyx_capi__)


class View(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32 * 2), ("n_dims", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    ]


class Array:  # as torch shows its tensors to C: the memory of a NumPy array
    is_negated = False

    def __init__(self, x):
        self.x = x
        self.shape = (ctypes.c_int64 * x.ndim)(*x.shape)
        self.strides = (ctypes.c_int64 * x.ndim)(*(step // x.itemsize for step in x.strides))

    def is_neg(self):
        return self.is_negated

    def is_conj(self):
        return False


class Parameter(Array):
    pass


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(View))
def view(array, out):
    x, own = array.x, out.contents
    own.data, own.device[0], own.n_dims, own.offset = x.ctypes.data, 1, x.ndim, 0
    own.code, own.bits, own.lanes = {"f": 2, "c": 5, "i": 0}[x.dtype.kind], 8 * x.itemsize, 1
    own.shape, own.strides = array.shape, array.strides
    return 0


class Table(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32 * 2), ("others", ctypes.c_void_p * 4), ("view", ctypes.c_void_p),
                ("stream", ctypes.c_void_p)]


table = Table(version=(1, 3), view=ctypes.cast(view, ctypes.c_void_p))
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
capsule = new_capsule(ctypes.addressof(table), b"dlpack_exchange_api", None)
n_threads = 1
small.use_torch(capsule, Array, Parameter, lambda: 0, lambda: None, lambda: n_threads)
rng = np.random.default_rng(0)
WORK = 4e6
assert small.n_threads(WORK) == 1
n_threads = 2
assert (small.n_threads(WORK), small.n_threads(WORK / 4)) == (2, 1)


def normal(dtype, *shape):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def raises(error, function, *arguments):
    try:
        function(*arguments)
    except error:
        return True
    return False


n_calls = 0
SHAPES = ((1, 1, 1), (1, 1, 0), (3, 1, 65), (2, 9, 7), (1, 20, 7), (1, 1, 1100))
DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
cases = [*itertools.product(DTYPES, (1, 3, 6), SHAPES, (False, True)), *((x, 64, (1, 1, 3), False) for x in DTYPES)]
for i, (dtype, n, (S, R, T), shared) in enumerate(cases):
    for repeated in (False, True):  # equal eigenvalues are taken time by time
        Xi = np.stack([-np.eye(n, dtype=dtype)] * S) if repeated else normal(dtype, S, n, n) / np.sqrt(n).astype("f4")
        Xi = Array(Xi.astype(dtype))
        z0, g = Array(normal(dtype, S, R, n)), Array(normal(dtype, S, R, T, n))
        t = rng.uniform(0, 3, (1, 1, T) if shared else (S, R, T))
        t = Array(np.broadcast_to(t, (S, R, T)))
        own_times = Array(rng.uniform(0, 3, S))
        for kind in (0, 1):
            latest = own_times if kind == 0 and not shared else None
            assert raises(ValueError, small.plan, kind, Xi, 1e9, 3.0, Array(np.ones(S + 1)))
            plans, n_refused, t_needed, structure = small.plan(kind, Xi, 1e9, 3.0, latest)
            if structure:  # one state, or repeated eigenvalues: eig leaves these plans to its caller
                assert (kind, n_refused, len(plans)) == (0, S, 0) and (n == 1 or repeated)
                continue
            z, of_Xi, of_z0 = (Array(np.empty(shape, dtype)) for shape in ((S, R, T, n), (S, n, n), (S, R, n)))
            *places, norm, is_diagonal, is_metzler, start, least, most, smallest = small.look(Xi, z0, t)
            assert places == [z0.x.ctypes.data, t.x.ctypes.data] and small.look(None, z0, t) == tuple(places)
            assert np.isclose(norm, np.abs(Xi.x).sum(1).max()) and is_diagonal == (n == 1 or repeated)
            assert (least, most) == (0, t.x.max(initial=0)) and start >= smallest > 0
            assert small.sizes(Xi) == (norm, is_diagonal, is_metzler)
            assert small.states(plans, z0, t, z) == 0
            head = plans, z0, t, *places
            assert small.vjp(*head, g, of_Xi, of_z0) == 0
            assert np.isfinite(z.x).all() and np.isfinite(of_Xi.x).all() and np.isfinite(of_z0.x).all()
            assert small.largest(z) == max(np.abs(z.x.real).max(initial=0), np.abs(z.x.imag).max(initial=0))
            # nothing is written where there is no room, nor read beyond what is there
            rooms = [np.empty((S, R, T + 1, n), dtype), np.empty((S, R, T, n), np.int64)]
            for room in (*rooms, z.x[..., ::-1]) if n > 1 and T else rooms:
                assert raises(ValueError, small.states, plans, z0, t, Array(room))
            assert raises(ValueError, small.vjp, *head, g, Array(z0.x.copy()), of_z0) or (R, n) == (n, 1)
            assert raises(RuntimeError, small.vjp, plans, z0, t, places[0] + 8, places[1], g, of_Xi, of_z0)
            assert small.vjp(*head, Array(normal(dtype, S, R, T + 1, n)), of_Xi, of_z0) is None
            assert raises(ValueError, small.states, plans[:-8], z0, t, z)
            assert raises(TypeError, small.states, b"", z0, t, z)
            if min(S, R) == 1 and (S, R, T) != (1, 1, 0):  # one trajectory of each system, or all of one
                short = [Array(x.x.reshape(-1, *x.x.shape[2:])) for x in (z0, t, z, g)]
                own = Array(np.empty_like(short[2].x)), Array(np.empty_like(of_Xi.x)), Array(np.empty_like(short[0].x))
                for times in (short[1], Array(np.ascontiguousarray(short[1].x[0]))) if shared else short[1:2]:
                    assert small.states(plans, short[0], times, own[0]) == 0
                    assert (own[0].x == short[2].x).all()
                    places = small.look(Xi, short[0], times)[:2]
                    assert small.vjp(plans, short[0], times, *places, short[3], *own[1:]) == 0
                    assert (own[1].x == of_Xi.x).all() and (own[2].x.ravel() == of_z0.x.ravel()).all()
            if kind == 1 and T:  # times that no plan has room for
                for wrong in (np.full((S, R, T), -1.0), np.full((S, R, T), 1e300), np.full((S, R, T), np.nan)):
                    own = Array(wrong)
                    assert small.states(plans, z0, own, z) == 1
                    assert small.vjp(plans, z0, own, places[0], wrong.ctypes.data, g, of_Xi, of_z0) == 1
            n_calls += 3
for value in (np.nan, np.inf, 1e300, 1e-320, 0.0):  # whatever stands in a matrix, memory is not touched
    Xi, t = Array(np.full((1, 4, 4), value)), Array(np.linspace(0, 1, 9)[None, None])
    for kind in (0, 1):
        plans, n_refused, *_ = small.plan(kind, Xi, 1e9, 1.0, None)
        assert n_refused in (0, 1)
        if plans:
            small.states(plans, Array(np.ones((1, 1, 4))), t, Array(np.empty((1, 1, 9, 4))))
negated = Array(np.ones((2, 2)))
negated.is_negated = True
for wrong in (np.ones((0, 0)), np.ones((65, 65)), np.ones((2, 3)), np.ones(3), np.ones((2, 2), np.int64)):
    assert small.plan(0, Array(wrong), 1.0, 1.0, None) is None and not small.serves(Array(wrong))
for wrong in (negated, 1.0, None, np.ones((2, 2))):
    assert small.plan(0, wrong, 1.0, 1.0, None) is None and small.largest(wrong) is None
    assert not small.is_system(wrong, wrong)
one = Array(np.ones(2))
assert small.is_system(Array(np.eye(2)), one) and not small.is_system(Array(np.eye(2) * np.inf), one)
assert (small.rank_of_times(one), small.rank_of_times(Array(np.ones(2, "f4"))), small.extremes(one)) == (1, 0, (0, 1))
assert raises(TypeError, small.plan, 0, one)
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
