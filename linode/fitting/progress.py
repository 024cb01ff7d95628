"""Progress of a fit: a bar of tqdm, after a second, in a terminal; or calls of a function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

from ..errors import OptionError

Step = Callable[[int, float], None]
Report = Callable[[str], Step | None]
PATIENCE = 1.0  # seconds before a bar appears: a shorter wait needs none (Nielsen 1993)


class Progress:
    """Reports steps of a fit to a function (name, step, cost), or to a bar."""

    def __init__(self, wanted: bool | Callable[[str, int, float], None] | None) -> None:
        if not (wanted is None or isinstance(wanted, bool) or callable(wanted)):
            raise OptionError(f"progress must be None, True, False or a function, got {wanted!r}")
        self._function = wanted if callable(wanted) else None
        shown = wanted is True or (wanted is None and sys.stderr is not None and sys.stderr.isatty())
        self._has_bar = self._function is None and shown and importlib.util.find_spec("tqdm") is not None
        self._started, self._patience = time.monotonic(), 0.0 if wanted is True else PATIENCE
        self._bar: Any = None

    def __call__(self, name: str) -> Step | None:
        """The function to call in each step of the start of that name."""
        function = self._function
        if function is not None:
            return lambda step, cost: function(name, step, cost)
        return (lambda step, cost: self._draw(name, cost)) if self._has_bar else None

    def _draw(self, name: str, cost: float) -> None:
        if self._bar is None:
            if time.monotonic() - self._started < self._patience:
                return
            self._bar = importlib.import_module("tqdm").tqdm(desc="linode.fit", unit=" steps", leave=False)
        self._bar.set_postfix_str(f"{name}, cost {cost:.6g}", refresh=False)
        self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
