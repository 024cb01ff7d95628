"""Every example runs, without warnings, and ends with a number that is what it should be."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
NUMBER = r"[0-9.]+(?:e[+-]?[0-9]+)?"


def run_example(name: str, folder: Path, *arguments: str) -> str:
    """Standard output of one example, run in `folder`; fails where it fails or warns."""
    # one thread: at these sizes a second one only waits where the cores are shared
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def last_number(output: str, after: str) -> float:
    """The number that follows `after` in the last line."""
    found = re.search(rf"{re.escape(after)} ({NUMBER})", output.strip().splitlines()[-1])
    assert found, output
    return float(found[1])


def png_size(path: Path) -> tuple[int, int]:
    """Width and height from the header of a PNG file."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_the_fit_forecasts_the_held_out_years_within_one_ppm_and_saves_its_plot(tmp_path: Path):
    pytest.importorskip("matplotlib")
    output = run_example("fit_training_loop.py", tmp_path)
    assert last_number(output, "held-out RMSE") < 1.0  # ppm; the held-out record itself varies by 3.1
    assert min(png_size(tmp_path / "co2_fit.png")) > 500


def test_the_trajectory_is_that_of_the_closed_form(tmp_path: Path):
    pytest.importorskip("matplotlib")
    output = run_example("solve_trajectory.py", tmp_path)
    assert min(png_size(tmp_path / "solve_trajectory.png")) > 500
    assert last_number(output, "closed form:") < 1e-13  # shares of one


def test_linode_meets_the_closed_forms_where_it_is_compared_with_torchdiffeq(tmp_path: Path):
    pytest.importorskip("torchdiffeq")
    pytest.importorskip("matplotlib")
    output = run_example("compare_torchdiffeq.py", tmp_path)
    assert min(png_size(tmp_path / "compare_torchdiffeq.png")) > 500
    assert last_number(output, "largest error of linode:") < 1e-11  # the stiff one: |Xi| t = 2000, 2000 eps = 4e-13
    for problem in ("non-stiff", "stiff"):
        for solver in ("with_linode", "with_torchdiffeq"):
            assert re.search(rf"^{problem} +{solver} +{NUMBER} +{NUMBER} +{NUMBER}$", output, flags=re.MULTILINE)


def test_the_mass_stands_still_where_it_is_driven_to(tmp_path: Path):
    pytest.importorskip("matplotlib")
    output = run_example("drive_system.py", tmp_path)
    assert last_number(output, "distance from the target:") < 0.2  # mm, of 10
    assert min(png_size(tmp_path / "drive_system.png")) > 500


def test_a_system_is_identified_with_intervals_that_hold_it(tmp_path: Path):
    pytest.importorskip("matplotlib")
    output = run_example("fit_system.py", tmp_path, str(tmp_path / "here.png"))
    assert min(png_size(tmp_path / "here.png")) > 500
    assert "converged from 2 starts, of which two agree" in output
    assert last_number(output, "the true entry:") > 0.85  # of 36, correlated
    assert last_number(output, "relative error of Xi:") < 0.1


def test_all_kinds_of_pictures_are_drawn_beside_each_other(tmp_path: Path):
    pytest.importorskip("matplotlib")
    output = run_example("draw_pictures.py", tmp_path)
    assert min(png_size(tmp_path / "draw_pictures.png")) > 1000
    assert 0.9 < last_number(output, "within 95 % bands:") < 0.99


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_has_a_picture_that_goes_where_it_is_told(name: str):
    source = (ROOT / "examples" / name).read_text()
    own = "co2_fit.png" if name == "fit_training_loop.py" else name.replace(".py", ".png")
    assert f'savefig(sys.argv[1] if len(sys.argv) > 1 else "{own}", dpi=150)' in source


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_has_a_page_with_its_picture_output_and_source(name: str):
    page = (ROOT / "docs/pages/examples" / name.replace(".py", ".md")).read_text()
    assert f"<!-- run: {name.removesuffix('.py')} -->" in page


def test_the_autoencoder_predicts_new_trajectories_twice_as_long(tmp_path: Path):
    pytest.importorskip("matplotlib")
    output = run_example("train_autoencoder.py", tmp_path)
    assert min(png_size(tmp_path / "train_autoencoder.png")) > 500
    assert last_number(output, "relative error") < 0.1  # of predicting the mean


def test_the_diffusivity_of_ten_thousand_cells_is_learned(tmp_path: Path):
    pytest.importorskip("matplotlib")
    output = run_example("learn_diffusion.py", tmp_path)
    assert min(png_size(tmp_path / "learn_diffusion.png")) > 500
    assert output.startswith("10000 diffusivities from 8 pictures")
    assert last_number(output, "relative error") < 0.1  # of taking the mean everywhere


def test_avenues_are_told_from_streets_by_where_the_walkers_are(tmp_path: Path):
    pytest.importorskip("matplotlib")
    output = run_example("walk_on_graph.py", tmp_path)
    assert min(png_size(tmp_path / "walk_on_graph.png")) > 500
    assert last_number(output, "streets,") > 0.95  # 0.84 are streets
    assert last_number(output, "logarithms of the rates:") < 0.1


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_stay_short(name: str):
    assert len((ROOT / "examples" / name).read_text().splitlines()) <= 60
