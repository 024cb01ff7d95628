"""What ends a command: exit codes, and the one line that says why."""

from __future__ import annotations

from collections.abc import Iterable

OK = 0
TROUBLE = 1  # numerical trouble: the result was written, and a line says what is wrong with it
USAGE = 2  # what was asked for cannot be done: arguments that do not fit, a file that exists already
BAD_FILE = 3  # a file cannot be read or written
MISSING = 4  # a package that is not installed
INTERRUPTED = 130
MOST_NAMES, LONGEST_NAME = 12, 40  # in a message


class Refusal(Exception):
    """Ends the command with a line on stderr and a code."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


def bad_file(path: object, why: str) -> Refusal:
    return Refusal(f"{'standard input' if str(path) == '-' else path}: {why}", BAD_FILE)


def needs(*packages: str) -> Refusal:
    """A refusal that names packages of the index, since linode itself need not be on it."""
    return Refusal(f"this needs {' and '.join(packages)}: pip install {' '.join(packages)}", MISSING)


def plain(text: str) -> str:
    r"""The text with escapes such as \x1b in place of characters that a terminal acts on or does not show.

    Those are control codes, marks of direction, and halves of characters; file names and files may hold any of them.
    """
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def one_line(message: str) -> str:
    return plain(" ".join(message.split()))


def listed(names: Iterable[str]) -> str:
    """Names for a message: the first of many, and the beginnings of long ones."""
    every = list(names)
    shown = [f"'{x if len(x) <= LONGEST_NAME else x[: LONGEST_NAME - 3] + '...'}'" for x in every[:MOST_NAMES]]
    rest = [f"{len(every) - MOST_NAMES} more"] if len(every) > MOST_NAMES else []
    return ", ".join([*shown, *rest]) or "nothing"
