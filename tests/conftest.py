"""Shared by all tests: one thread, and a registry that every test leaves as it found it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import linode
from linode.methods import base

torch.set_num_threads(1)  # at these sizes a second thread only waits, and results do not depend on the machine


def pytest_report_header() -> str:
    """Which linode is tested, and whether small systems go through its compiled kernel: .ci/run reads this line."""
    folder = Path(linode.__file__).parent
    is_built = any((folder / "kernels").glob("_small*.so"))
    is_used = is_built and os.environ.get("LINODE_COMPILED", "1") != "0"
    return f"linode: {folder} {'with' if is_used else 'without'} the compiled kernel"


@pytest.fixture
def temporary_methods():
    """Methods that the test registers are forgotten after it."""
    before = dict(base._REGISTRY)
    yield
    base._REGISTRY.clear()
    base._REGISTRY.update(before)
