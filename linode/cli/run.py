"""From arguments to an exit code: whatever goes wrong becomes one line on stderr."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Any

from typer.main import get_command

from ..errors import LinodeError
from .app import app
from .errors import BAD_FILE, OK, USAGE, Refusal


def run(arguments: list[str]) -> int:
    """The exit code of a command."""
    previous = _on_termination()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is in a status
            if sys.stdout is None:  # closed by who called
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
    except OSError as error:  # of stdout, such as a full disk: files that are read or written have a Refusal
        return unwritten(error)
    except MemoryError:
        return said("not enough memory for that: ask for fewer times or states", USAGE)
    except Exception as error:
        if not hasattr(error, "format_message"):  # of click, which typer brings under several names
            raise
        message = error.format_message()  # none where help was shown instead
        code = getattr(error, "exit_code", USAGE)
        return said(message, code) if message else code
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def quiet() -> int:
    """Nobody reads any more: nothing is said, at the end of the process either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def unwritten(error: OSError) -> int:
    """Standard output takes nothing more; what is left of it is not tried again at the end of the process."""
    quiet()
    return said(f"standard output cannot be written: {error.strerror or error}", BAD_FILE)


def said(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"linode: {line}", file=sys.stderr)
    return code


def _on_termination() -> Any:
    """SIGTERM as an interruption, so that temporary files are removed; None outside of the main thread."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:
        return None
