"""The fenced blocks of README.md and of the pages in docs/, and how they are run.

Python blocks of a page share a namespace, in order. What stands in a comment is checked:

- `print(x)  # [1.0, 2.0]`: a literal after a print is what it prints; numbers may differ by a thousandth, or 1e-9
- `z = ode(t)  # (4, 2): ...`: a tuple that leads the comment after an assignment is the shape of what was assigned
- `f(x)  # ShapeError: z0 has ...`: the statement raises that, with a message that begins so

and a block of `text` right after one of Python is what the latter prints, "..." for anything. Blocks that import a
package of OPTIONAL are left out where it is not installed.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:e[-+]?\d+)?")
OPTIONAL = {"pydmd", "pandas"}


@dataclass(frozen=True)
class Block:
    """Fenced code of a page, from a line on."""

    language: str
    code: str
    line: int


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs/pages").rglob("*.md"))]


def blocks(path: Path, *languages: str) -> list[Block]:
    """Those of some languages, but for files that are included."""
    text = path.read_text()
    found = [
        Block(x[2], textwrap.dedent(x[3]), text[: x.start()].count("\n") + 2)
        for x in FENCE.finditer(text)
        if "--8<--" not in x[3]
    ]
    return [block for block in found if block.language in languages]


def run(path: Path) -> list[str]:
    """Run the Python of a page; names of the packages for want of which blocks were left out."""
    namespace: dict[str, Any] = {"__name__": "__page__"}
    missing: list[str] = []
    printed = ""
    for block in blocks(path, "python", "text"):
        if block.language == "text":
            assert not printed or is_alike(block.code, printed), f"{path.name}:{block.line} prints\n{printed}"
            continue
        printed = ""
        tree = ast.parse(block.code)
        absent = [x for x in _imports(tree) & OPTIONAL if importlib.util.find_spec(x) is None]
        if absent:
            missing += absent
            continue
        for statement in tree.body:
            printed += _run_statement(statement, block, path, namespace)
    return missing


def _run_statement(statement: ast.stmt, block: Block, path: Path, namespace: dict[str, Any]) -> str:
    assert statement.end_lineno is not None
    where = f"{path.name}:{block.line + statement.lineno - 1}"
    comment = _comment(block.code.splitlines()[statement.end_lineno - 1])
    ast.increment_lineno(statement, block.line - 1)
    code = compile(ast.Module([statement], []), str(path), "exec", dont_inherit=True)  # not the __future__ of this file
    error = re.match(r"(\w+Error): (.*)", comment)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if error:
            try:
                exec(code, namespace)
            except Exception as raised:
                assert type(raised).__name__ == error[1], f"{where}: {raised!r}"
                assert " ".join(str(raised).split()).startswith(error[2].removesuffix("...").strip()), (
                    f"{where}: {raised}"
                )
            else:
                raise AssertionError(f"{where} does not raise")
        else:
            exec(code, namespace)
    if _is_print(statement) and _is_literal(comment):
        n_printed = len(statement.value.args)  # type: ignore[attr-defined]
        assert is_alike(_as_printed(comment, n_printed), out.getvalue()), f"{where} prints {out.getvalue()}"
    shape = re.match(r"\((?:\d+,? ?)*\)", comment)
    if shape and isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        value = namespace[statement.targets[0].id]
        assert tuple(np.shape(value)) == ast.literal_eval(shape[0]), f"{where}: {np.shape(value)}"
    return out.getvalue()


def is_alike(expected: str, got: str) -> bool:
    """The same words and, but for rounding, numbers; with "..." for anything, numbers may be any numbers."""
    expected, got = " ".join(expected.split()), " ".join(got.split())
    if "..." in expected:
        parts = [NUMBER.pattern.join(map(re.escape, NUMBER.split(part))) for part in expected.split("...")]
        return re.fullmatch(".*".join(parts), got) is not None
    if NUMBER.sub("#", expected) != NUMBER.sub("#", got):
        return False
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(got))
    return all(abs(float(a) - float(b)) <= 1e-9 + 1e-3 * abs(float(a)) for a, b in pairs)


def _comment(line: str) -> str:
    return line.split("  # ", 1)[1].strip() if "  # " in line else ""


def _is_print(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"


def _is_literal(comment: str) -> bool:
    try:
        ast.literal_eval(comment)
    except (ValueError, SyntaxError):
        return False
    return True


def _as_printed(literal: str, n_printed: int) -> str:
    value = ast.literal_eval(literal)
    if isinstance(value, tuple) and n_printed > 1:
        return " ".join(map(str, value))
    return value if isinstance(value, str) else literal


def _imports(tree: ast.Module) -> set[str]:
    nodes = list(ast.walk(tree))
    plain = {alias.name.split(".")[0] for x in nodes if isinstance(x, ast.Import) for alias in x.names}
    return plain | {x.module.split(".")[0] for x in nodes if isinstance(x, ast.ImportFrom) and x.module}
