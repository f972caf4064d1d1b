"""The load of the pools over a run, resumes included."""

from __future__ import annotations

from report_cases import pool_stats

from repo_ray.evaluation.report_pools import pool_rows


def test_counters_go_on_where_a_resume_starts_them_from_zero() -> None:
    history = [pool_stats(10, 3, 0.5, steps, 5.0) for steps in (1, 2, 3, 1, 2)]
    history[-1]["wanted"] = 4
    history[1]["longest_wait_s"] = 2.25
    (row,) = pool_rows([{"step": i, "pools": {"judge": s}} for i, s in enumerate(history)])
    # Three steps, then two after the resume.
    assert row["calls"] == "50"
    assert row["busy"] == "25%"
    assert row["actors"] == "1 to 4"
    assert (row["queue"], row["wait"]) == ("3 of 256", "2.2 s")


def test_rows_without_the_figures_are_left_out() -> None:
    assert pool_rows([{"step": 1}, {"step": 2, "pools": {"judge": {"calls": 1}}}]) == []
