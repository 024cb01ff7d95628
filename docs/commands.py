"""mkdocs hook: the line `<!-- commands -->` becomes what `linode --help` and the help of every command say."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mkdocs.exceptions import PluginError

MARKER = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARKER, commands()) if MARKER in markdown else markdown


def commands() -> str:
    """A section for each command; a sentence where this version of linode has none."""
    if importlib.util.find_spec("linode.cli") is None:
        return "This version of linode has no command line."
    typer = importlib.import_module("typer")
    names = list(typer.main.get_command(importlib.import_module("linode.cli.app").app).commands)
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(told, [[], *([name] for name in names)]))
    sections = ["## Commands", texts[0]]
    for name, text in zip(names, texts[1:], strict=True):
        sections += [f"## linode {name}", text]
    return "\n\n".join(sections)


def told(words: list[str]) -> str:
    """The help of one command, as a block of text."""
    environment = os.environ | {"COLUMNS": "88", "TERMINAL_WIDTH": "88", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "linode", *words, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise PluginError(f"{' '.join(command)} failed:\n{done.stderr}")
    lines = [line.rstrip() for line in done.stdout.replace(f"{sys.executable} -m ", "").splitlines()]
    return "```text\n" + "\n".join(lines).strip("\n") + "\n```"
