"""What the documentation shows as measured is what the committed results hold; version and citation agree."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from types import ModuleType

import pytest
import yaml

import linode
from tests.documents import ROOT

RESULTS = json.loads((ROOT / "benchmarks/results/cpu.json").read_text())


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    pytest.importorskip("mkdocs")
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("measured", ROOT / "docs/measured.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(table: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines if not line[0].startswith("---")}


@pytest.mark.parametrize("mode", ["forward", "step"])
def test_the_map_of_methods_is_that_of_the_results(measured: ModuleType, mode: str):
    table = rows(measured.methods_table(mode))
    names = table.pop("problem")
    n_problems = 0
    for workload in RESULTS["workloads"].values():
        found = {row["contender"]: row.get("median_ms") for row in workload["modes"].get(mode, [])}
        own = {name: found.get(f"linode {name}") for name in names[1:]}
        if not any(own.values()):
            continue
        n_problems += 1
        label = re.sub(r"(\d)(000(?:000)?) irregular", r"\1\2 irregular", workload["description"])
        cells = next(cells for name, cells in table.items() if name.replace(",", "") == plain(label))
        fastest = min((time, name) for name, time in own.items() if time)[1]
        for name, cell in zip(names, cells):
            time = found["linode"] if name == "auto" else own[name]
            assert cell.startswith("**") == (name == fastest)
            shown = cell.strip("*").replace(",", "")
            assert (shown == "-") if time is None else float(shown) == pytest.approx(time, rel=6e-3)
    assert n_problems == len(table) > 10


def plain(label: str) -> str:
    return label.replace(", float64", "").replace(",", "")


def test_every_marker_of_a_page_has_a_table_and_every_table_a_page(measured: ModuleType):
    text = "\n".join(path.read_text() for path in (ROOT / "docs/pages").rglob("*.md"))
    markers = set(measured.MARKER.findall(text))
    assert markers == set(measured.TABLES)
    assert all(len(table()) > 40 for table in measured.TABLES.values())


def test_the_table_of_fits_is_that_of_the_results(measured: ModuleType):
    problems = json.loads((ROOT / "benchmarks/results/fit.json").read_text())["problems"]
    table = rows(measured.fits_table())
    assert table.pop("problem")[0] == "linode"
    assert list(table) == list(problems)
    for name, cells in table.items():
        best = next(row for row in problems[name] if row["contender"] == "linode")
        assert cells[0].startswith(f"{best['n_near']} of {best['n_seeds']}, ")


def test_the_tables_of_large_systems_are_those_of_the_results(measured: ModuleType):
    systems = json.loads((ROOT / "benchmarks/results/sparse.json").read_text())["workloads"]
    peers, methods, gradients = (
        rows(table())
        for table in (measured.sparse_peers_table, measured.sparse_methods_table, measured.sparse_gradients_table)
    )
    names = peers.pop("system")
    assert names[0] == "linode"
    assert len(peers) == sum(len(x["modes"]["forward"]) > 1 for x in systems.values())
    for label, cells in peers.items():
        found = next(x for x in systems.values() if is_of(x, label))
        forward = {row["contender"]: row for row in found["modes"]["forward"]}
        accurate = {
            name: row["median_ms"]
            for name, row in forward.items()
            if name in names and "median_ms" in row and row["errors"]["z"] <= 1e-5
        }
        best = min(accurate, key=accurate.__getitem__, default=None)
        for name, cell in zip(names, cells):
            assert cell.startswith("**") == (name == best)
            if name in accurate:
                assert float(cell.strip("*").replace(",", "")) == pytest.approx(accurate[name], rel=6e-3)
            elif "stopped" in forward.get(name, {"note": ""})["note"]:
                assert cell == f"> {1e3 * found['limit_s']:,.0f}" or cell == f"> {1e3 * found['limit_s']:,}"
    for label, cells in methods.items():
        if label != "system":
            own = next(x for x in systems.values() if is_of(x, label))["modes"]["forward"][0]
            assert cells[0] == f"`{own.get('details', {}).get('method', '-')}`"
    for label, cells in gradients.items():
        if label != "system":
            found = next(x for x in systems.values() if is_of(x, label))
            assert float(cells[2]) == pytest.approx(found["factor"], abs=0.06)


def is_of(system: dict, label: str) -> bool:
    return all(part.replace("&#124;", "|") in system["description"] for part in label.split(", "))


def test_version_and_citation_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == linode.__version__ == importlib.metadata.version("linode-torch")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert f"## [{linode.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
