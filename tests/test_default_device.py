"""torch.set_default_device reaches nothing that linode makes for itself: tensors and arrays of the CPU work as before.

default_device.py makes the calls, in a process of its own for each device.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT

FILES = sorted((Path(ROOT) / "linode").rglob("*.py"))
MAKES = {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros"}


@pytest.mark.parametrize("device", ["meta", "second"])
def test_every_kind_of_call_gives_what_it_gives_without_a_default_device(device: str):
    command = [sys.executable, "-m", "tests.default_device", device]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) > 40
    assert {name: words for name, words in results.items() if words} == {}


def makers(source: str) -> list[tuple[int, str]]:
    """Line and text of every call of torch that makes a tensor from none and does not say on which device."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    own = [x for x in calls if isinstance(x.func, ast.Attribute) and ast.unparse(x.func.value) == "torch"]
    bare = [x for x in own if x.func.attr in MAKES and "device" not in {word.arg for word in x.keywords}]  # type: ignore[attr-defined]
    generators = [x for x in own if x.func.attr == "Generator" and not (x.args or x.keywords)]  # type: ignore[attr-defined]
    return [(x.lineno, ast.unparse(x)) for x in (*bare, *generators)]


def test_the_search_for_bare_makers_finds_them():
    source = "torch.zeros(3)\ntorch.ones(2, device=x.device)\ntorch.Generator()\ntorch.Generator('cpu')\nnp.zeros(2)"
    assert [line for line, _ in makers(source)] == [1, 3]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tensors_are_made_on_a_device_that_is_named(path: Path):
    assert makers(path.read_text()) == []
