"""Everything public is in the reference and says what it is, with an example; every example of a docstring runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import linode
from tests.documents import ROOT

REFERENCE = "\n".join(path.read_text() for path in sorted((ROOT / "docs/pages/reference").glob("*.md")))
NAMESPACES = ["linode", "linode.nn", "linode.methods", "linode.plotting"]
# a class is what its users call: these are not made by them
NOT_MADE_BY_USERS = {"FitResult", "Solution", "Stats", "Input", "Method", "Plan", "Parametrization"}


def modules() -> list[str]:
    """All that can be imported here, of linode."""
    names = [x.name for x in pkgutil.walk_packages(linode.__path__, "linode.") if x.name != "linode.__main__"]
    return ["linode", *names]


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class by its full name."""
    for space in NAMESPACES:
        module = importlib.import_module(space)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{space}.{name}", value


PUBLIC = dict(public())
MEMBERS = {
    f"{name}.{member}": value
    for name, owner in PUBLIC.items()
    if name in ("linode.LinearODE", "linode.PiecewiseLinearODE", "linode.FitResult", "linode.nn.LinearDynamics")
    for member in dir(owner)
    if (member == "__call__" or not member.startswith("_"))
    and (value := inspect.getattr_static(owner, member)).__class__ in (type(public), property, classmethod)
    and any(member in vars(c) and c.__module__.startswith("linode") for c in owner.__mro__)
    and member != "extra_repr"
}


def docstring(value: Any) -> str:
    return inspect.getdoc(value.fget if isinstance(value, property) else value) or ""


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", modules())
def test_examples_of_docstrings_run(name: str):
    if name == "linode.plotting" or name.startswith(("linode.plotting.", "linode.fitting.result")):
        pytest.importorskip("matplotlib").use("Agg")
    if name.startswith("linode.cli"):
        pytest.importorskip("typer")
    state = torch.get_rng_state()
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL * 0
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    torch.set_rng_state(state)
    assert result.failed == 0


def test_examples_are_found():
    assert doctest.testmod(importlib.import_module("linode.errors"), optionflags=doctest.ELLIPSIS).attempted > 10


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_is_in_the_reference(name: str):
    places = [name, f"{name}.{name.rsplit('.', 1)[1]}"]  # linode.odeint is a module, too
    assert any(re.search(rf"^::: {re.escape(place)}$", REFERENCE, flags=re.MULTILINE) for place in places)


@pytest.mark.parametrize("name", [*PUBLIC, *MEMBERS])
def test_everything_public_has_a_docstring_with_an_example(name: str):
    text = docstring(PUBLIC.get(name) or MEMBERS[name])
    if name.rsplit(".", 1)[1].startswith("plot") and name in MEMBERS:  # the same as functions
        assert "linode.plotting.plot_" in text
        return
    assert re.search(r"^ *Example:\n +>>> ", text, flags=re.MULTILINE), text


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isfunction(value)])
def test_functions_say_what_their_arguments_are_and_what_they_raise(name: str):
    if not inspect.signature(PUBLIC[name]).parameters or name.endswith(".register"):
        return
    text = docstring(PUBLIC[name])
    assert "Raises:" in text
    if name.startswith("linode.methods."):
        return
    assert "Args:" in text
    for parameter in inspect.signature(PUBLIC[name]).parameters:
        assert re.search(rf"\b{parameter}\b[^\n]*:|\b{parameter}\b", text.split("Args")[1]), parameter
