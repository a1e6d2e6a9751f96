"""Gates: each passes, and each fails, with the numbers that it judged by."""

import inspect
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch_assets.errors import GateError
from batch_assets.lake.commits import BaselineDecision, ScoringCommit
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import OutputSummary, PredictionsReceipt
from batch_assets.lake.reconciliation import Books, ControlTotal, Page
from batch_assets.models.reference import histogram
from batch_assets.quality import gates
from batch_assets.quality.drift import prediction_drift
from batch_assets.quality.verdict import Verdict, must_be_open
from batch_assets.spec import Gates
from batch_assets_tests.toys import (
    DAY,
    NAME,
    copy_rows,
    expected_risk,
    make_contract,
    make_rows,
    validate,
)

verdict = partial(Verdict, moved_by="Mend it")


def total(*keys: int) -> ControlTotal:
    return ControlTotal.of(pa.array(keys, pa.int64()))


def books_of(raw: int, quarantined: int = 0, scored: int = 0, dead: int = 0) -> Books:
    """Books that close, of one shard with so many rows on each side."""
    validated = raw - quarantined
    return Books(
        DAY,
        {
            0: Page(
                ControlTotal(raw, raw),
                ControlTotal(validated, validated),
                ControlTotal(quarantined, quarantined),
                ControlTotal(scored, scored),
                ControlTotal(dead, dead),
            )
        },
    )


def predict(
    lake,
    release,
    *,
    risk: list | None = None,
    stamp: str | None = None,
    model: str = NAME,
    row_digests: list[str] | None = None,
    facts: dict | None = None,
    told: dict | None = None,
) -> list[Part]:
    """Commit a day of predictions of one shard, as they should be but for `changes`.

    `told` replaces what the receipt says of the output.
    """
    if risk is None:
        risk = expected_risk(make_rows(300, seed=2)).tolist()
    digests = row_digests or [release.digest] * len(risk)
    rows = pa.table(
        {
            "user_id": range(len(risk)),
            "risk": pa.array(risk, pa.float32()),
            "model_name": [model] * len(risk),
            "model_version": digests,
        },
        schema=make_contract().prediction_schema(),
    )
    known = [x for x in risk if x is not None and abs(x) < float("inf")]
    counts = histogram(np.array(known), release.manifest.reference["risk"].edges)
    # A receipt with NaN equals not even itself: it could not be committed.
    numbers = np.array(known if len(known) == len(risk) else [], np.float64)
    span = {
        "rows": len(risk),
        "sum": sum(known),
        "counts": counts,
        "min": float(numbers.min()) if len(numbers) else None,
        "max": float(numbers.max()) if len(numbers) else None,
    }
    receipt = PredictionsReceipt(
        DAY,
        0,
        0,
        "a" * 64,
        ControlTotal.of(rows["user_id"]),
        release=stamp or release.digest,
        outputs={"risk": OutputSummary(**(span | (told or {})))},
    )
    table = lake.predictions
    path = table.part_path(DAY, 0, "a" * 64, 0)
    with PartWriter(path, rows.schema, row_group_rows=100, numbers=True) as writer:
        writer.write(rows)
        part = writer.finish(receipt)
    commit = ScoringCommit("a" * 64, NAME, release.digest, scored=len(rows), dead=0)
    table.commit_day(DAY, [part], rows.schema, replace(commit, **(facts or {})))
    return [part]


STRICT = Gates(
    max_quarantine_share=0.02,
    max_dead_letter_share=0.02,
    min_coverage=0.9,
    max_volume_change=0.1,
    volume_days=3,
)
LOST = books_of(1000, quarantined=500, scored=400)
FAULTY = books_of(1000, quarantined=500, scored=400, dead=100)
# Each gate, how it is shut, and what moves it: fields of the YAML, or what there is.
SHUT = {
    "validation_closes": (lambda _: gates.validation_closes(Books(DAY, {})), []),
    "scoring_closes": (lambda _: gates.scoring_closes(LOST), []),
    "quarantine_share": (
        lambda _: gates.quarantine_share(FAULTY, STRICT),
        ["max_quarantine_share"],
    ),
    "dead_letter_share": (
        lambda _: gates.dead_letter_share(FAULTY, STRICT),
        ["max_dead_letter_share"],
    ),
    "coverage": (lambda _: gates.coverage(FAULTY, STRICT), ["min_coverage"]),
    "volume": (
        lambda _: gates.volume(DAY, {"2026-01-04": 10, DAY: 20}, STRICT),
        ["max_volume_change", "volume_days"],
    ),
    "one_release": (
        lambda at: gates.one_release(at["lake"], at["registry"], "2026-01-01"),
        [],
    ),
    "scores_in_range": (
        lambda at: gates.scores_in_range(at["parts"], make_contract()),
        [],
    ),
    "carried_rows": (
        lambda at: gates.carried_rows(FAULTY, at["lake"].predictions.last_commit(DAY)),
        [],
    ),
    "prediction_drift": (
        lambda at: prediction_drift(
            at["parts"], at["release"].manifest, Gates(warn_psi=1e-9, max_psi=1e-9)
        ),
        ["max_psi", "warn_psi"],
    ),
}


