"""mkdocs hook: examples are run when the pages are built, for their pictures and for what they print.

A line `<!-- run: fit_system -->` of a page becomes the picture that examples/fit_system.py draws, what it prints, and
its source. What
was made is kept in .cache/examples under a hash of all that it depends on, so that a second build is quick.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache/examples"
MARKER = re.compile(r"^<!-- run: (\w+) -->$", re.MULTILINE)


def scripts() -> dict[str, Path]:
    """Every example by name."""
    return {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    with ThreadPoolExecutor(2) as pool:
        for name, folder in zip(scripts(), pool.map(made, scripts().values()), strict=True):
            picture = (folder / "picture.png").read_bytes()
            files.append(File.generated(config, f"examples/{name}.png", content=picture))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return MARKER.sub(_shown, markdown)


def _shown(found: re.Match[str]) -> str:
    name = found[1]
    output = (made(scripts()[name]) / "output.txt").read_text()
    source = scripts()[name].read_text()
    picture = f"![What {name}.py draws]({name}.png)"
    return f"{picture}\n\nIt prints\n\n```text\n{output}```\n\nThe program:\n\n```python\n{source}```"


def made(script: Path) -> Path:
    """The folder with picture.png and output.txt of a script, run now if it or what it uses has changed."""
    data = [*(ROOT / "linode").rglob("*.csv"), *(ROOT / "examples/data").glob("*.csv")]
    sources = [script, *sorted((ROOT / "linode").rglob("*.py")), *sorted(data)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = CACHE / f"{script.stem}-{digest}"
    if not (folder / "output.txt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "error", str(script), str(folder / "picture.png")]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise PluginError(f"{script.name} failed:\n{done.stderr}")
        (folder / "output.txt").write_text(done.stdout)
    return folder
