"""Those who use linode with mypy --strict find it typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT

USER = """
import numpy as np
import torch

import linode
from linode.methods import Eig

ode = linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0], method=Eig(max_condition=10.0), rtol=None)
solution: linode.Solution = ode.solve(np.linspace(0.0, 1.0, 5))
method: str = solution.method
fine: bool = bool(solution.status)
advice: str = str(solution.status)
words: str = ode.explain([1.0])
u: linode.Input = linode.ZeroOrderHold([0.0], [[1.0]]) + linode.Impulses([0.0], [[1.0]])
result: linode.FitResult = linode.fit([0.0, 1.0, 2.0], [1.0, 0.5, 0.3], stable=True)
status: linode.FitStatus = result.status
net: torch.nn.Module = result.to_module()
layer = linode.nn.LinearDynamics(2, "stable", m=1, bias=True)
z: torch.Tensor = layer(torch.ones(2), torch.linspace(0.0, 1.0, 5), u)
version: str = linode.__version__
"""
WRONG = {
    "linode.LinearODE([[1.0]], [1.0], method=3)": "arg-type",
    "linode.fit([0.0], [1.0], rank='two')": "arg-type",
    "linode.LinearODE([[1.0]])": "call-arg",
    "number: int = ode.explain()": "assignment",
    "linode.solve_ode()": "attr-defined",
}


def test_a_strict_user_passes_and_mistakes_are_seen(tmp_path: Path):
    pytest.importorskip("mypy")
    script = tmp_path / "user.py"
    script.write_text(USER + "\n".join(WRONG) + "\n")
    # of the package where it is tested, not of the configuration with which it is checked
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--follow-imports=silent"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    first = len(USER.splitlines()) + 1
    found = {line.split(":")[1]: line.rsplit("[", 1)[1].rstrip("]") for line in lines}
    assert found == {str(first + i): code for i, code in enumerate(WRONG.values())}, done.stdout
