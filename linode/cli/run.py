"""From arguments to an exit code: every error becomes one line on stderr."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Any

from typer.main import get_command

from ..errors import LinodeError
from .app import app
from .errors import BAD_FILE, OK, USAGE, Refusal, one_line


def run(arguments: list[str]) -> int:
    """The exit code of a command."""
    previous = _on_termination()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a status tells what matters
            if sys.stdout is None:  # the caller closed it
                return said("standard output is closed; --out FILE or > /dev/null", BAD_FILE)
            code = get_command(app).main(arguments, prog_name="linode", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else OK
    except BrokenPipeError:
        return quiet()
    except Refusal as error:
        return quiet() if error.code == OK else said(str(error), error.code)
    except LinodeError as error:
        return said(str(error), USAGE)
    except UnicodeEncodeError as error:
        letters = error.object[error.start : error.end]
        return said(
            f"standard output is {error.encoding}, which has no {letters!a}; set PYTHONIOENCODING=utf-8", BAD_FILE
        )
    except OSError as error:  # of stdout, such as a full disk, unless it names a file; most of those raise Refusal
        if error.filename is not None:
            return said(f"{error.filename}: {error.strerror}", BAD_FILE)
        return unwritten(error)
    except MemoryError:
        return said("not enough memory for that: ask for fewer times or states", USAGE)
    except Exception as error:
        if not hasattr(error, "format_message"):  # else an error of click, whose module depends on typer's version
            raise
        message = error.format_message()  # empty where help was shown
        code = getattr(error, "exit_code", USAGE)
        return said(message, code) if message else code
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def quiet() -> int:
    """Send stdout to the null device: its reader has closed it, and the process would fail again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def unwritten(error: OSError) -> int:
    """Report that stdout cannot be written, and drop the rest of it."""
    quiet()
    return said(f"standard output cannot be written: {error.strerror or error}", BAD_FILE)


def said(message: str, code: int) -> int:
    """Print the message as one line on stderr; returns the code."""
    print(f"linode: {one_line(message)}", file=sys.stderr)
    return code


def _on_termination() -> Any:
    """Handle SIGTERM as an interruption, so that temporary files are removed; None outside the main thread."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:
        return None
