"""The command line as a function: arguments in, exit code and streams out."""

from __future__ import annotations

import pytest

from linode.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as end:
        main([str(x) for x in arguments])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def refused(capsys: pytest.CaptureFixture[str], code: int, words: str, *arguments: object) -> None:
    """One line on stderr, nothing on stdout."""
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, ""), err
    assert err.startswith("linode: ")
    assert err.count("\n") == 1
    assert words in err
