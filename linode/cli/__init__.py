"""The command line: `linode`, or `python -m linode`. Needs typer and rich."""

from __future__ import annotations

import sys

from .errors import MISSING


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: with 0, or with a line on stderr and a code of `linode.cli.errors`.

    Args:
        arguments: those after the name of the program; None: of this process.
    """
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        print(f"linode: the command line needs {error.name}: pip install 'linode-torch[cli]'", file=sys.stderr)
        raise SystemExit(MISSING) from None
    from .run import run

    raise SystemExit(run(sys.argv[1:] if arguments is None else arguments))
