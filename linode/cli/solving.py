"""`linode solve`, `explain` and `methods`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..forcing import ZeroOrderHold
from ..kernels import small
from ..methods import registry
from ..ode import LinearODE
from .console import progress, remark, show_table
from .errors import OK, TROUBLE, Refusal, bad_file
from .output import PICTURES, TABLES, Output, json_text, keep_apart, write_picture, write_table
from .systems import System, read_system
from .tables import is_there, read_table
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
    as_json: bool,
    force: bool,
) -> int:
    table = None if out is None else Output(out, TABLES, force)
    picture = None if plot is None else Output(plot, PICTURES, force)
    keep_apart([path, inputs, *files_among(times, z0)], [table, picture])
    system, t = read_system(path, z0), read_times(times)
    ode = make_ode(system, method, inputs)
    with progress(f"{len(t)} times of {system.n} states"):
        solution = ode.solve(t)
    z = np.asarray(solution.z)
    columns = {"t": t, **{f"z{i + 1}": z[:, i] for i in range(z.shape[1])}}
    facts = {"method": solution.method, "status": solution.status.name, "error_estimate": solution.error_estimate}
    if table is not None:
        write_table(table, columns, facts)
    if picture is not None:
        with progress("drawing"):
            write_picture(picture, solution.plot(labels=list(columns)[1:]).figure)
    if as_json:
        print(json_text({**facts, "t": t, "z": z} if table is None else {**facts, "out": str(out)}))
    elif table is None and picture is None:
        write_table(None, columns)
    else:
        error = float(np.max(solution.error_estimate))
        print(f"{len(t)} times of {system.n} states by {solution.method}, relative error about {error:.1e}")
    if not solution.status:
        remark(f"{path}: {solution.status}")
        return TROUBLE
    return OK


def explain(path: Path, times: str, z0: str | None, *, as_json: bool) -> int:
    system = read_system(path, z0, needs_z0=False)
    if "z0" not in system.arrays:
        system.arrays["z0"] = np.ones(system.n)
        remark(f"{path} holds no z0: ones are taken")
    ode, t = make_ode(system, "auto", None), read_times(times)
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
    print("eigenvalues: " + ", ".join(f"{x:.6g}" for x in lam[:20]) + (", ..." if len(lam) > 20 else ""))
    largest = lam.real.max()
    print(f"largest real part {largest:.6g}: {'decays' if largest < 0 else 'grows' if largest > 0 else 'neither'}")
    return OK


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
    arrays = system.arrays
    if method not in registry():
        raise Refusal(f"--method {method!r} is unknown; known are {', '.join(sorted(registry()))}")
    forcing: dict[str, Any] = {"b": arrays["b"]} if "b" in arrays else {}
    if inputs is not None:
        table = read_table(inputs)
        names = [name for name in table.names if name != "t"]
        if "t" not in table.names or not names:
            raise bad_file(inputs, "must have a column t and one for each input")
        values = np.stack([table.numbers(name, may_miss=False) for name in names], -1)
        B = arrays.get("B")
        if (B is None and len(names) != system.n) or (B is not None and B.shape[1] != len(names)):
            size = system.n if B is None else B.shape[1]
            raise Refusal(f"{inputs} has {len(names)} inputs, but the system takes {size}")
        forcing |= {"u": ZeroOrderHold(table.numbers("t", may_miss=False), values)}
        forcing |= {} if B is None else {"B": B}
    elif "B" in arrays and arrays["B"].any():
        remark(f"{system.path} holds B, but there are no --inputs: they are taken as 0")
    return LinearODE(arrays["Xi"], arrays["z0"], method=method, **forcing)


def files_among(*texts: str | None) -> list[Path | None]:
    """The options that name an existing file."""
    return [Path(text) for text in texts if text is not None and is_there(Path(text))]
