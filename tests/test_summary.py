"""The summary claims what the numbers say, and nothing more."""

import dataclasses

import pytest
from measurements import (
    make_ensemble_results,
    make_results,
    make_run,
    with_run,
    with_test_split,
)
from scipy import stats

from kdjax.report.statistics import Statistic
from kdjax.report.summary import cell, summarise
from kdjax.results.measured import CurvePoint, Training


def test_a_student_worse_than_its_twin_is_called_lost():
    summary = summarise(make_results(student=[1.6], twin=[1.5]))
    assert summary.outcome == "lost"
    assert summary.verdict.startswith("Distillation did not pay: ")
    assert "1.6000" in summary.verdict
    assert "1.5000" in summary.verdict


def test_the_test_split_decides_whatever_the_validation_split_says():
    results = make_results(student=[1.2, 1.3], twin=[1.5, 1.6])
    assert "on held-out text, its twin" in summarise(results).verdict
    longer = [make_run("equal-compute twin", seed, 1.4) for seed in (0, 1)]
    results = dataclasses.replace(results, runs=(*results.runs, *longer))
    tested = with_test_split(results, student=0.5, teacher=0.1)
    summary = summarise(tested)
    assert summary.outcome == "lost"
    assert summary.difference.mean == pytest.approx(-0.2)
    assert summary.gap_closed.mean == pytest.approx((-0.2 / 0.4 - 0.2 / 0.5) / 2)
    assert summary.verdict.startswith(
        "Distillation did not pay: the student reaches 1.7500 bits/byte on the test "
        "split (by which kdjax chooses nothing), its twin without the teacher 1.5500. "
    )
    assert "(0.3500 bits/byte, within the spread" in summary.verdict  # equal compute
    own = dataclasses.replace(tested.runs[1].final["test"], own={"mine": 4.0})
    final = tested.runs[1].final | {"test": own}
    others = summarise(with_run(tested, 1, final=final)).roles["student"].others
    assert others["mine"].mean == 4.0


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


def test_a_difference_within_student_s_t_is_unclear():
    # Differences 0.3, -0.1 and 0.1: mean 0.1, standard error 0.2 / sqrt(3) = 0.115.
    results = make_results(student=[2.0, 2.0, 2.0], twin=[2.3, 1.9, 2.1])
    summary = summarise(results)
    assert summary.outcome == "unclear"
    interval = stats.ttest_1samp([0.3, -0.1, 0.1], 0.0).confidence_interval()
    shown = f"{interval.low:.4f} to {interval.high:.4f}"
    assert f"within the spread (95% interval {shown})" in summary.verdict
    assert "closes" not in summary.verdict


@pytest.mark.parametrize(
    ("twin", "outcome"),
    [
        ([2.1, 2.2], "unclear"),  # 3 standard errors; two seeds need 12.7
        ([2.1, 2.2, 2.3], "unclear"),  # 3.5; three seeds need 4.3
        ([2.1, 2.2, 2.3, 2.4], "won"),  # 3.9; four need 3.2
        ([2.1, 2.11], "won"),
    ],
)
def test_few_seeds_need_more_than_two_standard_errors(twin, outcome):
    results = make_results(student=[2.0] * len(twin), twin=twin)
    assert summarise(results).outcome == outcome
    differences = [score - 2.0 for score in twin]
    p_value = stats.ttest_1samp(differences, 0.0).pvalue
    assert (p_value < 0.05) == (outcome == "won")


def test_cost_is_time_of_all_devices_and_flops():
    results = make_results(student=[1.2, 1.3], twin=[1.4, 1.5])
    environment = dataclasses.replace(results.environment, devices=4)
    summary = summarise(dataclasses.replace(results, environment=environment))
    # 100 steps of 32 rows of 128 tokens at 41,234 and 41,235 tokens/s, on 4 devices.
    seconds = [4 * 100 * 32 * 128 / speed for speed in (41_234, 41_235)]
    assert summary.roles["student"].seconds.mean == pytest.approx(sum(seconds) / 2)
    assert summary.roles["student"].flops.mean == 2.5e12
    assert "student 40 s a seed (2.5e+12 FLOPs)" in summary.cost
    assert summary.cost.startswith("Training time of 4 x cpu: teacher 40 s")


def test_what_was_trained_on_other_devices_cost_what_it_did_there():
    results = make_results(student=[1.2], twin=[1.4])
    environment = dataclasses.replace(results.environment, devices=4)
    results = dataclasses.replace(results, environment=environment)
    cached = dataclasses.replace(results.runs[0].training, devices=1)
    roles = summarise(with_run(results, 0, training=cached)).roles
    assert 4 * roles["teacher"].seconds.mean == roles["student"].seconds.mean


