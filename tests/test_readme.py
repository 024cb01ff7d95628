"""README.md keeps its word: its Python blocks run, its commands are what they should be."""

import re
import shlex

import pytest
import torch

from tests import documents
from tests.documents import ROOT


def blocks(language: str) -> list[str]:
    """Of README.md, in order."""
    return [block.code for block in documents.blocks(ROOT / "README.md", language)]


@pytest.fixture
def keep_random_state():
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.usefixtures("keep_random_state")
def test_python_blocks_run_and_the_problem_raises():
    namespace: dict[str, object] = {}
    n_raised = 0
    for block in blocks("python"):
        code = compile(block, "README.md", "exec")
        if "# RuntimeError: linalg_eig_backward" in block:
            n_raised += 1
            with pytest.raises(RuntimeError, match="linalg_eig_backward"):
                exec(code, namespace)
        else:
            exec(code, namespace)
    assert n_raised == 1


@pytest.mark.usefixtures("keep_random_state")
def test_the_fix_gives_finite_gradients_where_the_problem_raised():
    problem, fix = blocks("python")[:2]
    namespace: dict[str, object] = {}
    with pytest.raises(RuntimeError):
        exec(problem, namespace)
    assert namespace["Xi"].grad is None
    exec(fix, namespace)
    assert namespace["Xi"].grad.isfinite().all()


def test_what_the_readme_says_of_the_defective_system_is_true():
    Xi = torch.tensor([[0.0, 1.0], [0.0, 0.0]], requires_grad=True)
    t = torch.tensor([0.0, 3.0])
    lam, V = torch.linalg.eig(Xi)
    coeff = torch.linalg.solve(V, torch.tensor([1.0, 2.0]).to(V.dtype))
    z = ((coeff * torch.exp(lam * t[:, None])) @ V.mT).real
    z[-1, 0].backward()
    assert abs(z[-1, 0].item() - 7.0) > 1.0
    assert Xi.grad.isnan().any()


@pytest.mark.parametrize(("index", "job"), [(0, ".venv/bin/linode demo"), (1, ".venv/bin/pytest")])
def test_the_first_two_commands_set_up_and_run_from_one_line(index: int, job: str):
    command = blocks("bash")[index].rstrip("\n")
    assert "\n" not in command
    steps = [step.strip() for step in command.split("&&")]
    assert steps[0] == "python3 -m venv .venv"
    assert shlex.split(steps[1])[:4] == [".venv/bin/pip", "install", "-c", "constraints.txt"]
    assert steps[2].startswith(job)


def test_the_constraints_pin_every_requirement_exactly():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split(";")[0] for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    wanted = re.findall(r"^    ([\w-]+)>=", (ROOT / "setup.cfg").read_text(), flags=re.MULTILINE)
    assert set(wanted) <= pinned


def test_it_has_at_most_150_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files_and_headings_that_exist(name: str):  # those of docs/pages are checked by mkdocs
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text()):
        path, _, anchor = link.partition("#")
        assert (ROOT / path).is_file(), link
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), flags=re.MULTILINE)
        assert not anchor or anchor in [re.sub(r"\W+", "-", heading.lower()) for heading in headings], link
