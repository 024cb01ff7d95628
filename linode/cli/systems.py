"""Systems in files: Xi, z0, b and B, as .npz, .json, .mat or .csv. Nothing in a file is executed."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import Refusal, bad_file
from .matfile import arrays_of_mat
from .tables import MOST_BYTES, Array, is_number, is_there, read_bytes, read_matrix, read_table, read_text

MATRICES = {"Xi": 2, "B": 2, "C": 2, "z0": 1, "b": 1}  # numbers of dimensions
OTHER_NAMES = {"A": "Xi", "x0": "z0", "xi": "Xi"}


@dataclass(frozen=True)
class System:
    """Arrays of a file, by the names in MATRICES."""

    path: Path
    arrays: dict[str, Array]

    @property
    def n(self) -> int:
        return len(self.arrays["Xi"])


def read_system(path: Path, z0: str | None, needs_z0: bool = True) -> System:
    """A system from a file, with arrays of matching shapes.

    Raises:
        Refusal: the file cannot be read or holds no system, shapes do not match, or z0 is missing.
    """
    readers = {".npz": _npz, ".json": _json, ".mat": _mat, ".csv": _csv, ".tsv": _csv, ".txt": _csv}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise Refusal(
            f"{path}: a system is read from {', '.join(readers)}, not from {suffix or 'a name without suffix'}"
        )
    found = {OTHER_NAMES.get(name, name): value for name, value in readers[suffix](path).items()}
    if "Xi" not in found:
        raise bad_file(path, f"has no Xi (or A); it has {', '.join(sorted(found)) or 'nothing'}")
    arrays = {name: _shaped(path, name, found[name]) for name in MATRICES if name in found}
    if z0 is not None:
        arrays["z0"] = read_vector(z0)
    n = len(arrays["Xi"])
    if arrays["Xi"].shape != (n, n):
        raise bad_file(path, f"Xi has shape {arrays['Xi'].shape}; it must be (n, n)")
    for name, axis in (("z0", 0), ("b", 0), ("B", 0), ("C", 1)):
        if name in arrays and arrays[name].shape[axis] != n:
            where = "--z0" if name == "z0" and z0 is not None else f"{path}: {name}"
            raise Refusal(f"{where} has shape {arrays[name].shape}, but Xi is {n} x {n}")
    if needs_z0 and "z0" not in arrays:
        raise Refusal(f"{path} holds no z0: give --z0, numbers with commas between them or a file")
    return System(path, arrays)


def read_vector(text: str) -> Array:
    """An array from numbers with commas between them, or from a file."""
    cells = text.split(",")
    if all(is_number(cell) for cell in cells):
        return np.array([float(cell) for cell in cells])
    return read_array(Path(text), ("z0", "x0"), "--z0")


def read_array(path: Path, names: tuple[str, ...], what: str) -> Array:
    """A flat array from .npy, .npz, .json, .mat or text; in a file of named arrays the first of `names` there is."""
    suffix = path.suffix.lower()
    if not is_there(path):
        raise bad_file(path, f"no such file, and no numbers for {what} either")
    if suffix == ".npy":
        return _numeric(path, what, _load(path)).ravel()
    if suffix in (".npz", ".mat", ".json"):
        found = {".npz": _npz, ".mat": _mat, ".json": _json}[suffix](path)
        name = next((x for x in names if x in found), None)
        if name is None:
            raise bad_file(path, f"has no {' or '.join(names)}; it has {', '.join(sorted(found)) or 'nothing'}")
        return _numeric(path, name, found[name]).ravel()
    rows = read_text(path).split()
    if rows and not is_number(rows[0].split(",")[0]):  # a header
        table = read_table(path)
        return table.numbers(next((x for x in names if x in table.names), table.names[0]), may_miss=False)
    return read_matrix(path).ravel()


# ---- formats ----------------------------------------------------------------------------------------------------


def _load(path: Path) -> Any:
    data = read_bytes(path)
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (Exception, MemoryError) as error:
        raise bad_file(path, f"is no file of NumPy arrays: {error}") from None


def _npz(path: Path) -> dict[str, Any]:
    data = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MOST_BYTES:
            raise bad_file(path, f"unpacks to {size / 2**30:.3g} GiB, more than {MOST_BYTES / 2**30:g}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (Exception, MemoryError) as error:
        if isinstance(error, Refusal):
            raise
        raise bad_file(path, f"is no readable .npz file: {error}") from None


def _json(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise bad_file(path, f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise bad_file(path, "is nested too deeply") from None
    except ValueError as error:
        raise bad_file(path, str(error)) from None
    if not isinstance(found, dict):
        raise bad_file(path, f"holds a {type(found).__name__}; it must hold an object with Xi and z0")
    return {name: _complex(path, name, x) for name, x in found.items() if not isinstance(x, str) and name != "names"}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(x for x in names if names.count(x) > 1)!r} is there twice")
    return found


def _complex(path: Path, name: str, x: Any) -> Any:
    if isinstance(x, dict):
        if set(x) != {"re", "im"}:
            raise bad_file(path, f"{name} is an object; complex arrays are objects with re and im")
        return _numeric(path, name, x["re"]) + 1j * _numeric(path, name, x["im"])
    return x


def _mat(path: Path) -> dict[str, Any]:
    try:
        return dict(arrays_of_mat(read_bytes(path)))
    except ValueError as error:
        raise bad_file(path, str(error)) from None


def _csv(path: Path) -> dict[str, Any]:
    return {"Xi": read_matrix(path)}


def _numeric(path: Path, name: str, x: Any) -> Array:
    try:
        array = np.asarray(x)
    except (ValueError, TypeError, OverflowError) as error:
        raise bad_file(path, f"{name} is no regular array: {error}") from None
    if array.dtype.kind not in "fciu" or array.dtype.itemsize > 16:
        raise bad_file(path, f"{name} holds no numbers: {array.dtype}")
    array = array.astype(complex if array.dtype.kind == "c" else float)
    if not np.isfinite(array).all():
        where = ", ".join(str(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise bad_file(path, f"{name}[{where}] is not finite")
    return array


def _shaped(path: Path, name: str, x: Any) -> Array:
    array, ndim = _numeric(path, name, x), MATRICES[name]
    if ndim == 1 and array.ndim == 2 and 1 in array.shape:  # MATLAB has no arrays of one dimension
        array = array.ravel()
    if array.ndim != ndim or array.size == 0:
        raise bad_file(path, f"{name} has shape {array.shape}; it must have {ndim} dimension{'s' * (ndim > 1)}")
    return array
