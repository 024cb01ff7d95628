"""`linode solve`, `explain` and `methods`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import meant
from ..fitting.result import observed_states
from ..forcing import ZeroOrderHold
from ..kernels import small
from ..methods import registry
from ..ode import LinearODE
from .clock import Clock
from .console import progress, remark, show_table
from .errors import OK, TROUBLE, Refusal, bad_file, listed
from .files import check_stdin, is_there
from .output import PICTURES, TABLES, Output, json_text, keep_apart, named_apart, sheet, write_picture, write_table
from .systems import System, read_system
from .tables import Array, read_table
from .times import read_times


def solve(
    path: Path,
    times: str,
    z0: str | None,
    out: Path | None,
    plot: Path | None,
    inputs: Path | None,
    method: str,
    *,
    states: bool,
    as_json: bool,
    force: bool,
) -> int:
    check_stdin(path, times, z0, inputs)
    table = None if out is None else Output(out, TABLES, force)
    picture = None if plot is None else Output(plot, PICTURES, force)
    keep_apart([path, inputs, *files_among(times, z0)], [table, picture])
    system = read_system(path, z0)
    t = read_times(times, system.clock)
    ode = make_ode(system, method, inputs)
    if system.remark:  # not before, as a refusal is one line
        remark(system.remark)
    with progress(f"{len(t)} times of {system.n} states"):
        solution = ode.solve(t - system.t0)
    z = np.asarray(solution.z)
    if states:
        names = [f"z{i + 1}" for i in range(system.n)]
    else:
        z = channels(system, ode, z, t)
        names = system.names or [f"{'y' if 'C' in system.arrays else 'z'}{i + 1}" for i in range(z.shape[1])]
    shown = t if system.clock is None else system.clock.texts(t)
    columns = named_apart([(system.time_name, shown), *zip(names, z.T)])
    facts = {"method": solution.method, "status": solution.status.name, "error_estimate": solution.error_estimate}
    if table is not None:
        write_table(table, columns, facts)
    if picture is not None:
        with progress("drawing"):
            write_picture(picture, drawn(t, z, names, label_of_time(system.time_name, system.time_unit, system.clock)))
    if as_json:
        found = {**facts, "t": shown, "z": z, "names": names} if table is None else {**facts, "out": str(out)}
        print(json_text(found))
    elif table is None and picture is None:
        write_table(None, columns)
    else:
        error = float(np.max(solution.error_estimate))
        print(f"{len(t)} times of {system.n} states by {solution.method}, relative error about {error:.1e}")
    if not solution.status:
        remark(f"{path}: {solution.status}")
        return TROUBLE
    return OK


def channels(system: System, ode: LinearODE, z: Array, t: Array) -> Array:
    """y = C z + D u + offset, (T, p); the states themselves where the system has no C, D and offset."""
    arrays = system.arrays
    y = observed_states(arrays["C"], z) if "C" in arrays else z
    if "D" in arrays and ode.forcing.inputs:
        u = np.stack([np.asarray(u(t - system.t0)) for u in ode.forcing.inputs]).sum(0)
        y = y + u @ arrays["D"].T
    return y + arrays["offset"] if "offset" in arrays else y


def drawn(t: Array, z: Array, names: list[str], xlabel: str) -> Any:
    return (
        importlib.import_module("linode.plotting").plot_trajectories(t, z, sheet(), labels=names, xlabel=xlabel).figure
    )


def explain(path: Path, times: str | None, z0: str | None, *, as_json: bool) -> int:
    check_stdin(path, times, z0)
    system = read_system(path, z0, needs_z0=False)
    t, has_z0 = times_after(system, times, np.array([0.0, 1.0])), "z0" in system.arrays
    system.arrays.setdefault("z0", np.ones(system.n))
    ode = make_ode(system, "auto", None)
    for words in (system.remark, "" if has_z0 else f"{path} holds no z0: ones are taken"):
        if words:
            remark(words)
    lam = np.linalg.eigvals(system.arrays["Xi"])
    if as_json:
        solution = ode.solve(t)
        facts = {
            "n": system.n,
            "method": solution.method,
            "evaluated_by": ode.decomposition.evaluated_by,
            "status": solution.status.name,
            "reason": solution.stats.reason,
            "rejected": list(solution.stats.rejected),
            "condition": solution.condition,
            "error_estimate": solution.error_estimate,
            "eigenvalues": lam,
        }
        print(json_text(facts))
        return OK if solution.status else TROUBLE
    print(ode.explain(t))
    lam = lam[np.argsort(-lam.real, kind="stable")]
    per = f"1/{system.time_unit}" if system.time_unit else "1/time"
    print(f"eigenvalues ({per}): " + ", ".join(f"{x:.6g}" for x in lam[:20]) + (", ..." if len(lam) > 20 else ""))
    largest = lam.real.max()
    words = "decays" if largest < 0 else "grows" if largest > 0 else "neither"
    print(f"largest real part {largest:.6g} {per}: {words}")
    return OK


def times_after(system: System, text: str | None, default: Array) -> Array:
    """Times since t0: those that are asked for on the axis of the system, or the default."""
    return default if text is None else read_times(text, system.clock) - system.t0


def methods(*, as_json: bool) -> int:
    """What each method is, and what evaluates it for a system of two states on the CPU."""
    state, rows = compiled_kernel(), []
    for name, kind in sorted(registry().items()):
        plan = LinearODE([[-1.0, 2.0], [1.0, -3.0]], [1.0, 0.0], method=name).decomposition
        rows.append((name, plan.evaluated_by, kind.summary))
    if as_json:
        why = "" if small.is_in_use() else f" (the compiled kernel is {state})"
        print(json_text({name: {"summary": summary, "evaluated_by": by + why} for name, by, summary in rows}))
    else:
        show_table("Methods", ("name", "small systems by", "what it is"), rows)
        print(f"compiled kernel: {state}")
    return OK


def compiled_kernel() -> str:
    """Whether the compiled kernel is in use, or why not."""
    if small.is_in_use():
        return f"in use for systems of up to {small.MOST_STATES} states on the CPU"
    return small.WHY_NOT


def make_ode(system: System, method: str, inputs: Path | None) -> LinearODE:
    """The solver of a system, whose t = 0 is the t0 of the system."""
    arrays = system.arrays
    if method not in registry():
        raise Refusal(
            f"--method {method!r} is unknown; known are {', '.join(sorted(registry()))}{meant(method, registry())}"
        )
    forcing: dict[str, Any] = {"b": arrays["b"]} if "b" in arrays else {}
    if inputs is not None:
        times, values, names = read_inputs(inputs, system.time_name, system.clock)
        B = arrays.get("B")
        if (B is None and len(names) != system.n) or (B is not None and B.shape[1] != len(names)):
            size = system.n if B is None else B.shape[1]
            raise Refusal(f"{inputs} has {len(names)} inputs, but the system takes {size}")
        forcing |= {"u": ZeroOrderHold(times - system.t0, values)}
        forcing |= {} if B is None else {"B": B}
    elif "B" in arrays and arrays["B"].any():
        remark(f"{system.path} holds B, but there are no --inputs: they are taken as 0")
    return LinearODE(arrays["Xi"], arrays["z0"], method=method, **forcing)


def read_inputs(path: Path, time: str, clock: Clock | None) -> tuple[Array, Array, list[str]]:
    """Times (K,), values (K, m) and names of held inputs, from a table with a column of times and one for each.

    Raises:
        Refusal: there is no such table.
    """
    table = read_table(path)
    time = time if time in table.names else "t"
    names = [name for name in table.names if name and name != time]
    if time not in table.names or not names:
        raise bad_file(path, f"must have a column {time} and one for each input; it has {listed(table.names)}")
    values = np.stack([table.numbers(name, may_miss=False) for name in names], -1)
    return table.times(time, clock), values, names


def label_of_time(name: str, unit: str, clock: Clock | None) -> str:
    """What stands under the axis of a picture."""
    words = clock.words if clock is not None else unit
    return f"{name} ({words})" if words else name


def files_among(*texts: str | None) -> list[Path | None]:
    """The options that name an existing file."""
    return [Path(text) for text in texts if text is not None and is_there(Path(text))]
