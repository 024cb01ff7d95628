"""The hard cases, collected. Each says where it comes from; none overflows; all are deterministic.

Matrices are in case_builders.py; the cases in cases_degenerate.py (eigenvalues that coincide, or nearly do),
cases_literature.py, cases_physical.py (applications), cases_scales.py (extremes of size, time and balance).
"""

from __future__ import annotations

from tests.case_builders import Case
from tests.cases_degenerate import degenerate_cases
from tests.cases_literature import literature_cases
from tests.cases_physical import physical_cases
from tests.cases_scales import scale_cases

CASES: tuple[Case, ...] = (*degenerate_cases(), *literature_cases(), *physical_cases(), *scale_cases())

__all__ = ["CASES", "Case"]
