"""The command line: `linode`, or `python -m linode`. Needs typer and rich.

It may import everything of linode; nothing imports it. Here belongs what reads and writes files and prints: a command
calls the public functions and shows what they return. Numerics never stand here.
"""

from __future__ import annotations

import importlib
import sys

from .errors import MISSING


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: with 0, or with a line on stderr and a code of `linode.cli.errors`.

    Args:
        arguments: those after the name of the program; None: those of this process.

    Raises:
        SystemExit: always; it holds the exit code.

    Example:
        >>> from linode.cli import main
        >>> try:
        ...     main(["--version"])
        ... except SystemExit as end:
        ...     print(end.code)
        linode 0.1.0
        0
    """
    try:
        run = importlib.import_module("linode.cli.run").run
    except ImportError as error:
        print(f"linode: the command line needs {error.name}: pip install typer rich", file=sys.stderr)
        raise SystemExit(MISSING) from None
    raise SystemExit(run(sys.argv[1:] if arguments is None else arguments))
