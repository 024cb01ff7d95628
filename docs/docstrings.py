"""griffe extension: the docstrings of linode as mkdocstrings reads them.

They are written to be read in an editor: short entries share a line ("Xi: (*batch, n, n). z0: (*batch, n)."), arguments
of one meaning share an entry ("method, rtol: as for `LinearODE`"), and an example is headed "Example:". Here every
argument gets an entry of its own, examples the heading by which they are rendered as code, shapes are code, and public
names are links.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

import linode

SECTION = re.compile(r"^( *)(Args|Attributes|Returns|Raises):\n((?:\1 +\S.*\n|[ ]*\n)+)", re.MULTILINE)
NAMES = r"(?!None|True|False)[A-Za-z_]\w*(?:, [A-Za-z_]\w*)*"
ENTRY = re.compile(rf"(?:^|(?<=[.;] ))({NAMES}): ")
SIZE = r"(?:\*batch|[A-Za-z]{1,2}|\d+)(?: \+ \d)?"  # of a shape
SHAPE = re.compile(rf"(?<![`\w])\({SIZE},(?: {SIZE},?)*\)(?!`)")
NAME = re.compile(r"(?<!\[)`(?:linode\.)?(\w+)`")
PATHS = {"odeint": "linode.odeint.odeint"}  # a module has this name too


class ReadableDocstrings(griffe.Extension):
    """Rewrites every docstring when it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = readable(obj.docstring.value)


def readable(text: str) -> str:
    """A docstring with one entry a line, shapes as code, names as links and the heading "Examples"."""
    words, heading, examples = re.split(r"(^ *)Example:\n", text + "\n", maxsplit=1, flags=re.MULTILINE), "", ""
    if len(words) == 3:
        heading, examples = f"{words[1]}Examples:\n", words[2]
    prose = SHAPE.sub(r"`\g<0>`", SECTION.sub(_separated, words[0]))
    prose = NAME.sub(lambda found: _link(found[1]) or found[0], prose)
    return (prose + heading + examples).rstrip("\n")


def _link(name: str) -> str:
    if name not in linode.__all__ or name in ("methods", "nn"):
        return ""
    return f"[`{name}`][{PATHS.get(name, 'linode.' + name)}]"


def _separated(section: re.Match[str]) -> str:
    indent, heading, body = section.groups()
    own = re.match(r" *", body)[0]  # type: ignore[index]
    entries: list[list[str]] = []
    for line in body.rstrip("\n").split("\n"):
        if not entries or (line.startswith(own) and ENTRY.match(line[len(own) :])):
            entries.append([])
        entries[-1].append(line)
    lines = [line for entry in entries for line in _entries(entry, own, heading)]
    return f"{indent}{heading}:\n" + "\n".join(lines) + "\n" * (1 + body.endswith("\n\n"))


def _entries(lines: list[str], own: str, heading: str) -> list[str]:
    """One entry for each name of "a: first. b, c: second."; an entry with a list in it is left as it is."""
    if any(not line.strip() for line in lines[:-1]):
        return lines
    text = " ".join(line.strip() for line in lines).strip()
    if heading == "Returns":
        return [own + text]
    found = list(ENTRY.finditer(text))
    stops = [entry.start(1) for entry in found[1:]] + [len(text)]
    parts = [(entry[1], text[entry.end() : stop].strip()) for entry, stop in zip(found, stops, strict=True)]
    if heading == "Raises":  # errors of one cause stay together
        return [f"{own}{names}: {description}" for names, description in parts] or [own + text]
    return [f"{own}{name}: {description}" for names, description in parts for name in names.split(", ")] or lines
