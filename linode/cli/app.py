"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import meant
from . import comparing, demonstration, fitting, solving
from .clock import UNITS
from .errors import INTERRUPTED, OK, Refusal
from .files import is_there


class Commands(TyperGroup):
    """The group of commands; an interruption or a closed pipe ends a command with an exit code, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Refusal("interrupted; no file was left half-written", INTERRUPTED) from None
        except BrokenPipeError:  # the reader stopped, as in `linode solve ... | head`
            raise Refusal("", OK) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of a name; for another word what was probably meant."""
        word = args[0] if args else ""
        if word and not word.startswith("-") and self.get_command(ctx, word) is None:
            names = self.list_commands(ctx)
            told = f"No such command {word!r}; the commands are {', '.join(names)}"
            near = meant(word, names)
            if not near and (Path(word).suffix or is_there(Path(word))):
                there = "" if is_there(Path(word)) else f" (there is no file {word} either)"
                told += f"{there}; a file comes after the command: linode solve FILE --times 0:10:100, linode fit FILE"
            raise Refusal(told + near)
        return super().resolve_command(ctx, args)


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
    typer.Argument(
        help="A file: .npz, .json or .mat with Xi (or A) and z0, b, B, C; .csv: a matrix; -: standard input.",
        metavar="SYSTEM",
    ),
]
TIMES = "START:STOP:COUNT, START:STOP:COUNT:log, numbers (or dates) with commas between them, or a file."
Times = Annotated[str, typer.Option(help=TIMES)]
TimesOrDefault = Annotated[str | None, typer.Option(help=TIMES)]
INPUTS = "a table with a column of times and one for each input. Each value holds until the next."
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
    inputs: Annotated[Path | None, typer.Option(help=f"Known inputs: {INPUTS}")] = None,
    method: MethodName = "auto",
    states: Annotated[
        bool, typer.Option("--states", help="States z, of a system with C too, whose channels y = C z are shown else.")
    ] = False,
    json: Json = False,
    force: Force = False,
) -> int:
    """States z(t) of a system at given times, in any order; where it has a C, as a saved fit has, its channels.

    Times are those of z0 = z(0); of a saved fit, those of the data.
    """
    return solving.solve(system, times, z0, out, plot, inputs, method, states=states, as_json=json, force=force)


@app.command()
def explain(system: SystemFile, times: TimesOrDefault = None, z0: Start = None, json: Json = False) -> int:
    """Which method solves a system, why, and the estimated error."""
    return solving.explain(system, times, z0, as_json=json)


@app.command()
def fit(
    data: Annotated[
        Path, typer.Argument(help="A table with a header, or - for standard input; empty cells are missing.")
    ],
    time: Annotated[str, typer.Option(help="Column of the times: numbers, or dates as 2024-02-29T13:05+01:00.")] = "t",
    time_unit: Annotated[
        str | None, typer.Option(help=f"Unit of time: {', '.join(UNITS)}. Dates are counted in it; default: day.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Columns to fit, with commas between; default: all.")] = None,
    inputs: Annotated[str | None, typer.Option(help=f"Known inputs: columns of DATA, or {INPUTS}")] = None,
    group: Annotated[str | None, typer.Option(help="Column whose values name the trajectories.")] = None,
    rank: Annotated[
        str | None, typer.Option(help="Number of states, or auto: by held-out samples. Default: that of the columns.")
    ] = None,
    bias: Annotated[bool, typer.Option("--bias", help="With a constant forcing.")] = False,
    stable: Annotated[bool, typer.Option("--stable", help="Decaying modes only.")] = False,
    structure: Annotated[str | None, typer.Option(help="symmetric, skew, diagonal, metzler or compartmental.")] = None,
    feedthrough: Annotated[
        bool, typer.Option("--feedthrough", help="Inputs act on the columns at once too: y = C z + D u.")
    ] = False,
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
    decimal: Annotated[str | None, typer.Option(help="Decimal mark, . or a comma; detected if left out.")] = None,
    json: Json = False,
    force: Force = False,
) -> int:
    """Identify a system from data, with standard errors, and forecast."""
    question = fitting.Question(
        path=data,
        time=time,
        time_unit=time_unit,
        columns=columns,
        inputs=inputs,
        group=group,
        rank=None if rank is None else fitting.rank_of(rank),
        bias=bias,
        stable=stable,
        structure=structure,
        feedthrough=feedthrough,
        sigma=sigma,
        forecast=forecast,
        holdout=holdout,
        delimiter=delimiter,
        decimal=decimal,
    )
    return fitting.fit(question, out, plot, save, as_json=json, force=force)


@app.command()
def compare(
    system: SystemFile,
    times: TimesOrDefault = None,
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
