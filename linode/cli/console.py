"""Output to the terminal: results on stdout, remarks and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .errors import one_line, plain

MUCH = 2**24  # bytes, or letters of a table, that take some seconds: there is a bar from here on


def remark(message: str) -> None:
    print(f"linode: {one_line(message)}", file=sys.stderr)


def show_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    table = Table(title=escape(plain(title)), title_justify="left", header_style="bold")
    for name in columns:
        table.add_column(escape(plain(name)), overflow="fold")
    for row in rows:
        table.add_row(*(escape(plain(str(cell))) for cell in row))
    console = Console()
    console.print(table)


@contextmanager
def progress(words: str) -> Iterator[None]:
    """A spinner on stderr, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(escape(words)):
        yield


@contextmanager
def counted(words: str, size: int) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, if that is a terminal and the size is large; yields what moves it on by a number."""
    console = Console(stderr=True)
    if size < MUCH or not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(escape(one_line(words)), total=size)
        yield lambda n: bar.advance(task, n)


def seconds(x: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x / 1e-6:.3g} us"
