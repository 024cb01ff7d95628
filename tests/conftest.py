"""Shared by all tests: one thread, and a registry that every test leaves as it found it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import linode
from linode.kernels import small
from linode.methods import base

torch.set_num_threads(1)  # at these sizes a second thread only waits, and results do not depend on the machine


def pytest_report_header() -> str:
    """Which linode is tested, and whether small systems go through its compiled kernel: .ci/run reads this line."""
    return f"linode: {Path(linode.__file__).parent} {'with' if small.is_in_use() else 'without'} the compiled kernel"


@pytest.fixture(autouse=True)
def close_figures():
    """Pictures belong to pyplot, which keeps them until they are closed, and warns when there are more than 20."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def temporary_methods():
    """Methods that the test registers are forgotten after it."""
    before = dict(base._REGISTRY)
    yield
    base._REGISTRY.clear()
    base._REGISTRY.update(before)
