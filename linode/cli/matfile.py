"""MATLAB files, read by scipy.io in a process of its own.

Damaged files can make scipy.io.loadmat end its process by a segmentation fault (seen with scipy 1.17), or ask for any
amount of memory; here that ends the child process, and is reported as other errors are. It takes about 0.3 s. Before
anything is unpacked, its size is counted: a file of 1 MB can hold 1 GB. Text is read only where it is asked for, and
cells, structures and objects never are.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHILD = """
import json, sys
# the parent's sys.path; -I prevents imports from the current folder
sys.path[:], texts, most = json.loads(sys.argv[1])
import io, zlib, numpy, scipy.io, scipy.sparse

def check(size):
    if size > most:
        sys.exit(f"unpacks to more than {most / 2**30:g} GiB")

def unpacked(data):
    # of version 5: a header of 128 bytes, then elements of (type, size, data); those of type 15 are compressed
    order = {b"IM": "little", b"MI": "big"}.get(data[126:128])
    total, place = len(data), 128
    while order and place + 8 <= len(data):
        kind, size = (int.from_bytes(data[i : i + 4], order) for i in (place, place + 4))
        if kind == 15:
            left = data[place + 8 : place + 8 + size]
            stream = zlib.decompressobj()
            while left and not stream.eof:
                total += len(stream.decompress(left, 2**20))
                left = stream.unconsumed_tail
                check(total)
        place += 8 + size
    return total

try:
    import resource
    limit = 6 * most + 2**31  # copies while it is read, and what Python and scipy take themselves
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
except (ImportError, OSError, ValueError):
    pass
try:
    data = sys.stdin.buffer.read()
    check(unpacked(data))
    numbers = {"double", "single", "sparse", "logical", *(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64))}
    wanted, size = [], 0
    for name, shape, kind in scipy.io.whosmat(io.BytesIO(data)):
        if kind in numbers or (kind == "char" and name in texts):
            wanted.append(name)
            count = 16
            for x in shape:
                count *= x
            size += count
            check(size)
    found = scipy.io.loadmat(io.BytesIO(data), variable_names=wanted)
except NotImplementedError:
    sys.exit("is a MATLAB 7.3 file: save it with -v7")
except (Exception, MemoryError) as error:
    sys.exit("is no readable .mat file: " + " ".join(str(error).split())[:200])
arrays = {}
for name, x in found.items():
    x = x.toarray() if scipy.sparse.issparse(x) else x
    if isinstance(x, numpy.ndarray) and x.dtype.kind in "biufcU":
        arrays[name] = x
numpy.savez(sys.stdout.buffer, **arrays)
"""
PATIENCE = 60.0  # seconds that reading may take


def arrays_of_mat(data: bytes, texts: Collection[str] = (), most: int = 2**30) -> dict[str, NDArray[Any]]:
    """Arrays of numbers in a MATLAB file by name, and those of the texts that it holds; all else is left out.

    Args:
        most: bytes that the file may unpack to.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    folders = [x for x in sys.path if x]  # "" is the current folder
    told = json.dumps([folders, list(texts), most])
    command = [sys.executable, "-I", "-W", "ignore", "-c", CHILD, told]
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
