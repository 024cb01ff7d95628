"""MATLAB files, read by scipy.io in a process of its own.

Damaged files can make scipy.io.loadmat end its process by a segmentation fault (seen with scipy 1.17), or ask for any
amount of memory; here that ends the child process, and is reported as other errors are. It takes about 0.3 s.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])  # that of the parent; -I prevents imports from the current folder
import io, numpy, scipy.io, scipy.sparse
try:
    found = scipy.io.loadmat(io.BytesIO(sys.stdin.buffer.read()))
except NotImplementedError:
    sys.exit("is a MATLAB 7.3 file: save it with -v7")
except (Exception, MemoryError) as error:
    sys.exit("is no readable .mat file: " + " ".join(str(error).split())[:200])
arrays = {}
for name, x in found.items():
    x = x.toarray() if scipy.sparse.issparse(x) else x
    if isinstance(x, numpy.ndarray) and x.dtype.kind in "biufc":
        arrays[name] = x
numpy.savez(sys.stdout.buffer, **arrays)
"""
PATIENCE = 60.0  # seconds that reading may take


def arrays_of_mat(data: bytes) -> dict[str, NDArray[Any]]:
    """Arrays of numbers in a MATLAB file by name; text, cells and structures are left out.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    folders = [x for x in sys.path if x]  # "" is the current folder
    command = [sys.executable, "-I", "-W", "ignore", "-c", CHILD, json.dumps(folders)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"is no readable .mat file: nothing came of it in {PATIENCE:g} s") from None
    if done.returncode == 1 and done.stderr:
        raise ValueError(done.stderr.decode(errors="replace").strip().splitlines()[-1])
    if done.returncode:
        raise ValueError("is no readable .mat file: reading it crashed scipy.io; it is damaged")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
