"""What ends a command: exit codes, and the one line that says why."""

from __future__ import annotations

OK = 0
TROUBLE = 1  # numerical trouble: the result was written, and a line says what is wrong with it
USAGE = 2  # what was asked for cannot be done: arguments that do not fit, a file that exists already
BAD_FILE = 3  # a file cannot be read or written
MISSING = 4  # a package that is not installed
INTERRUPTED = 130


class Refusal(Exception):
    """Ends the command with a line on stderr and a code."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


def bad_file(path: object, why: str) -> Refusal:
    return Refusal(f"{path}: {why}", BAD_FILE)


def needs(package: str, extra: str) -> Refusal:
    return Refusal(f"this needs {package}: pip install 'linode-torch[{extra}]'", MISSING)
