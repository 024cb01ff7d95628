"""The documentation keeps its word: its code runs, prints what it says, and its commands exist."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import linode
from tests.documents import ROOT, blocks, is_alike, pages, run

PAGES = {str(path.relative_to(ROOT)): path for path in pages()}
MODULES = {"pytest", "ruff", "mypy", "mkdocs", "pre-commit", "linode"}  # commands that are modules too


@pytest.fixture
def keep_torch_as_it_is():
    state, dtype, threads = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_rng_state(state)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("keep_torch_as_it_is", "temporary_methods")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", [name for name, path in PAGES.items() if blocks(path, "python")])
def test_python_blocks_run_and_give_what_their_comments_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    missing = run(PAGES[name])
    if missing:
        pytest.skip(f"all but the blocks that need {', '.join(missing)}")


COMMANDS = [
    (name, line)
    for name, path in PAGES.items()
    for block in blocks(path, "bash")
    for line in block.code.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_commands_exist_with_their_options(name: str, line: str):
    for step in re.split(r"&&|;|\|", line.split(" #")[0]):
        check_command(shlex.split(step))


def check_command(words: list[str]) -> None:
    while re.fullmatch(r"[A-Z_]+=\w*", words[0]):  # variables of the environment
        words = words[1:]
    program, *rest = words
    program = program.removeprefix(".venv/bin/")
    if program in ("cd", "echo", "git", ".", "deactivate"):
        return
    if program == ".ci/run":
        assert os.access(ROOT / program, os.X_OK)
    elif program == "pip":
        assert rest[0] == "install"
        check_requirements(rest[1:])
    elif program in ("python", "python3") and rest[0] == "-m":
        if rest[1] != "venv":
            check_options((rest[1],), rest[2:])
    elif program in ("python", "python3"):
        assert (ROOT / rest[0]).is_file(), rest[0]
    else:
        assert program in MODULES, f"no test knows the command {program}"
        if program == "linode":
            pytest.importorskip("linode.__main__")
        subcommand = [word for word in rest[:1] if word.isalpha()]
        check_options((program.replace("-", "_"), *subcommand), rest[len(subcommand) :])


def check_requirements(words: list[str]) -> None:
    extras = re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text(), flags=re.MULTILINE)
    for word in words:
        if found := re.fullmatch(r"(?:\.|linode-torch)\[([\w,]+)\]", word):
            assert set(found[1].split(",")) <= set(extras), word
        elif word == "constraints.txt":
            assert (ROOT / word).is_file()


def check_options(module: tuple[str, ...], words: list[str]) -> None:
    told = help_of(module)
    for option in (word.split("=")[0] for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", told), f"{' '.join(module)} has no {option}"


@cache
def help_of(module: tuple[str, ...]) -> str:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", *module, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout.lower()  # and nothing was run
    return done.stdout


def test_ci_builds_the_pages_by_the_command_that_is_documented():
    command = ".venv/bin/mkdocs build --strict"  # with --quiet, mkdocs counts no warnings and passes broken links
    assert command in (ROOT / ".ci/run").read_text().splitlines()
    assert ("README.md", command) in COMMANDS
    documented = [line for name, line in COMMANDS if name == "CONTRIBUTING.md" and line.startswith("mkdocs build")]
    assert [line.split("#")[0].rstrip() for line in documented] == [command.removeprefix(".venv/bin/")]


def test_names_that_docstrings_link_to_are_where_the_pages_look_for_them(monkeypatch: pytest.MonkeyPatch):
    """A hook of mkdocs that names a module which has moved breaks the build."""
    pytest.importorskip("griffe")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    paths = importlib.import_module("docstrings").PATHS
    reference = "".join(path.read_text() for path in (ROOT / "docs/pages/reference").glob("*.md"))
    for name in linode.__all__:
        if name in ("methods", "nn"):
            continue
        full = paths.get(name, f"linode.{name}")
        module, _, last = full.rpartition(".")
        assert getattr(importlib.import_module(module), last) is getattr(linode, name)
        assert f"::: {full}\n" in reference or name.startswith("__"), full


def test_every_page_is_in_the_navigation_and_reached_from_the_first_one():
    yaml = pytest.importorskip("yaml")
    text = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text())

    def files(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [name for part in parts for name in files(part)]

    pages = {str(path.relative_to(ROOT / "docs/pages")) for path in (ROOT / "docs/pages").rglob("*.md")}
    assert set(files(yaml.safe_load(text)["nav"])) == pages
    first = PAGES["docs/pages/index.md"].read_text()
    guides = {name for name in pages if "/" not in name} - {"index.md", "changelog.md", "contributing.md"}
    assert all(f"({name})" in first for name in guides | {x for x in pages if x.startswith("tutorials/")})


def test_the_picture_of_the_first_page_shows_what_is_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    overview = importlib.import_module("overview")
    gaps = 10.0 ** -np.arange(0.0, 16.1, 2.0)
    assert overview.gradient_errors(overview.by_linode, gaps).max() < 1e-14
    by_eig = overview.gradient_errors(overview.by_eig, gaps)
    assert by_eig[0] < 1e-14
    assert by_eig[3:].min() > 0.1  # no digit from a distance of 1e-6 on
    picture = (ROOT / "docs/pages/overview.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(picture) < 200_000
    for page in ("README.md", "docs/pages/index.md"):
        assert "overview.png" in PAGES[page].read_text()
        text = " ".join(PAGES[page].read_text().split())
        assert "linalg_eig_backward: The eigenvectors in the complex case" in text
        assert "**0.41 ms**" in text
        assert "**1e-15**" in text


def test_every_status_and_every_error_has_its_place_where_things_go_wrong():
    text = PAGES["docs/pages/trouble.md"].read_text()
    statuses = [x for x in (*linode.Status, *linode.FitStatus) if not x]
    assert len(statuses) > 5
    assert all(f"**{status.name}**" in text for status in statuses)
    errors = [name for name in linode.__all__ if name.endswith("Error") and name != "LinodeError"]
    assert all(f"| `{name}` |" in text for name in errors)


# ---- the checks themselves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "print(1.0)  # 2.0",
        "print([1, 2])  # [1]",
        "import numpy as np\nz = np.zeros((2, 3))  # (3, 2): rows",
        "int('x')  # ValueError: something else",
        "int('1')  # ValueError: invalid literal",
        "print('method: eig')\n```\n\n```text\nmethod: schur",
    ],
)
def test_a_page_that_says_what_is_not_so_fails(code: str, tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{code}\n```\n")
    with pytest.raises(AssertionError, match=re.escape("page.md:")):
        run(page)


def test_a_page_that_says_what_is_so_passes(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nimport numpy as np\nprint(1 / 3)  # 0.3333\nz = np.zeros((2, 3))  # (2, 3), all 0\n"
        "int('x')  # ValueError: invalid literal for int() ...\n```\n"
        "```python\nprint('kappa', 3.7)\nprint('end', z.shape)\n```\n\n```text\nkappa 3.7\nend (2, 3)\n```\n"
    )
    assert run(page) == []


def test_dots_stand_for_anything_and_numbers_for_numbers():
    assert is_alike("a 1.5 ... end 2", "a 1.7 and more\n words end 3")
    assert not is_alike("a 1.5 ... end", "b 1.7 and more end")
    assert not is_alike("a ... end", "a and more")
    assert is_alike("1e-16", "-3.1e-17")
    assert not is_alike("1.5", "1.6")


def test_an_option_that_is_not_there_is_found_out():
    check_command(["mkdocs", "build", "--strict"])
    with pytest.raises(AssertionError, match="--strickt"):
        check_command(["mkdocs", "build", "--strickt"])
    with pytest.raises(AssertionError, match="no test knows"):
        check_command(["rm", "x"])
