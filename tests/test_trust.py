"""Error estimates and statuses on many kinds of problems, against ball arithmetic: what `tests.trust` prints."""

from __future__ import annotations

import pytest

from tests.cases import CASES
from tests.trust import Record, problems, score


def share(records: list[Record], what: str) -> float:
    return sum(getattr(record, f"is_{what}") for record in records) / len(records)


@pytest.fixture(scope="module")
def every() -> list[Record]:
    hard = [(case.name, (case.Xi, case.z0, case.t)) for case in CASES]
    return [score(*problem) for problem in [*hard, *problems(range(500, 502))]]


def test_the_estimate_covers_the_error(every: list[Record]):
    assert share(every, "covered") >= 0.99


def test_the_estimate_is_within_a_factor_of_100(every: list[Record]):
    assert share(every, "near") >= 0.9


def test_no_status_but_ok_where_nine_digits_are_right_and_no_ok_where_six_are_not(every: list[Record]):
    assert [r.name for r in every if r.is_false_alarm or r.is_miss] == []
