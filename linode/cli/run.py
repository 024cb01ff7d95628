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
from .errors import OK, USAGE, Refusal


def run(arguments: list[str]) -> int:
    """The exit code of a command."""
    previous = _on_termination()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is in a status
            code = get_command(app).main(arguments, prog_name="linode", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else OK
    except BrokenPipeError:
        return quiet()
    except Refusal as error:
        return quiet() if error.code == OK else said(str(error), error.code)
    except LinodeError as error:
        return said(str(error), USAGE)
    except MemoryError:
        return said("not enough memory for that: ask for fewer times or states", USAGE)
    except Exception as error:
        if not hasattr(error, "format_message"):  # of click, which typer brings under several names
            raise
        return said(error.format_message(), getattr(error, "exit_code", USAGE))
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def quiet() -> int:
    """Nobody reads any more: nothing is said, at the end of the process either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


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
