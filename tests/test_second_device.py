"""On a device that is not the CPU: right results, nothing mixed, and few launches, waits and copies.

No GPU is needed: `second_device.py` emulates one, in a process of its own. The time of a small step on a GPU is that of
its launches, waits and copies, so these have LIMITS: lower them when a step needs fewer, and never raise them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests import second_device
from tests.documents import ROOT

# of a step of `auto`, loss included, after one on another matrix: launches, waits, copies to the host, uploads, and the
# bytes of these copies
LIMITS = {
    "n = 6": (10, 1, 2, 2, 11072),
    "n = 32": (10, 1, 2, 2, 68896),
    "256 systems": (10, 1, 2, 2, 1933712),
    "256 systems, own times": (10, 1, 2, 2, 2035712),
    "defective": (10, 1, 2, 2, 11072),
    "256 systems, half defective": (10, 1, 2, 2, 1401232),
    "float32": (15, 1, 2, 2, 6272),
    "complex": (18, 1, 2, 2, 21344),
    "n = 70": (393, 12, 1, 0, 39200),
    "256 systems, many times": (396, 13, 1, 0, 131072),
}
TOLERANCE = {"float32": 2e-6}  # relative to the largest entry; some ten roundings
REFUSES = {"eig", "chain", "metzler", "taylor", "schur"}  # methods that may say that they cannot be accurate


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.second_device"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("action", "counts"),
    {
        "a sum": [1, 0, 0, 0, 0],
        "a sum in place": [1, 0, 0, 0, 0],
        "a view": [0, 0, 0, 0, 0],
        "memory": [0, 0, 0, 0, 0],
        "zeros": [1, 0, 0, 0, 0],
        "a range": [1, 0, 0, 0, 0],
        "an item": [0, 1, 0, 0, 0],
        "a truth value": [0, 1, 0, 0, 0],
        "a list": [0, 1, 0, 0, 0],
        "a copy to the host": [0, 0, 1, 0, 72],
        "a copy into the host's memory": [0, 0, 1, 0, 72],
        "an upload": [0, 0, 0, 1, 12],
        "an upload of numbers": [0, 0, 0, 1, 8],
        "an upload into memory": [0, 0, 0, 1, 36],
        "a number of the host": [1, 0, 0, 0, 0],
        "a selection by a mask": [2, 1, 0, 0, 0],
        "a solve": [2, 1, 0, 0, 0],
        "mixed devices": "RuntimeError",
        "NumPy": "TypeError",
    }.items(),
)
def test_the_emulated_device_counts_and_refuses_as_a_gpu_does(
    found: dict[str, Any], action: str, counts: list[int] | str
):
    assert found["emulation"][action] == counts


@pytest.mark.parametrize("problem", second_device.PROBLEMS)
def test_every_method_finds_there_what_the_cpu_finds_or_refuses(found: dict[str, Any], problem: str):
    methods = found["steps"][problem]
    assert {"auto", "propagator", "taylor"} <= set(methods)
    for method, result in methods.items():
        assert "raised" not in result, (method, result["raised"])
        if "refused" in result:
            assert method in REFUSES
            continue
        assert result["error"] < TOLERANCE.get(problem, 1e-13), method
        assert result["devices"] == [second_device.DEVICE] * 3  # of z and the gradients of Xi and z0


@pytest.mark.parametrize("problem", second_device.PROBLEMS)
def test_a_step_of_auto_keeps_within_its_launches_waits_and_copies(found: dict[str, Any], problem: str):
    counts = found["steps"][problem]["auto"]
    assert set(LIMITS) == set(second_device.PROBLEMS)
    for kind, limit in zip(second_device.KINDS, LIMITS[problem], strict=True):
        assert counts[kind] <= limit, kind
