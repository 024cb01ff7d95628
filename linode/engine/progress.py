"""Progress of a long sweep: a bar of tqdm where it is installed, in a terminal, after a second."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from types import TracebackType
from typing import Any

PATIENCE = 1.0  # seconds before a bar appears: a shorter wait needs none (Nielsen 1993)


class Progress:
    """A context that gives what is told the part of the work that is done, or None where no bar would be shown."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._bar: Any = None
        self._started = 0.0

    def __enter__(self) -> Progress | None:
        self._started = time.monotonic()
        is_shown = sys.stderr is not None and sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
        return self if is_shown else None

    def __call__(self, fraction: float) -> None:
        if self._bar is None:
            if time.monotonic() - self._started < PATIENCE:
                return
            form = "{l_bar}{bar}| {elapsed}<{remaining}"
            self._bar = importlib.import_module("tqdm").tqdm(desc=self.title, total=1.0, leave=False, bar_format=form)
        self._bar.update(max(0.0, min(fraction, 1.0) - self._bar.n))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None  # it may be entered again