def test_what_a_loaded_teacher_cost_is_not_made_up():
    results = make_results(student=[1.2])
    results = with_run(results, 0, training=None, curve=())
    summary = summarise(results)
    assert summary.roles["teacher"].seconds is None
    assert "teacher" not in summary.cost
    results = with_run(results, 1, training=Training(None, None, 0))
    assert summarise(results).cost == ""


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
        "spread (95% interval 0.0752 to 0.1248)."
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


def test_equal_compute_may_reverse_the_verdict_of_equal_tokens():
    results = make_results(student=[1.5, 1.5, 1.5], twin=[1.6, 1.61, 1.62])

    def with_longer(scores):
        longer = [
            make_run("equal-compute twin", seed, score)
            for seed, score in enumerate(scores)
        ]
        return dataclasses.replace(results, runs=(*results.runs, *longer))

    summary = summarise(with_longer([1.4, 1.41, 1.42]))
    assert summary.verdict.startswith("Distillation paid")
    assert "the twin takes 100 steps and reaches 1.4100" in summary.verdict
    assert "at equal compute distillation does not pay" in summary.verdict
    assert "(0.0900 bits/byte, beyond the spread" in summary.verdict
    # The teacher's training cost as many FLOPs as the twin's.
    assert "is not counted, would pay for 100 more." in summary.verdict
    assert "pays at equal compute as well" in (
        summarise(with_longer([1.55, 1.56, 1.57])).verdict
    )
    assert "pays at equal compute is unclear" in (
        summarise(with_longer([1.4, 1.6, 1.5])).verdict
    )
    assert "equal compute" not in summarise(results).verdict


def with_curve(results, role, bits_per_byte):
    """Returns the results with another curve, of even steps up to 100, for a role."""
    last = len(bits_per_byte) - 1
    curve = tuple(
        CurvePoint(100 * place // last, 1.75 * bits, bits)
        for place, bits in enumerate(bits_per_byte)
    )
    runs = (
        dataclasses.replace(run, curve=curve) if run.role == role else run
        for run in results.runs
    )
    config = dataclasses.replace(
        results.config, student=with_steps(results.config.student, 100)
    )
    return dataclasses.replace(results, runs=tuple(runs), config=config)


def with_steps(section, steps):
    return dataclasses.replace(
        section, train=dataclasses.replace(section.train, steps=steps)
    )


def test_caveats_tell_what_a_longer_training_may_change():
    results = make_results(student=[1.5, 1.5], twin=[1.6, 1.6], teacher=1.2)
    for role, curve in (
        ("teacher", [8.0, 3.0, 1.5, 1.3, 1.2]),
        ("student", [8.0, 3.0, 1.8, 1.6, 1.5]),
        ("twin", [8.0, 4.0, 2.0, 1.7, 1.6]),
    ):
        results = with_curve(results, role, curve)
    said = summarise(results).caveats
    # From 2.0 to 1.6 in a doubling: 1.6 / 1.25 ** 1.29 is 1.2, and 2 ** 1.29 is 2.4.
    assert (
        "the twin would overtake the teacher after about 240 steps, 2.4 times" in said
    )
    # The lead of 0.1 was 0.2 at half the steps.
    assert "shrank by 0.1000 bits/byte in the second half" in said
    assert "the twin catches up after about 200 steps, 2.0 times" in said
    assert "teacher was still improving when it stopped, by 0.1000 bits/byte" in said
    assert "fewer tokens" not in said  # both had 100 steps of as many rows

    rested = with_curve(results, "teacher", [8.0, 2.0, 1.22, 1.21, 1.2])
    rested = with_curve(rested, "student", [8.0, 3.0, 1.8, 1.6, 1.2])
    said = summarise(rested).caveats
    assert "still improving" not in said and "catches up" not in said


def test_a_teacher_of_fewer_tokens_than_the_twin_is_told_of():
    results = make_results(student=[1.5], twin=[1.6])  # with curves of three points
    assert "fewer tokens" not in summarise(results).caveats
    teacher = results.config.teacher
    train = dataclasses.replace(teacher.train, batch_size=1)
    config = dataclasses.replace(
        results.config, teacher=dataclasses.replace(teacher, train=train)
    )
    said = summarise(dataclasses.replace(results, config=config)).caveats
    assert "trained on fewer tokens than the twin: 12,800 against" in said


def test_nothing_is_foretold_without_curves_or_far_ahead():
    results = make_results(student=[1.5], twin=[1.6], teacher=1.2)
    assert summarise(results).caveats == ""  # of three points
    for role in ("teacher", "student", "twin"):
        results = with_curve(results, role, [8.0, 3.0, 1.61, 1.605, 1.6])
    assert summarise(results).caveats == ""
