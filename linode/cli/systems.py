"""Systems in files: Xi, z0, b, B and more, as .npz, .json, .mat or .csv. Nothing in a file is executed."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import meant
from .clock import Clock, clock_of, unit_of
from .errors import Refusal, bad_file, listed
from .files import MOST_BYTES, STDIN, decoded, is_there, read_bytes
from .matfile import arrays_of_mat
from .tables import Array, clean, is_number, read_column, read_matrix

# numbers of dimensions; y = C z(t - t0) + D u(t) + offset are the channels of a fit
MATRICES = {"Xi": 2, "B": 2, "C": 2, "D": 2, "z0": 1, "b": 1, "offset": 1, "t0": 0}
OTHER_NAMES = {"A": "Xi", "x0": "z0", "xi": "Xi"}
TEXTS = ("names", "time_name", "time_unit", "time_origin")  # of channels, or states without C; of the axis of time
UNUSED = "stderr"  # the end of names of standard errors, which `linode fit --save` writes for people


@dataclass(frozen=True)
class System:
    """Arrays of a file, by the names in MATRICES; a remark on it, or ""; and what its axes are called."""

    path: Path
    arrays: dict[str, Array]
    remark: str = ""
    names: list[str] | None = None
    time_name: str = "t"
    time_unit: str = ""
    clock: Clock | None = None

    @property
    def n(self) -> int:
        return len(self.arrays["Xi"])

    @property
    def t0(self) -> float:
        """The time at which z0 is the state."""
        return float(self.arrays["t0"]) if "t0" in self.arrays else 0.0


def read_system(path: Path, z0: str | None, needs_z0: bool = True) -> System:
    """A system from a file, with arrays of matching shapes.

    Raises:
        Refusal: the file cannot be read or holds no system, shapes do not match, or z0 is missing.
    """
    found = _named(path, _raw(path))
    others = f"; it has {listed(sorted(found))}"
    if "Xi" not in found:
        raise bad_file(path, f"has no Xi (or A){others}")
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
    _check_outputs(path, arrays)
    if needs_z0 and "z0" not in arrays:
        there = "" if set(found) == {"Xi"} else others
        raise Refusal(f"{path} holds no z0: give --z0, numbers with commas between them or a file{there}")
    texts = {name: found[name] for name in TEXTS if name in found}
    return System(path, arrays, _unused(path, found), **_axes(path, arrays, texts))


def _unused(path: Path, found: dict[str, Any]) -> str:
    """What a file holds in vain, in words; text is a note."""
    used = {*MATRICES, *TEXTS}
    unknown = sorted(x for x in found if x not in used and not x.endswith(UNUSED) and not _is_text(found[x]))
    if not unknown:
        return ""
    guess = next((words for name in unknown if (words := meant(name, [*MATRICES, *OTHER_NAMES, *TEXTS]))), "")
    return f"{path}: {listed(unknown)} {'is' if len(unknown) == 1 else 'are'} not used{guess}"


def _named(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """What a file holds, by the names used here."""
    found: dict[str, Any] = {}
    for given, value in raw.items():
        name = OTHER_NAMES.get(given, clean(given))
        if name in found:
            raise bad_file(path, f"holds {name} twice, as {listed(x for x in raw if OTHER_NAMES.get(x, x) == name)}")
        found[name] = value
    return found


def _check_outputs(path: Path, arrays: dict[str, Array]) -> None:
    """Check that offset, D and C have the same number of channels, and D and B of inputs."""
    n_channels = len(arrays["C"]) if "C" in arrays else len(arrays["Xi"])
    for name in ("offset", "D"):
        if name in arrays and len(arrays[name]) != n_channels:
            raise bad_file(path, f"{name} has shape {arrays[name].shape}, but there are {n_channels} channels")
    if "D" in arrays and ("B" not in arrays or arrays["B"].shape[1] != arrays["D"].shape[1]):
        raise bad_file(path, f"D has shape {arrays['D'].shape}; it must have as many columns as B")


def _axes(path: Path, arrays: dict[str, Array], texts: dict[str, Any]) -> dict[str, Any]:
    """Names of channels and of the time, and the clock, as arguments of `System`."""
    for name, value in texts.items():
        if not _is_text(value):
            raise bad_file(path, f"{name} must be text, and is {type(value).__name__}")
    told = {name: [clean(str(x)) for x in np.atleast_1d(np.asarray(value)).ravel()] for name, value in texts.items()}
    names = told.get("names")
    count = len(arrays["C"]) if "C" in arrays else len(arrays["Xi"])
    if names is not None and len(names) != count:
        raise bad_file(path, f"names holds {len(names)} names, but there are {count} channels")
    if names is not None and max(Counter(names).values()) > 1:
        raise bad_file(path, "names holds a name twice")
    unit = unit_of(told["time_unit"][0], f"{path}: time_unit") if told.get("time_unit") else ""
    clock = clock_of(told["time_origin"], unit or "day") if told.get("time_origin") else None
    if told.get("time_origin") and clock is None:
        raise bad_file(path, f"time_origin is no date: {told['time_origin'][0][:40]!r}")
    return {"names": names, "time_name": told.get("time_name", ["t"])[0], "time_unit": unit, "clock": clock}


def _is_text(x: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.dtype.kind == "U"
    return isinstance(x, str) or (isinstance(x, list) and bool(x) and all(isinstance(y, str) for y in x))


def read_vector(text: str) -> Array:
    """An array from numbers with commas between them, or from a file."""
    cells = text.split(",")
    if all(is_number(cell) for cell in cells):
        return np.array([float(cell) for cell in cells])
    return read_array(Path(text), ("z0", "x0"), "--z0")


def read_array(path: Path, names: tuple[str, ...], what: str, clock: Clock | None = None) -> Array:
    """A flat array from .npy, .npz, .json, .mat or text; in a file of named arrays the first of `names` there is."""
    if not is_there(path):
        raise bad_file(path, f"no such file, and no numbers for {what} either")
    suffix, data = path.suffix.lower(), read_bytes(path)
    if suffix == ".npy":
        return _numeric(path, what, _load(path, data)).ravel()
    if suffix not in (".npz", ".mat", ".json"):
        return read_column(path, decoded(path, data), names, clock)
    found = _named(path, READERS[suffix](path, data))
    name = next((x for x in (OTHER_NAMES.get(x, x) for x in names) if x in found), None)
    if name is None:
        raise bad_file(path, f"has no {' or '.join(names)}; it has {listed(sorted(found))}")
    return _numeric(path, name, found[name]).ravel()


# ---- formats ----------------------------------------------------------------------------------------------------


def _raw(path: Path) -> dict[str, Any]:
    """All that a file holds, by the names in it."""
    if path == STDIN:
        data = read_bytes(path)
        kinds = {b"PK": ".npz", b"MATLAB": ".mat", b"{": ".json"}
        suffix = next((suffix for mark, suffix in kinds.items() if data.lstrip().startswith(mark)), ".csv")
        return READERS[suffix](path, data)
    suffix = path.suffix.lower()
    if suffix not in READERS:
        missing = "" if is_there(path) else ", and there is no such file"
        told = f"a system is read from {', '.join(READERS)}, not from {suffix or 'a name without suffix'}"
        raise Refusal(f"{path}: {told}{missing}")
    return READERS[suffix](path, read_bytes(path))


def _load(path: Path, data: bytes) -> Any:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (Exception, MemoryError) as error:
        raise bad_file(path, f"is no file of NumPy arrays: {error}") from None


def _npz(path: Path, data: bytes) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
            repeated = [name for name, count in Counter(archive.namelist()).items() if count > 1]
        if size > MOST_BYTES:
            raise bad_file(path, f"unpacks to {size / 2**30:.3g} GiB, more than {MOST_BYTES / 2**30:g}")
        if repeated:
            raise bad_file(path, f"holds {listed(repeated)} twice")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (Exception, MemoryError) as error:
        if isinstance(error, Refusal):
            raise
        raise bad_file(path, f"is no readable .npz file: {error}") from None


def _json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(decoded(path, data), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise bad_file(path, f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise bad_file(path, "is nested too deeply") from None
    except ValueError as error:
        raise bad_file(path, str(error)) from None
    if not isinstance(found, dict):
        raise bad_file(path, f"holds a {type(found).__name__}; it must hold an object with Xi and z0")
    return {name: _complex(path, name, x) for name, x in found.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name[:40]!r} is there twice")
    return found


def _complex(path: Path, name: str, x: Any) -> Any:
    if isinstance(x, dict) and (name in MATRICES or name in OTHER_NAMES):
        if set(x) != {"re", "im"}:
            raise bad_file(path, f"{name} is an object; complex arrays are objects with re and im")
        real, imaginary = (_numeric(path, f"{name}.{part}", x[part]) for part in ("re", "im"))
        if real.shape != imaginary.shape:
            raise bad_file(path, f"{name} has re of shape {real.shape} and im of shape {imaginary.shape}")
        return real + 1j * imaginary
    return x


def _mat(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return dict(arrays_of_mat(data, TEXTS, MOST_BYTES))
    except ValueError as error:
        raise bad_file(path, str(error)) from None


def _csv(path: Path, data: bytes) -> dict[str, Any]:
    return {"Xi": read_matrix(path, decoded(path, data))}


READERS: dict[str, Callable[[Path, bytes], dict[str, Any]]] = {
    ".npz": _npz,
    ".json": _json,
    ".mat": _mat,
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _csv,
}


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
        raise bad_file(path, f"{name}{f'[{where}]' if where else ''} is not finite")
    return array


def _shaped(path: Path, name: str, x: Any) -> Array:
    array, ndim = _numeric(path, name, x), MATRICES[name]
    if ndim == 1 and array.ndim == 2 and 1 in array.shape:  # MATLAB has no arrays of less than two dimensions
        array = array.ravel()
    if ndim == 0 and array.size == 1:
        array = array.reshape(())
    if array.ndim != ndim or array.size == 0:
        raise bad_file(path, f"{name} has shape {array.shape}; it must have {ndim} dimension{'s' * (ndim != 1)}")
    if name == "t0" and np.iscomplexobj(array):
        raise bad_file(path, "t0 is complex")
    return array
