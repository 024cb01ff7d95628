"""Bytes and text of files and of standard input, which is called "-": regular files only, up to a limit of size."""

from __future__ import annotations

import codecs
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from .console import counted
from .errors import Refusal, bad_file

STDIN = Path("-")
MOST_BYTES = 2**30  # of a file, and of what it unpacks to: 1 GiB
CHUNK = 2**22
BOMS = (  # those of UTF-32 before those of UTF-16, with which they begin
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def is_there(path: Path) -> bool:
    """Whether there is a file of this name, or it is standard input; False for a name that no file can have."""
    try:
        return path == STDIN or (path.exists() and not path.is_dir())
    except (OSError, ValueError):
        return False


def check_stdin(*names: object) -> None:
    """Check that at most one of the names is that of standard input, which can be read once only.

    Raises:
        Refusal: two of them are.
    """
    if [str(name) for name in names].count("-") > 1:
        raise Refusal("- is given twice, but standard input can be read once only")


def read_bytes(path: Path) -> bytes:
    """All bytes of a regular file, or of standard input.

    Raises:
        Refusal: it cannot be read, is a folder, a device or a pipe, or is larger than MOST_BYTES.
    """
    try:
        if path == STDIN:
            if sys.stdin is None:
                raise bad_file(path, "is closed")
            return _limited(path, sys.stdin.buffer, 0)
        # without waiting: a pipe to which nobody writes would wait for ever
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise bad_file(
                    path, "cannot be read: it is a device or a pipe; pipe it into the command, and give - as its name"
                )
            return _limited(path, file, info.st_size)
    except OSError as error:
        raise bad_file(path, f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a null character in its name
        raise bad_file(path, f"cannot be read: {error}") from None


def _limited(path: Path, file: BinaryIO, size: int) -> bytes:
    """What is left of an open file, if it is not too much; size: in bytes if it is known, else 0."""
    too_much = bad_file(path, f"is larger than {MOST_BYTES / 2**30:g} GiB")
    if size > MOST_BYTES:
        raise too_much
    parts, n_read = [], 0
    with counted(f"reading {path}", size) as advance:
        while part := file.read(CHUNK):
            parts.append(part)
            n_read += len(part)
            if n_read > MOST_BYTES:  # it grows, or its size is not known before
                raise too_much
            advance(len(part))
    return b"".join(parts)


def read_text(path: Path) -> str:
    return decoded(path, read_bytes(path))


def decoded(path: Path, data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 with the mark by which these begin, as Excel writes it.

    Raises:
        Refusal: it is in none of these.
    """
    name = next((name for mark, name in BOMS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is {data[error.start]:#04x}" if error.start < len(data) else "it ends too early"
        what = name.upper().removesuffix("-SIG")
        raise bad_file(path, f"is no {what} text: {where}; save it as UTF-8") from None
