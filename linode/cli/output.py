"""Output files: written completely or not at all, and replacing a file only with --force."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import os
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy

from .errors import Refusal, bad_file, needs
from .tables import Array

TABLES = (".csv", ".npz", ".json", ".parquet")
SYSTEMS = (".npz", ".json", ".mat")
PICTURES = (".png", ".pdf", ".svg")


class Output:
    """A file that is written at the end; the constructor checks that it can be.

    A file that is replaced leaves its permissions, and where that is possible its owner, to the new one.
    """

    def __init__(self, path: Path, suffixes: tuple[str, ...], force: bool) -> None:
        self.path, self.force = path, force
        if path.suffix.lower() not in suffixes:
            raise Refusal(f"{path}: must end with one of {', '.join(suffixes)}")
        try:
            self.target = Path(os.path.realpath(path))  # a link stays a link: its target is replaced
            self.old = _status(self.target)
            if os.path.islink(path) and self.old is None and not force:
                raise Refusal(f"{path}: is a link to {self.target}, which is not there; --force writes that")
        except (OSError, ValueError) as error:  # a name that is too long, a null character
            raise bad_file(path, f"cannot be written: {getattr(error, 'strerror', None) or error}") from None
        if self.old is not None:
            if not stat.S_ISREG(self.old.st_mode):
                raise Refusal(f"{path}: is no file that could be replaced")
            if not force:
                raise Refusal(f"{path}: is there already; --force replaces it")
            if not self.old.st_mode & 0o222 or not os.access(self.target, os.W_OK):  # root may write to all
                raise bad_file(path, "is read-only, and is not replaced with --force either")
        folder = self.target.parent
        if not folder.is_dir():
            raise bad_file(path, f"there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise bad_file(path, f"the folder {folder} cannot be written to")
        if path.suffix.lower() == ".parquet" and not _has_parquet():
            raise needs("pandas", "pyarrow")
        if path.suffix.lower() in PICTURES and importlib.util.find_spec("matplotlib") is None:
            raise needs("matplotlib")

    def write(self, fill: Callable[[BinaryIO], object]) -> None:
        """Write a temporary file in the same folder, and rename it when it is complete."""
        name = ""
        try:
            handle, name = tempfile.mkstemp(dir=self.target.parent, prefix=f".{self.path.name[:40]}.")
            with os.fdopen(handle, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            self._set_permissions(name)
            if self.force:
                os.replace(name, self.target)
            else:
                self._take_name(name)
        except OSError as error:
            raise bad_file(self.path, f"cannot be written: {error.strerror or error}") from None
        finally:
            with suppress(OSError):
                os.unlink(name)

    def _set_permissions(self, name: str) -> None:
        if self.old is None:
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            return
        if hasattr(os, "chown") and (self.old.st_uid, self.old.st_gid) != (os.geteuid(), os.getegid()):
            with suppress(OSError):  # only root may
                os.chown(name, self.old.st_uid, self.old.st_gid)
        os.chmod(name, stat.S_IMODE(self.old.st_mode) & 0o777)

    def _take_name(self, name: str) -> None:
        """Rename the temporary file; fail if a file of that name exists by now."""
        try:
            os.link(name, self.target)
        except FileExistsError:
            raise Refusal(f"{self.path}: is there already; --force replaces it") from None
        except OSError:  # this file system has no links
            if os.path.lexists(self.path):
                raise Refusal(f"{self.path}: is there already; --force replaces it") from None
            os.replace(name, self.target)


def _status(path: Path) -> os.stat_result | None:
    """Of the file, or None if there is none; errors that are not its absence are raised."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def keep_apart(inputs: list[Path | None], outputs: list[Output | None]) -> None:
    """Check that no file is both read and written, and none written twice, with --force too.

    Raises:
        Refusal: two of them are the same file.
    """
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for output in outputs:
        if output is not None:
            if str(output.target) in taken:
                raise Refusal(f"{output.path}: is read, or written, by this command already; give another name")
            taken.add(str(output.target))


def write_table(output: Output | None, columns: dict[str, Array], extra: dict[str, Any] | None = None) -> None:
    """Write columns of equal length into a file, or as CSV to stdout."""
    if output is None:
        _write_csv(sys.stdout, columns)
        return
    suffix = output.path.suffix.lower()
    if suffix == ".csv":
        output.write(lambda file: _write_csv_bytes(file, columns))
    elif suffix == ".json":
        found = json_text({**(extra or {}), **columns})
        output.write(lambda file: file.write(found.encode()))
    elif suffix == ".npz":
        output.write(lambda file: _write_npz(file, columns))
    else:
        frame = importlib.import_module("pandas").DataFrame(real_columns(columns))
        output.write(lambda file: frame.to_parquet(file, index=False))


def write_system(output: Output, arrays: dict[str, Array]) -> None:
    suffix = output.path.suffix.lower()
    if suffix == ".json":
        text = json_text(arrays)
        output.write(lambda file: file.write(text.encode()))
    elif suffix == ".npz":
        output.write(lambda file: _write_npz(file, arrays))
    else:
        output.write(lambda file: scipy.io.savemat(file, arrays, oned_as="column"))


def sheet() -> Any:
    """A figure to draw on that pyplot does not know, so that nothing opens a window."""
    return importlib.import_module("matplotlib.figure").Figure(figsize=(7.0, 4.2), layout="constrained")


def write_picture(output: Output, figure: Any) -> None:
    kind = output.path.suffix.lower()[1:]
    output.write(lambda file: figure.savefig(file, format=kind, dpi=150))


def real_columns(columns: dict[str, Array]) -> dict[str, Array]:
    """Complex columns as two real ones."""
    found: dict[str, Array] = {}
    for name, x in columns.items():
        found |= {f"{name}.re": x.real, f"{name}.im": x.imag} if np.iscomplexobj(x) else {name: x}
    return found


def _write_csv_bytes(file: BinaryIO, columns: dict[str, Array]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    _write_csv(text, columns)
    text.detach()  # flushes the text and leaves the file open


def _write_csv(file: Any, columns: dict[str, Array]) -> None:
    flat = real_columns(columns)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(flat)
    for row in zip(*(x.tolist() for x in flat.values())):
        writer.writerow([repr(x) if isinstance(x, float) else x for x in row])


def _write_npz(file: BinaryIO, arrays: dict[str, Array]) -> None:
    """As numpy.savez_compressed, whose arguments cannot have every name: `file` is one of its own."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, x in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(x), allow_pickle=False)


def named_apart(columns: Iterable[tuple[str, Array]]) -> dict[str, Array]:
    """Columns of a table by name.

    Raises:
        Refusal: two of them have the same name.
    """
    found: dict[str, Array] = {}
    for name, x in columns:
        if name in found:
            raise Refusal(f"two columns of the result would be called {name!r}: rename that of the input")
        found[name] = x
    return found


def json_text(x: Any) -> str:
    """JSON whose digits give the same floats again; null for values that are not finite."""
    return json.dumps(_plain(x), allow_nan=False)


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {str(key): _plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    if isinstance(x, (np.ndarray, np.generic)):
        if np.iscomplexobj(x):
            return {"re": _plain(x.real), "im": _plain(x.imag)}
        return _plain(x.tolist())
    if isinstance(x, complex):
        return {"re": _plain(x.real), "im": _plain(x.imag)}
    return None if isinstance(x, float) and not np.isfinite(x) else x


def _has_parquet() -> bool:
    found = importlib.util.find_spec
    return found("pandas") is not None and any(found(x) is not None for x in ("pyarrow", "fastparquet"))
