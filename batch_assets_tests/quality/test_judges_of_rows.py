"""Gates over committed predictions: which release is on the rows, and what they hold."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.judges import outputs, release
from batch_assets.quality.judges.outputs import scores_in_range
from batch_assets.quality.judges.release import one_release
from batch_assets.spec import GateLimits
from batch_assets_tests.days_by_hand import predict
from batch_assets_tests.toys import DAY, NAME, make_contract


def evidence(lake, registry) -> DayEvidence:
    return DayEvidence.of_day(lake, registry, DAY, GateLimits())


def of_parts(parts, release, contract=None) -> DayEvidence:
    changes = {"contract": contract} if contract else {}
    manifest = release.manifest.model_copy(update=changes)
    return DayEvidence(
        DAY, GateLimits(), parts=lambda: parts, manifest=lambda: manifest
    )


def test_one_approved_release_on_every_row_passes(lake, registry, toy_release):
    predict(lake, toy_release)

    verdict = one_release(
        replace(evidence(lake, registry), graph_digest=lambda: toy_release.digest)
    )

    assert verdict.passed
    assert verdict.numbers == {"releases": 1}
    assert verdict.facts == dict.fromkeys(
        ("rows", "files", "commit", "graph"), toy_release.digest
    )


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("rows", {"row_digests": ["{digest}", "0" * 64], "risk": [0.5, 0.5]}),
        ("rows", {"row_digests": ["{digest}", "f" * 64], "risk": [0.5, 0.5]}),
        ("rows", {"row_digests": ["0" * 64], "risk": [0.5]}),
        ("files", {"stamp": "0" * 64}),
        ("commit", {"facts": {"release": "0" * 64}}),
        ("commit", {"facts": {"release": None}}),
    ],
)
def test_another_digest_anywhere_fails(lake, registry, toy_release, where, changes):
    if "row_digests" in changes:
        digests = [d.format(digest=toy_release.digest) for d in changes["row_digests"]]
        changes = changes | {"row_digests": digests}
    predict(lake, toy_release, **changes)

    verdict = one_release(evidence(lake, registry))

    assert (verdict.passed, verdict.blocks) == (False, True)
    assert "expected one digest everywhere" in verdict.why
    assert verdict.facts[where] != toy_release.digest


def test_another_digest_in_the_graph_fails(lake, registry, toy_release):
    predict(lake, toy_release)

    verdict = one_release(
        replace(evidence(lake, registry), graph_digest=lambda: "0" * 64)
    )

    assert not verdict.passed
    assert verdict.numbers == {"releases": 2}


def test_predictions_that_are_not_committed_fail(lake, registry):
    verdict = one_release(evidence(lake, registry))

    assert not verdict.passed
    assert verdict.why == f"{DAY} is not committed"


def test_a_release_revoked_after_scoring_fails(lake, registry, toy_release):
    predict(lake, toy_release)
    registry.revoke(NAME, toy_release.digest, why="a bug", by="grace")

    verdict = one_release(evidence(lake, registry))

    assert not verdict.passed
    assert "by grace" in verdict.why


def test_an_approval_that_ran_out_after_scoring_fails(lake, registry, toy_release):
    predict(lake, toy_release)
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    registry.approve(NAME, toy_release.digest, why="a trial", until=soon)
    time.sleep(0.3)

    assert not one_release(evidence(lake, registry)).passed


def test_a_release_tampered_after_scoring_fails(lake, registry, toy_release):
    predict(lake, toy_release)
    path = registry.folder / NAME / toy_release.digest / "model.pt2"
    path.chmod(0o644)
    path.write_bytes(b"altered")

    verdict = one_release(evidence(lake, registry))

    assert not verdict.passed
    assert "model.pt2" in verdict.why


def test_scores_in_range_pass(lake, toy_release):
    parts = predict(lake, toy_release, risk=[0.0, 0.25, 1.0])

    verdict = scores_in_range(of_parts(parts, toy_release))

    assert verdict.passed
    assert verdict.numbers == {"risk_min": 0, "risk_max": 1, "risk_outside": 0}


@pytest.mark.parametrize(
    "bad", [None, float("nan"), float("inf"), float("-inf"), -0.01, 1.01]
)
def test_a_score_out_of_range_fails(lake, toy_release, bad):
    parts = predict(lake, toy_release, risk=[0.25, bad, 0.75])

    verdict = scores_in_range(of_parts(parts, toy_release))

    assert (verdict.passed, verdict.blocks) == (False, True)
    assert verdict.numbers["risk_outside"] == 1
    assert verdict.why.startswith("1 values are not finite or out of the declared")


def test_good_parts_are_judged_without_reading_a_row(
    lake, registry, toy_release, monkeypatch
):
    parts = predict(lake, toy_release)
    for module in (outputs, release):
        monkeypatch.setattr(module, "query", lambda *_: pytest.fail("rows were read"))

    assert scores_in_range(of_parts(parts, toy_release)).passed
    assert one_release(evidence(lake, registry)).passed


@pytest.mark.parametrize(
    ("risk", "told"),
    [
        pytest.param([0.5, 1.5], {"max": 0.9}, id="the footer knows better"),
        pytest.param([0.5, None], {"min": 0.5, "max": 0.5}, id="a null"),
        pytest.param([0.5, 1.5], {"min": None, "max": None}, id="no numbers"),
        pytest.param([0.5, float("nan")], {"rows": 1, "min": 0, "max": 0}, id="rows"),
        pytest.param([float("nan")], {"min": 0.5, "max": 0.5}, id="nothing but NaN"),
    ],
)
def test_rows_are_read_where_receipt_and_footer_do_not_both_say_good(
    lake, toy_release, risk, told
):
    parts = predict(lake, toy_release, risk=risk, told=told)

    assert scores_in_range(of_parts(parts, toy_release)).numbers["risk_outside"] == 1


def test_a_wrong_receipt_does_not_shut_the_gate_on_good_rows(lake, toy_release):
    parts = predict(lake, toy_release, risk=[0.25, 0.5], told={"max": 2.0})

    assert scores_in_range(of_parts(parts, toy_release)).passed


def test_an_output_without_bounds_need_only_be_finite(lake, toy_release):
    contract = make_contract(outputs=[{"name": "risk"}])
    parts = predict(lake, toy_release, risk=[-500.0, 500.0])

    assert scores_in_range(of_parts(parts, toy_release, contract)).passed


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), float("-inf")])
def test_an_output_without_bounds_must_be_finite(lake, toy_release, bad):
    contract = make_contract(outputs=[{"name": "risk"}])
    parts = predict(lake, toy_release, risk=[-500.0, bad, 500.0])

    assert not scores_in_range(of_parts(parts, toy_release, contract)).passed


def test_scores_of_no_rows_are_in_range(lake, toy_release):
    parts = predict(lake, toy_release, risk=[])

    assert scores_in_range(of_parts(parts, toy_release)).passed
