"""Days judged by the days before them: what is worse than usual, and what was promised."""

from datetime import date, timedelta

import numpy as np
import pytest

from batch_assets.lake.profiles import Segment
from batch_assets.quality.judges.performance import OutcomeEvidence, outcome_gates
from batch_assets.quality.performance.history import KNOWN, History, Value
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import OutcomesSpec

FIRST = date(2026, 1, 5)
NIGHTS = 20
TONIGHT = str(FIRST + timedelta(days=NIGHTS))
USUAL = {"auc": 0.7, "log_loss": 0.5, "brier": 0.2, "calibration_error": 0.02}


def spec(**changes) -> OutcomesSpec:
    return OutcomesSpec.model_validate(
        {
            "source": {"kind": "parquet", "glob": "{{ day }}.parquet"},
            "output": "risk",
            "task": "binary",
        }
        | changes
    )


def history(nights: int = NIGHTS, **tonight: float) -> History:
    """Days alike but for chance, and tonight, which is alike but for what is said of it."""
    random, found = np.random.default_rng(0), History()
    days = [str(FIRST + timedelta(days=NIGHTS - n)) for n in range(nights, -1, -1)]
    for metric, usual in USUAL.items():
        for day in days:
            value = usual * (1 + 0.02 * random.normal())
            if day == TONIGHT:
                value = tonight.get(metric, usual)
            found.realised[metric][day] = Value(value, usual * 0.01, 1_000, "a")
            promised = tonight.get(f"promised_{metric}", usual)
            if metric != "calibration_error":
                found.estimated[metric][day] = Value(
                    promised if day == TONIGHT else usual, None, 1_000, "a"
                )
    for day in days:
        known = tonight.get("known", 0.9) if day == TONIGHT else 0.9
        found.realised[KNOWN][day] = Value(known, None, 1_000, "a")
        for plan in ("free", "pro"):
            value = 0.7 * (1 + 0.02 * random.normal())
            if day == TONIGHT and plan in tonight:
                value = tonight[plan]
            at = Segment("plan", plan), "auc"
            found.segments[at][day] = Value(value, 0.01, 100, "a")
    return found


def judged(found: History, asked: OutcomesSpec | None = None) -> dict[str, Verdict]:
    asked = asked or spec()
    evidence = OutcomeEvidence(TONIGHT, asked, found)
    return {gate.name: gate.verdict(evidence) for gate in outcome_gates(asked)}


def shut(verdicts: dict[str, Verdict]) -> set[str]:
    return {name for name, verdict in verdicts.items() if not verdict.passed}


def test_a_day_like_the_others_passes():
    assert shut(judged(history())) == set()


@pytest.mark.parametrize(
    ("tonight", "gates"),
    [
        ({"auc": 0.6}, {"auc_is_like_the_days_before", "the_estimate_was_right"}),
        ({"auc": 0.8}, {"the_estimate_was_right"}),
        (
            {"log_loss": 0.6},
            {"log_loss_is_like_the_days_before", "the_estimate_was_right"},
        ),
        ({"log_loss": 0.4}, {"the_estimate_was_right"}),
        ({"calibration_error": 0.05}, {"calibration_error_is_like_the_days_before"}),
        ({"calibration_error": 0.0}, set()),
        ({"promised_log_loss": 0.3}, {"the_estimate_was_right"}),
        ({"known": 0.3}, {"enough_outcomes_are_known"}),
        ({"pro": 0.3}, {"segments_are_as_good_as_the_days_before"}),
        ({"pro": 0.9}, set()),
    ],
)
def test_what_is_off_warns_and_what_is_better_does_not(tonight, gates):
    verdicts = judged(history(**tonight))

    assert shut(verdicts) == gates
    assert not any(verdict.blocks for verdict in verdicts.values())


def test_a_segment_is_named_with_its_numbers():
    verdict = judged(history(pro=0.3))["segments_are_as_good_as_the_days_before"]

    assert "auc where plan is pro is 0.3000, usually 0.70" in verdict.why
    assert "free" not in verdict.why


def test_few_days_are_a_cold_start_and_say_so():
    verdicts = judged(history(nights=5, auc=0.1, pro=0.1))

    assert shut(verdicts) == set()
    assert "cold start: 5 of 14 days" in verdicts["auc_is_like_the_days_before"].why
    assert "cold start: 5 of 14 days" in verdicts["the_estimate_was_right"].why
    assert "not judged" in verdicts["segments_are_as_good_as_the_days_before"].why


def test_days_after_it_do_not_judge_a_day():
    found = history()
    for after in range(1, 30):
        day = str(date.fromisoformat(TONIGHT) + timedelta(days=after))
        found.realised["auc"][day] = Value(0.99, 0.01, 1_000, "a")

    assert shut(judged(found)) == set()


def test_days_that_are_all_alike_leave_room_for_chance():
    found = history()
    for day in found.realised["auc"]:
        found.realised["auc"][day] = Value(0.7, 0.02, 1_000, "a")
    found.realised["auc"][TONIGHT] = Value(0.67, 0.02, 1_000, "a")

    assert judged(found)["auc_is_like_the_days_before"].passed


def test_a_day_without_outcomes_is_not_judged():
    verdicts = judged(History())

    assert shut(verdicts) == set()
    assert all("not judged" in verdict.why for verdict in verdicts.values())


@pytest.mark.parametrize(
    ("task", "gates"),
    [
        ("multiclass", {"accuracy", "macro_f1"}),
        ("regression", {"mae", "rmse"}),
        ("ranking", {"recall", "ndcg"}),
    ],
)
def test_each_task_has_a_check_on_each_of_its_metrics(task, gates):
    names = {gate.name for gate in outcome_gates(spec(task=task))}

    assert {f"{gate}_is_like_the_days_before" for gate in gates} < names
    assert "the_estimate_was_right" not in names


def test_labels_are_as_right_as_their_probabilities_promise():
    asked = spec(task="multiclass", output="kind", probability="sure")

    assert "the_estimate_was_right" in {gate.name for gate in outcome_gates(asked)}