@pytest.mark.parametrize("gate", SHUT)
def test_a_shut_gate_names_the_field_of_the_yaml_that_moves_it(
    gate, lake, registry, toy_release
):
    facts = {"decision": BaselineDecision(refused=True), "rescored": 3}
    parts = predict(lake, toy_release, risk=[7.0] * 300, facts=facts)
    judge, fields = SHUT[gate]

    found = judge(
        {"lake": lake, "registry": registry, "release": toy_release, "parts": parts}
    )

    assert not found.passed
    assert sorted(set(re.findall(r"gates\.(\w+)", found.told))) == fields
    assert set(fields) <= set(Gates.model_fields)
    assert found.told == f"{found.why.rstrip('.')}. {found.moved_by}"
    if not fields:
        assert re.search("No (field|limit) of the YAML moves it", found.told)


def test_every_gate_is_among_those_and_moves_every_limit_of_the_yaml():
    judges = {
        name
        for name, function in inspect.getmembers(gates, inspect.isfunction)
        if inspect.signature(function).return_annotation is Verdict
        and not name.startswith("_")
    }

    assert judges == set(SHUT)
    assert {name for _, names in SHUT.values() for name in names} == set(
        Gates.model_fields
    )


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (
            "quarantine_share",
            "500 of 1,000 raw rows are quarantined: 0.5000 of them, at most 0.02 may be. "
            "The limit is gates.max_quarantine_share in the pipeline's YAML",
        ),
        (
            "dead_letter_share",
            "100 of 500 validated rows are dead letters: 0.2000 of them, at most 0.02 may "
            "be. The limit is gates.max_dead_letter_share in the pipeline's YAML",
        ),
        (
            "coverage",
            "400 of 1,000 raw rows are scored: 0.4000 of them, at least 0.9 must be. "
            "The limit is gates.min_coverage in the pipeline's YAML",
        ),
    ],
)
def test_a_shut_gate_says_what_its_number_compares(gate, told):
    assert SHUT[gate][0]({}).told == told


def test_closed_books_pass_with_their_counts():
    books = books_of(10, quarantined=2, scored=7, dead=1)

    validation, scoring = gates.validation_closes(books), gates.scoring_closes(books)

    assert (validation.passed, scoring.passed) == (True, True)
    assert validation.numbers == {
        "raw_rows": 10,
        "validated_rows": 8,
        "quarantined_rows": 2,
        "open_shards": 0,
    }
    assert scoring.numbers == {
        "validated_rows": 8,
        "scored_rows": 7,
        "dead_letters": 1,
        "carried_rows": 0,
        "open_shards": 0,
    }
    assert "in each of 1 shards" in validation.why


def test_open_books_fail_with_their_shards():
    books = Books(
        DAY,
        {
            2: Page(raw=total(1, 2), validated=total(1, 1)),
            5: Page(raw=total(3), validated=total(3), scored=total(3)),
        },
    )

    validation, scoring = gates.validation_closes(books), gates.scoring_closes(books)

    assert (validation.passed, validation.blocks) == (False, True)
    assert validation.why == "raw is not validated plus quarantined in 1 shards: [2]"
    assert validation.numbers["open_shards"] == 1
    assert (scoring.passed, scoring.blocks) == (False, True)
    assert scoring.why == "validated is not scored plus dead in 1 shards: [2]"


@pytest.mark.parametrize("gate", [gates.validation_closes, gates.scoring_closes])
def test_a_day_that_is_not_committed_does_not_pass_as_closed(gate):
    verdict = gate(Books(DAY, {}))

    assert not verdict.passed
    assert verdict.why == f"{DAY} is not committed"


@pytest.mark.parametrize(
    ("quarantined", "passed"), [(0, True), (20, True), (21, False), (1000, False)]
)
def test_the_quarantine_share_has_a_limit(quarantined, passed):
    verdict = gates.quarantine_share(
        books_of(1000, quarantined=quarantined), Gates(max_quarantine_share=0.02)
    )

    assert (verdict.passed, verdict.blocks) == (passed, True)
    assert verdict.numbers == {"share": quarantined / 1000, "limit": 0.02}
    assert verdict.why.startswith(
        f"{quarantined:,} of 1,000 raw rows are quarantined: "
    )


