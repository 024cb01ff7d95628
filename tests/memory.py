"""Peak memory of a call, for tests and benchmarks: it needs torch and the standard library only."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections.abc import Callable
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object]) -> int:
    """Largest sums of tensor memory, and of memory of NumPy and Python, held at once while running; they are added up,
    though the peaks may be at different moments.
    """
    tracemalloc.start()
    run()
    by_numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))  # has every single allocation; profiler.events() only sums per operator
        events = json.loads(path.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    by_torch = max(accumulate(n_bytes for _, n_bytes in sorted(changes, key=itemgetter(0))), default=0)
    return by_torch + by_numpy
