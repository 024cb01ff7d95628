"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from . import comparing, demonstration, fitting, solving
from .errors import INTERRUPTED, OK, Refusal


class Commands(TyperGroup):
    """The group of commands; an interruption or a closed pipe ends a command with an exit code, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Refusal("interrupted; no file was left half-written", INTERRUPTED) from None
        except BrokenPipeError:  # the reader stopped, as in `linode solve ... | head`
            raise Refusal("", OK) from None


app = typer.Typer(
    cls=Commands,
    name="linode",
    help="Linear ODEs z' = Xi z (+ b): solve them, fit them to data, and estimate the error of the result.",
    epilog="Exit codes: 0 done; 1 numerical trouble, told on stderr, results are written; 2 what was asked for cannot "
    "be done; 3 a file cannot be read or written; 4 a package is missing; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

SystemFile = Annotated[
    Path,
    typer.Argument(help="A file: .npz, .json or .mat with Xi (or A) and z0, b; .csv: a matrix.", metavar="SYSTEM"),
]
Times = Annotated[
    str, typer.Option(help="START:STOP:COUNT, START:STOP:COUNT:log, numbers with commas between them, or a file.")
]
Start = Annotated[str | None, typer.Option(help="Initial state: numbers with commas between them, or a file.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there already.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
MethodName = Annotated[str, typer.Option(help="A method by name, see `linode methods`.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"linode {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def solve(
    system: SystemFile,
    times: Times,
    z0: Start = None,
    out: Annotated[
        Path | None, typer.Option(help="Table of t and z: .csv, .npz, .json or .parquet. Without it: CSV on stdout.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the states: .png, .pdf or .svg.")] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="CSV with a column t and one for each input; each value holds until the next.")
    ] = None,
    method: MethodName = "auto",
    json: Json = False,
    force: Force = False,
) -> int:
    """States z(t) of a system at given times, in any order."""
    return solving.solve(system, times, z0, out, plot, inputs, method, as_json=json, force=force)


@app.command()
def explain(system: SystemFile, times: Times = "0:1:2", z0: Start = None, json: Json = False) -> int:
    """Which method solves a system, why, and the estimated error."""
    return solving.explain(system, times, z0, as_json=json)


@app.command()
def fit(
    data: Annotated[Path, typer.Argument(help="A table with a header: .csv, .tsv or .txt; empty cells are missing.")],
    time: Annotated[str, typer.Option(help="Column of the times.")] = "t",
    columns: Annotated[str | None, typer.Option(help="Columns to fit, with commas between; default: all.")] = None,
    inputs: Annotated[str | None, typer.Option(help="Columns of known inputs, held until the next row.")] = None,
    group: Annotated[str | None, typer.Option(help="Column whose values name the trajectories.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Number of states; that of the columns if left out.")] = None,
    bias: Annotated[bool, typer.Option("--bias", help="With a constant forcing.")] = False,
    stable: Annotated[bool, typer.Option("--stable", help="Decaying modes only.")] = False,
    structure: Annotated[str | None, typer.Option(help="symmetric, skew, diagonal, metzler or compartmental.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Standard deviation of the noise, if it is known.")] = None,
    forecast: Annotated[float, typer.Option(min=0.0, help="Time after the last one until which to predict.")] = 0.0,
    holdout: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the last times that is not fitted but forecast.")
    ] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="Table of the fit and forecast: .csv, .npz, .json or .parquet.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of data, fit and forecast: .png, .pdf or .svg.")] = None,
    save: Annotated[Path | None, typer.Option(help="The system, for `linode solve`: .npz, .json or .mat.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Character between cells; detected if left out.")] = None,
    json: Json = False,
    force: Force = False,
) -> int:
    """Identify a system from data, with standard errors, and forecast."""
    question = fitting.Question(
        data, time, columns, inputs, group, rank, bias, stable, structure, sigma, forecast, holdout, delimiter
    )
    return fitting.fit(question, out, plot, save, as_json=json, force=force)


@app.command()
def compare(
    system: SystemFile,
    times: Times = "0:10:200",
    z0: Start = None,
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds for each of the contenders.")] = 10.0,
    plot: Annotated[Path | None, typer.Option(help="Picture of error and time: .png, .pdf or .svg.")] = None,
    json: Json = False,
    force: Force = False,
) -> int:
    """Time and error of linode beside torchdiffeq, torch.linalg.matrix_exp and torch.linalg.eig."""
    return comparing.compare(system, times, z0, budget, plot, as_json=json, force=force)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The picture: .png, .pdf or .svg.")] = Path("linode_demo.png"),
    json: Json = False,
    force: Force = False,
) -> int:
    """Fit the weekly CO2 record of Mauna Loa, forecast its last fifth, compare with torchdiffeq."""
    return demonstration.demo(out, as_json=json, force=force)


@app.command()
def methods(json: Json = False) -> int:
    """Methods by name."""
    return solving.methods(as_json=json)