@pytest.mark.parametrize(("dead", "passed"), [(0, True), (9, True), (10, False)])
def test_the_dead_letter_share_is_of_the_validated_rows(dead, passed):
    books = books_of(1000, quarantined=100, scored=900 - dead, dead=dead)

    verdict = gates.dead_letter_share(books, Gates(max_dead_letter_share=0.01))

    assert (verdict.passed, verdict.blocks) == (passed, True)
    assert verdict.numbers == {"share": dead / 900, "limit": 0.01}


@pytest.mark.parametrize(
    ("scored", "passed"), [(1000, True), (990, True), (989, False)]
)
def test_coverage_is_of_the_raw_rows(scored, passed):
    verdict = gates.coverage(books_of(1000, scored=scored), Gates(min_coverage=0.99))

    assert (verdict.passed, verdict.blocks) == (passed, True)
    assert verdict.numbers == {"coverage": scored / 1000, "limit": 0.99}


def test_an_allowed_empty_day_has_no_shares():
    books = books_of(0)

    assert gates.quarantine_share(books, Gates()).passed
    assert gates.dead_letter_share(books, Gates()).passed
    assert gates.coverage(books, Gates()).passed


@pytest.mark.parametrize(
    ("rows", "passed", "change"),
    [(100, True, 0.0), (150, True, 0.5), (151, False, 0.51), (49, False, 0.51)],
)
def test_volume_is_held_against_the_median_of_the_days_before(rows, passed, change):
    by_day = {"2026-01-02": 90, "2026-01-03": 100, "2026-01-04": 900, DAY: rows}
    # A later day is no history, so that a backfill is judged as its night was.
    by_day["2026-01-06"] = 5

    verdict = gates.volume(DAY, by_day, Gates(max_volume_change=0.5))

    assert (verdict.passed, verdict.blocks) == (passed, False)
    assert verdict.numbers == {
        "raw_rows": rows,
        "trailing_days": 3,
        "trailing_median": 100,
        "change": pytest.approx(change),
        "limit": 0.5,
    }


def test_volume_looks_back_only_as_far_as_asked():
    by_day = {f"2026-01-{n:02d}": 1 for n in range(1, 4)} | {
        "2026-01-04": 100,
        DAY: 100,
    }

    assert gates.volume(DAY, by_day, Gates(volume_days=1)).passed
    assert not gates.volume(DAY, by_day, Gates(volume_days=4)).passed


@pytest.mark.parametrize(
    ("by_day", "passed"),
    [
        ({DAY: 7}, True),
        ({}, True),
        ({"2026-01-04": 0, DAY: 0}, True),
        ({"2026-01-04": 0, DAY: 7}, False),
        ({"2026-01-04": 7}, False),
    ],
    ids=str,
)
def test_volume_without_rows_or_history(by_day, passed):
    assert gates.volume(DAY, by_day, Gates()).passed is passed


def test_one_approved_release_on_every_row_passes(lake, registry, toy_release):
    predict(lake, toy_release)

    verdict = gates.one_release(lake, registry, DAY, toy_release.digest)

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

    verdict = gates.one_release(lake, registry, DAY)

    assert (verdict.passed, verdict.blocks) == (False, True)
    assert "expected one digest everywhere" in verdict.why
    assert verdict.facts[where] != toy_release.digest


def test_another_digest_in_the_graph_fails(lake, registry, toy_release):
    predict(lake, toy_release)

    verdict = gates.one_release(lake, registry, DAY, "0" * 64)

    assert not verdict.passed
    assert verdict.numbers == {"releases": 2}


def test_predictions_that_are_not_committed_fail(lake, registry):
    verdict = gates.one_release(lake, registry, DAY)

    assert not verdict.passed
    assert verdict.why == f"{DAY} is not committed"


def test_a_release_revoked_after_scoring_fails(lake, registry, toy_release):
    predict(lake, toy_release)
    registry.revoke(NAME, toy_release.digest, why="a bug", by="grace")

    verdict = gates.one_release(lake, registry, DAY)

    assert not verdict.passed
    assert "by grace" in verdict.why


def test_an_approval_that_ran_out_after_scoring_fails(lake, registry, toy_release):
    predict(lake, toy_release)
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    registry.approve(NAME, toy_release.digest, why="a trial", until=soon)
    time.sleep(0.3)

    assert not gates.one_release(lake, registry, DAY).passed


def test_a_release_tampered_after_scoring_fails(lake, registry, toy_release):
    predict(lake, toy_release)
    path = registry.folder / NAME / toy_release.digest / "model.pt2"
    path.chmod(0o644)
    path.write_bytes(b"altered")

    verdict = gates.one_release(lake, registry, DAY)

    assert not verdict.passed
    assert "model.pt2" in verdict.why


