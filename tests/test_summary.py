"""The summary claims what the numbers say, and nothing more."""

import pytest
from measurements import make_ensemble_results, make_results

from kdjax.report.summary import Statistic, cell, summarise


def test_a_student_worse_than_its_twin_is_called_lost():
    summary = summarise(make_results(student=[1.6], twin=[1.5]))
    assert summary.outcome == "lost"
    assert summary.verdict.startswith("Distillation did not pay: ")
    assert "1.6000" in summary.verdict
    assert "1.5000" in summary.verdict


@pytest.mark.parametrize("student", [[1.4], [1.6]])
def test_one_seed_is_called_one_seed_and_has_no_spread(student):
    summary = summarise(make_results(student=student, twin=[1.5]))
    assert "one seed; --config.seeds=3 would show the spread" in summary.verdict
    agreement = summary.roles["student"].final["validation"]["agreement"]
    assert agreement.spread is agreement.standard_error is None


def test_without_a_twin_nothing_is_proven():
    summary = summarise(make_results(student=[1.2, 1.3]))
    assert summary.outcome == "no_baseline"
    assert summary.verdict.startswith("Nothing is proven")
    assert summary.gap_closed is None


def test_seeds_are_compared_in_pairs():
    # The seeds differ far more than student and twin do within each of them.
    results = make_results(student=[2.0, 3.0, 2.5], twin=[2.1, 3.11, 2.59])
    summary = summarise(results)
    assert summary.outcome == "won"
    assert summary.difference.mean == pytest.approx(0.1)
    assert summary.difference.standard_error == pytest.approx(0.01 / 3**0.5)
    assert "0.1000 bits/byte in favour of the student, beyond the spread" in (
        summary.verdict
    )


def test_a_consistent_loss_over_seeds_is_lost():
    results = make_results(student=[2.1, 3.11, 2.59], twin=[2.0, 3.0, 2.5])
    summary = summarise(results)
    assert summary.outcome == "lost"
    assert "0.1000 bits/byte in favour of the twin" in summary.verdict
    assert "closes" not in summary.verdict


def test_a_difference_below_two_standard_errors_is_unclear():
    # Differences 0.3, -0.1 and 0.1: mean 0.1, standard error 0.2 / sqrt(3) = 0.115.
    results = make_results(student=[2.0, 2.0, 2.0], twin=[2.3, 1.9, 2.1])
    summary = summarise(results)
    assert summary.outcome == "unclear"
    assert "within the spread (two standard errors: 0.2309)" in summary.verdict
    assert "closes" not in summary.verdict


def test_gap_closed_is_a_mean_over_seeds_of_shares():
    # 0.5 / 1.0 and 0.1 / 0.4; the share of the mean scores would be 0.43.
    summary = summarise(make_results(student=[1.5, 1.3], twin=[2.0, 1.4]))
    gap_closed = summary.gap_closed
    assert gap_closed.mean == pytest.approx(0.375)
    assert gap_closed.spread == pytest.approx(0.25 / 2**0.5)


def test_seeds_without_a_gap_are_left_out_and_the_verdict_says_so():
    summary = summarise(make_results(student=[1.5, 0.4], twin=[2.0, 0.9]))
    assert summary.outcome == "won"
    assert summary.gap_closed.mean == pytest.approx(0.5)
    assert summary.gap_closed.seeds == 1
    assert "only 1 of 2 seeds" in summary.verdict

    summary = summarise(make_results(student=[0.7], twin=[0.9]))
    assert summary.gap_closed is None
    assert "no gap to close" in summary.verdict


def test_a_cell_has_a_spread_only_where_there_is_one():
    assert cell(Statistic(0.71, seeds=1), 1, 100.0) == "71.0"
    assert cell(Statistic(1234.5, seeds=2, spread=0.25), 2) == "1,234.50 ± 0.25"
    assert cell(None, 4) == "-"


def test_rounding_leaves_no_negative_zero():
    assert cell(Statistic(-1e-9, seeds=1), 4) == "0.0000"


def members_sentence(**scores):
    """Returns what the verdict says last, after what it always says."""
    with_members = summarise(make_ensemble_results(**scores)).verdict
    scores.pop("members")
    without = summarise(make_results(**scores)).verdict
    assert with_members.startswith(without)
    return with_members.removeprefix(without)


@pytest.mark.parametrize(
    ("student", "comparison"),
    [(1.2345, "better"), (1.2845, "worse"), (1.24, "not clearly better")],
)
@pytest.mark.parametrize("twin", [[], [1.5]])
def test_the_ensemble_s_student_is_held_against_the_best_member_s(
    student, comparison, twin
):
    members = {"deep": [1.3], "wide": [1.24]}
    assert members_sentence(student=[student], twin=twin, members=members) == (
        f" The ensemble's student ({student:.4f}) is {comparison} than that of its "
        "best member, wide (1.2400)."
    )


def test_over_seeds_the_best_member_s_student_is_compared_in_pairs():
    # The seeds differ far more than the two do within each of them.
    members = {"wide": [2.1, 3.11, 2.59], "deep": [2.2, 3.2, 2.7]}
    sentence = members_sentence(student=[2.0, 3.0, 2.5], twin=(), members=members)
    assert sentence == (
        " The ensemble's student (2.5000) is better than that of its best member, wide "
        "(2.6000): over 3 seeds the paired difference is 0.1000 bits/byte, beyond the "
        "spread (two standard errors: 0.0115)."
    )
    members = {"wide": [2.3, 1.9, 2.1]}
    sentence = members_sentence(student=[2.0, 2.0, 2.0], twin=(), members=members)
    assert "is not clearly better than" in sentence and "within the spread" in sentence


def test_columns_come_in_the_order_of_the_runs():
    results = make_ensemble_results(
        student=[1.2, 1.3], twin=[1.5, 1.6], members={"b": [1.3, 1.4], "a": [1.3, 1.4]}
    )
    roles = summarise(results).roles
    assert list(roles) == [
        *("teacher", "teacher b", "teacher a", "student", "twin"),
        *("student of b", "student of a"),
    ]
    assert roles["student of a"].model == "student"
    assert roles["teacher a"].model == "teacher a"
