"""Imports point one way, kernels are pure, files stay short: read from the source with `ast`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "linode"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}
NUMERICS = {"torch", "numpy", "scipy"}
MAX_LINES = 600

# What a module may import lies in its own layer or one above it in this list; folders count as one.
LAYERS = (
    {"linode.errors", "linode.display", "linode.kernels", "linode.large"},
    {"linode.solution", "linode.methods", "linode.operators", "linode.matrices", "linode.plotting"},
    {"linode.engine"},
    {"linode.forcing"},
    {"linode.statespace", "linode.ode"},
    {"linode.sparse_ode"},
    {"linode.switching", "linode.discrete", "linode.exponential", "linode.odeint"},
    {"linode.nn"},
    {"linode.fitting"},
    {"linode"},
    {"linode.cli"},
    {"linode.__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
PUBLIC = {"linode.errors", "linode.methods", "linode.ode", "linode.engine", "linode.solution"}
WIRING = {
    "linode.engine.autograd",
    "linode.engine.compiled",
    "linode.engine.large",
    "linode.engine.large_products",
    "linode.forcing.drive",
    "linode.kernels.private",
}
LEAVES = {"linode.odeint"}  # import nothing of linode but PUBLIC

every_module = pytest.mark.parametrize("name", MODULES)


def imports(name: str) -> set[str]:
    """Full names of the modules that a module imports."""
    found = set()
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            names = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else origin for name in names}
    return found


def late_imports(name: str) -> list[ast.expr]:
    """What a module imports while it runs: the arguments of importlib.import_module and __import__."""
    calls = [node for node in ast.walk(tree(name)) if isinstance(node, ast.Call) and node.args]
    words = [(getattr(call.func, "attr", getattr(call.func, "id", "")), call.args[0]) for call in calls]
    return [argument for word, argument in words if word in ("import_module", "__import__")]


def needs(name: str) -> set[str]:
    """Modules of linode that a module imports, at the top or by a string while it runs."""
    return own(imports(name)) | own({x.value for x in late_imports(name) if isinstance(x, ast.Constant)})


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def unit(name: str) -> str:
    """The part that has a place in LAYERS: linode.methods for linode.methods.eig."""
    return ".".join(name.split(".")[:2])


def own(names: set[str]) -> set[str]:
    return {name for name in names if unit(name).split(".")[0] == "linode"}


def test_the_reader_of_imports_finds_them():
    assert {"linode.methods.base", "linode.errors", "torch", "dataclasses"} <= imports("linode.methods.auto")
    assert {"linode.methods", "linode.kernels.arithmetic.ranged"} <= imports("linode.engine.overflow") | imports(
        "linode.engine.evaluation"
    )
    assert {"linode.methods", "linode.ode"} <= imports("linode")  # from . import methods
    assert {"linode.plotting", "linode.errors"} <= needs("linode.ode")  # a string, and an import


@every_module
def test_what_is_imported_by_a_string_is_written_out(name: str):
    """So that `needs` can read it; only the face of the package has a table of names."""
    assert name == "linode" or all(isinstance(x, ast.Constant) for x in late_imports(name))


def test_pictures_know_what_they_draw_by_what_it_can_do():
    drawing = {name for name in MODULES if unit(name) == "linode.plotting"}
    assert {unit(other) for name in drawing for other in needs(name)} == {"linode.plotting", "linode.errors"}


@every_module
def test_modules_import_only_from_their_layer_or_below(name: str):
    assert unit(name) in RANK, f"{unit(name)} needs a place in LAYERS"
    for other in needs(name):
        assert RANK[unit(other)] <= RANK[unit(name)], f"{name} imports {other}"


def test_no_module_imports_itself_through_others():
    edges = {name: needs(name) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in edges.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("linode.kernels.")])
def test_kernels_import_numerics_the_standard_library_and_each_other_only(name: str):
    for other in imports(name):
        top = other.split(".")[0]
        assert other.startswith("linode.kernels") or top in NUMERICS or top in sys.stdlib_module_names, other


@every_module
def test_nothing_but_torch_numpy_and_scipy_is_needed(name: str):
    """But for pictures and the command line, which nothing imports before they are asked for."""
    drawing = {"linode.plotting": {"matplotlib"}, "linode.cli": {"typer", "rich"}}.get(unit(name), set())
    assert {other.split(".")[0] for other in imports(name)} <= {"linode", *NUMERICS, *drawing, *sys.stdlib_module_names}
    if unit(name) != "linode.plotting":
        assert "linode.plotting" not in {unit(other) for other in imports(name)}
    if unit(name) not in ("linode.cli", "linode.__main__"):
        assert "linode.cli" not in {unit(other) for other in imports(name)}


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_leaves_import_the_public_surface_only(name: str):
    assert {unit(other) for other in own(imports(name))} <= PUBLIC


@every_module
def test_imports_stand_at_the_top(name: str):
    inner = [node for node in ast.walk(tree(name)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    late = [x.lineno for node in inner for x in ast.walk(node) if isinstance(x, ast.Import | ast.ImportFrom)]
    assert not late, f"lines {late}"


@every_module
def test_only_the_wiring_of_derivatives_uses_autograd(name: str):
    """Kernels and methods are pure functions of tensors."""
    if name not in WIRING:
        used = {node.attr for node in ast.walk(tree(name)) if isinstance(node, ast.Attribute)}
        assert not used & {"autograd", "library", "grad_fn"}
        assert not {other for other in imports(name) if other.startswith(("torch.autograd", "torch.library"))}


@every_module
def test_files_stay_short_and_say_what_they_are(name: str):
    assert len(MODULES[name].read_text().splitlines()) <= MAX_LINES
    assert ast.get_docstring(tree(name))


def test_fits_are_imported_when_they_are_asked_for():
    script = (
        "import sys, linode\n"
        "assert not any(name.startswith('linode.fitting') for name in sys.modules)\n"
        "assert {'fit', 'FitResult', 'FitStatus'} <= set(dir(linode)), dir(linode)\n"
        "import linode.fitting.fit\n"
        "assert callable(linode.fit) and linode.fit is linode.fitting.fit.fit\n"
        "assert linode.FitResult.__name__ == 'FitResult'\n"
        "assert not hasattr(linode, 'fits')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PACKAGE.parent)


def test_private_names_of_torch_stand_in_one_file_for_a_range_of_releases_that_was_tested():
    """To move to a new release: constraints.txt, the bound in setup.cfg and the sentence in private.py together."""
    others = [name for name in MODULES if name != "linode.kernels.private" and "torch._" in MODULES[name].read_text()]
    assert not others
    (tested,) = re.findall(r"^torch==(\d+)\.(\d+)", (PACKAGE.parent / "constraints.txt").read_text(), re.MULTILINE)
    (bound,) = re.findall(r"torch>=[\d.]+,<(\d+)\.(\d+)", (PACKAGE.parent / "setup.cfg").read_text())
    assert (int(bound[0]), int(bound[1])) == (int(tested[0]), int(tested[1]) + 1)
    assert f"Tested with torch {'.'.join(tested)}." in (ast.get_docstring(tree("linode.kernels.private")) or "")
