"""Shared by all tests: one thread, and a registry that every test leaves as it found it."""

from __future__ import annotations

import pytest
import torch

from linode.methods import base

torch.set_num_threads(1)  # at these sizes a second thread only waits, and results do not depend on the machine


@pytest.fixture
def temporary_methods():
    """Methods that the test registers are forgotten after it."""
    before = dict(base._REGISTRY)
    yield
    base._REGISTRY.clear()
    base._REGISTRY.update(before)