def test_scores_in_range_pass(lake, toy_release):
    parts = predict(lake, toy_release, risk=[0.0, 0.25, 1.0])

    verdict = gates.scores_in_range(parts, make_contract())

    assert verdict.passed
    assert verdict.numbers == {"risk_min": 0, "risk_max": 1, "risk_outside": 0}


@pytest.mark.parametrize(
    "bad", [None, float("nan"), float("inf"), float("-inf"), -0.01, 1.01]
)
def test_a_score_out_of_range_fails(lake, toy_release, bad):
    parts = predict(lake, toy_release, risk=[0.25, bad, 0.75])

    verdict = gates.scores_in_range(parts, make_contract())

    assert (verdict.passed, verdict.blocks) == (False, True)
    assert verdict.numbers["risk_outside"] == 1
    assert verdict.why.startswith("1 values are not finite or out of the declared")


def test_good_parts_are_judged_without_reading_a_row(
    lake, registry, toy_release, monkeypatch
):
    parts = predict(lake, toy_release)
    monkeypatch.setattr(gates, "_query", lambda *_: pytest.fail("rows were read"))

    assert gates.scores_in_range(parts, make_contract()).passed
    assert gates.one_release(lake, registry, DAY).passed


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

    assert gates.scores_in_range(parts, make_contract()).numbers["risk_outside"] == 1


def test_a_wrong_receipt_does_not_shut_the_gate_on_good_rows(lake, toy_release):
    parts = predict(lake, toy_release, risk=[0.25, 0.5], told={"max": 2.0})

    assert gates.scores_in_range(parts, make_contract()).passed


def test_an_output_without_bounds_need_only_be_finite(lake, toy_release):
    contract = make_contract(outputs=[{"name": "risk"}])

    parts = predict(lake, toy_release, risk=[-500.0, 500.0])

    assert gates.scores_in_range(parts, contract).passed


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), float("-inf")])
def test_an_output_without_bounds_must_be_finite(lake, toy_release, bad):
    contract = make_contract(outputs=[{"name": "risk"}])

    parts = predict(lake, toy_release, risk=[-500.0, bad, 500.0])

    assert not gates.scores_in_range(parts, contract).passed


def test_scores_of_no_rows_are_in_range(lake, toy_release):
    parts = predict(lake, toy_release, risk=[])

    assert gates.scores_in_range(parts, make_contract()).passed


@pytest.mark.parametrize("committed", [True, False])
def test_the_gates_before_scoring_read_the_lake(lake, committed):
    if committed:
        copy_rows(lake, make_rows(100))
        validate(lake)

    verdicts = gates.after_validation(lake.books(DAY, scoring=False), Gates())

    assert [v.passed for v in verdicts] == [committed, True]


def test_the_gates_before_serving_are_all_there(lake, registry, toy_release):
    predict(lake, toy_release)

    verdicts = gates.after_scoring(
        lake, registry, toy_release.manifest, DAY, Gates()
    )  # fmt: skip

    # Scores of a day that was never validated: its books don't close.
    shut = {v.gate for v in verdicts if not v.passed}
    assert len(verdicts) == 8
    assert shut == {"validated_is_scored_plus_dead"}


def test_open_gates_let_the_day_go_on():
    must_be_open(DAY, [verdict("a", passed=True, why="fine")], then="nothing is served")
    must_be_open(
        DAY, [verdict("b", passed=False, why="odd", blocks=False)], then="nothing"
    )


def test_shut_gates_are_all_named():
    verdicts = [
        verdict("a", passed=False, why="two rows are lost"),
        verdict("b", passed=True, why="fine"),
        verdict("c", passed=False, why="only warns", blocks=False),
        verdict("d", passed=False, why="drifted"),
    ]

    with pytest.raises(GateError) as refused:
        must_be_open(DAY, verdicts, then="yesterday stays up")

    assert str(refused.value).splitlines() == [
        f"2 of 4 gates of {DAY} are shut; yesterday stays up.",
        "- a: two rows are lost. Mend it",
        "- d: drifted. Mend it",
    ]


@example(rows=100, share=0.29)  # 100 times 0.29 is 28.999999999999996
@given(rows=st.integers(0, 5_000), share=st.floats(0, 1))
def test_as_many_dead_letters_may_be_as_keep_their_gate_open(rows, share):
    limits = Gates(max_dead_letter_share=share)

    def is_open(dead: int) -> bool:
        page = Page(validated=ControlTotal(rows, 0), dead=ControlTotal(dead, 0))
        return gates.dead_letter_share(Books(DAY, {0: page}), limits).passed

    most = gates.most_dead_letters(rows, limits)
    assert is_open(most)
    assert most >= rows or not is_open(most + 1)
