"""Output files: written completely or not at all, and replacing a file only with --force."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy

from .errors import MISSING, Refusal, bad_file, needs
from .tables import Array

TABLES = (".csv", ".npz", ".json", ".parquet")
SYSTEMS = (".npz", ".json", ".mat")
PICTURES = (".png", ".pdf", ".svg")


class Output:
    """A file that is written at the end; the constructor checks that it can be."""

    def __init__(self, path: Path, suffixes: tuple[str, ...], force: bool) -> None:
        self.path, self.force = path, force
        self.target = Path(os.path.realpath(path))  # a link stays a link: its target is replaced
        if path.suffix.lower() not in suffixes:
            raise Refusal(f"{path}: must end with one of {', '.join(suffixes)}")
        if path.exists() and not path.is_file():
            raise Refusal(f"{path}: is no file that could be replaced")
        if path.exists() and not force:
            raise Refusal(f"{path}: is there already; --force replaces it")
        folder = self.target.parent
        if not folder.is_dir():
            raise bad_file(path, f"there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise bad_file(path, f"the folder {folder} cannot be written to")
        if path.suffix.lower() == ".parquet" and not _has_parquet():
            raise Refusal(f"{path}: parquet needs pandas and pyarrow: pip install pandas pyarrow", MISSING)
        if path.suffix.lower() in PICTURES and importlib.util.find_spec("matplotlib") is None:
            raise needs("matplotlib", "plot")

    def write(self, fill: Callable[[BinaryIO], object]) -> None:
        """Write a temporary file in the same folder, and rename it when it is complete."""
        name = ""
        try:
            handle, name = tempfile.mkstemp(dir=self.target.parent, prefix=f".{self.path.name[:100]}.")
            with os.fdopen(handle, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            if self.force:
                os.replace(name, self.target)
            else:
                self._take_name(name)
        except OSError as error:
            raise bad_file(self.path, f"cannot be written: {error.strerror or error}") from None
        finally:
            with suppress(OSError):
                os.unlink(name)

    def _take_name(self, name: str) -> None:
        """Rename the temporary file; fail if a file of that name exists by now."""
        try:
            os.link(name, self.target)
        except FileExistsError:
            raise Refusal(f"{self.path}: is there already; --force replaces it") from None
        except OSError:  # this file system has no links
            if self.path.exists():
                raise Refusal(f"{self.path}: is there already; --force replaces it") from None
            os.replace(name, self.target)


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
        output.write(lambda file: np.savez_compressed(file, **columns))  # type: ignore[arg-type]
    else:
        frame = importlib.import_module("pandas").DataFrame(real_columns(columns))
        output.write(lambda file: frame.to_parquet(file, index=False))


def write_system(output: Output, arrays: dict[str, Array]) -> None:
    suffix = output.path.suffix.lower()
    if suffix == ".json":
        text = json_text(arrays)
        output.write(lambda file: file.write(text.encode()))
    elif suffix == ".npz":
        output.write(lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    else:
        output.write(lambda file: scipy.io.savemat(file, arrays, oned_as="column"))


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
