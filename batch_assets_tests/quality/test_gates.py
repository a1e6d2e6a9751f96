"""The table of gates: what each is, what moves it, and who asks for which."""

import dataclasses
import re

import numpy as np
import pytest

from batch_assets.errors import GateError
from batch_assets.lake.commits import BaselineDecision
from batch_assets.lake.profiles import Profile, Segment
from batch_assets.lake.reconciliation import Books, ControlTotal, Page
from batch_assets.models.bins import Bins
from batch_assets.quality import gates
from batch_assets.quality.changes import Nights
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.gates import GATES
from batch_assets.quality.verdict import Gate, Verdict, must_be_open
from batch_assets.spec import GateLimits
from batch_assets_tests.days_by_hand import books_of, of_books, predict, verdict_of
from batch_assets_tests.toys import DAY, copy_rows, make_rows, make_spec, validate

STRICT = GateLimits(
    max_quarantine_share=0.02,
    max_dead_letter_share=0.02,
    min_coverage=0.9,
    max_volume_change=0.1,
    volume_days=3,
    warn_psi=1e-9,
    max_psi=1e-9,
)


def unlike_before(
    at: DayEvidence, column: str | None, *, segment: bool = False
) -> DayEvidence:
    """Twenty nights alike, and one on which a column, or a segment of it, is not."""
    bins = Bins(edges=tuple(range(8)), counts=(100,) * 10)
    random = np.random.default_rng(0)
    nights = {name: random.poisson(100, (20, 2, bins.size)) for name in ("age", "risk")}
    tonight = {name: counts[-1].copy() for name, counts in nights.items()}
    if column:
        line = 1 if segment else 0
        tonight[column][line] = 0
        tonight[column][line, -2] = 1_000
    days = tuple(f"2025-12-{day:02d}" for day in range(10, 30))
    manifest = at.manifest().model_copy(update={"profile": dict.fromkeys(nights, bins)})
    profile = Profile.of_counts("a", [Segment("plan", "pro")], tonight)
    return dataclasses.replace(
        at,
        limits=GateLimits(),
        manifest=lambda: manifest,
        profile=lambda: profile,
        nights=lambda: Nights(days, nights),
    )


EMPTY = of_books(Books(DAY, {}))
LOST = of_books(books_of(1000, quarantined=500, scored=400))
FAULTY = of_books(books_of(1000, quarantined=500, scored=400, dead=100), STRICT)
ROWS_KEPT = ControlTotal(9, 9)
KEPT = of_books(Books(DAY, {0: Page(ROWS_KEPT, ROWS_KEPT, kept=ROWS_KEPT)}))
# How each gate is shut, and what moves it: fields of the YAML, or nothing but the day.
SHUT = {
    "volume_is_like_the_days_before": (
        lambda _: DayEvidence(
            DAY, STRICT, rows_by_day=lambda: {"2026-01-04": 10, DAY: 20}
        ),
        ["max_volume_change", "volume", "volume_days"],
    ),
    "raw_is_validated_plus_quarantined": (lambda _: EMPTY, []),
    "quarantine_share_is_within_limit": (lambda _: FAULTY, ["max_quarantine_share"]),
    "validated_is_scored_plus_carried_plus_dead": (lambda _: LOST, []),
    "dead_letter_share_is_within_limit": (
        lambda _: FAULTY,
        ["max_dead_letter_share"],
    ),
    "coverage_is_within_limit": (lambda _: FAULTY, ["min_coverage"]),
    "every_shard_is_of_the_day": (lambda _: KEPT, ["max_kept_share"]),
    "carried_rows_equal_their_rescoring": (lambda at: at, []),
    "one_approved_release_on_every_row": (
        lambda _: DayEvidence(DAY, STRICT, parts=list, commit=lambda: None),
        [],
    ),
    "scores_are_finite_and_in_range": (lambda at: at, []),
    "predictions_are_distributed_like_the_reference": (
        lambda at: at,
        ["max_psi", "warn_psi"],
    ),
    "outputs_are_like_the_nights_before": (
        lambda at: unlike_before(at, "risk"),
        ["drift", "max_psi"],
    ),
    "features_are_like_the_nights_before": (
        lambda at: unlike_before(at, "age"),
        ["drift", "warn_psi"],
    ),
    "segments_are_like_the_nights_before": (
        lambda at: unlike_before(at, "risk", segment=True),
        ["drift"],
    ),
    "the_day_is_no_night_before_again": (
        lambda at: unlike_before(at, None),
        ["repeated_day"],
    ),
}


@pytest.mark.parametrize("gate", SHUT)
def test_a_shut_gate_names_the_field_of_the_yaml_that_moves_it(
    gate, lake, registry, toy_release
):
    facts = {"decision": BaselineDecision(refused=True), "rescored": 3}
    predict(lake, toy_release, risk=[7.0] * 300, facts=facts)
    evidence, fields = SHUT[gate]

    verdict = verdict_of(
        gate, evidence(DayEvidence.of_day(lake, registry, DAY, STRICT))
    )

    assert not verdict.passed
    assert sorted(set(re.findall(r"gates\.(\w+)", verdict.message))) == fields
    assert set(fields) <= set(GateLimits.model_fields)
    assert verdict.message == f"{verdict.why.rstrip('.')}. {verdict.moved_by}"
    if not fields:
        assert re.search("No (field|limit) of the YAML moves it", verdict.message)


def test_every_gate_is_among_those_and_moves_every_limit_of_the_yaml():
    assert [gate.name for gate in GATES] == list(SHUT)
    assert {name for _, names in SHUT.values() for name in names} == set(
        GateLimits.model_fields
    )


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (
            "quarantine_share_is_within_limit",
            "500 of 1,000 raw rows are quarantined: 0.5000 of them, at most 0.02 may be. "
            "The limit is gates.max_quarantine_share in the pipeline's YAML; the rows are "
            "in quarantined_rows, each with the rules that it breaks: mend the source, and "
            "run the day again",
        ),
        (
            "dead_letter_share_is_within_limit",
            "100 of 500 validated rows are dead letters: 0.2000 of them, at most 0.02 may "
            "be. The limit is gates.max_dead_letter_share in the pipeline's YAML; the rows "
            "are in dead_letters, each with the reason: mend it, and run the day again",
        ),
        (
            "coverage_is_within_limit",
            "400 of 1,000 raw rows are scored: 0.4000 of them, at least 0.9 must be. "
            "The limit is gates.min_coverage in the pipeline's YAML",
        ),
    ],
)
def test_a_shut_gate_says_what_its_number_compares(gate, message):
    assert verdict_of(gate, FAULTY).message == message


@pytest.mark.parametrize(
    ("changes", "blocks", "effect"),
    [
        ({}, True, "blocks"),
        ({"blocking": False}, False, "warns"),
        ({"may_only_warn": True}, False, "blocks or warns"),
    ],
)
def test_a_verdict_has_name_and_severity_from_its_gate(changes, blocks, effect):
    mild = Verdict(passed=False, why="odd", blocks=False)
    gate = Gate("a", "predictions", lambda _: mild, "It is even.", "Mend it", **changes)

    assert gate.verdict(None) == Verdict(
        passed=False, why="odd", blocks=blocks, gate="a", moved_by="Mend it"
    )
    assert gate.effect == effect


def test_a_gate_of_incremental_nights_is_of_these_alone():
    plain, incremental = make_spec(), make_spec(incremental=True)

    left_out = [gate.name for gate in GATES if not gate.when(plain)]

    assert left_out == ["carried_rows_equal_their_rescoring"]
    assert all(gate.when(incremental) for gate in GATES)


def test_a_judge_can_not_take_evidence_that_is_not_there():
    with pytest.raises(RuntimeError, match="evidence that was not given"):
        verdict_of("coverage_is_within_limit", DayEvidence(DAY, GateLimits()))


@pytest.mark.parametrize("committed", [True, False])
def test_the_gates_before_scoring_read_the_lake(lake, committed):
    if committed:
        copy_rows(lake, make_rows(100))
        validate(lake)

    verdicts = gates.after_validation(
        lake, lake.books(DAY, scoring=False), GateLimits()
    )

    assert [v.passed for v in verdicts] == [True, committed, True]


@pytest.mark.parametrize(
    ("effect", "shut"), [("block", True), ("warn", False), ("off", None)]
)
def test_a_volume_that_blocks_is_asked_for_before_scoring(lake, effect, shut):
    for day, rows in (("2026-01-04", 100), (DAY, 40)):
        copy_rows(lake, make_rows(rows), day=day)
    validate(lake)
    books = lake.books(DAY, scoring=False)

    found, *_ = gates.after_validation(lake, books, GateLimits(volume=effect))

    assert found.gate == "volume_is_like_the_days_before"
    assert (None if found.passed else found.blocks) is shut


def test_a_gate_of_raw_features_that_blocks_is_asked_again_before_scoring(
    lake, monkeypatch
):
    copy_rows(lake, make_rows(101))
    validate(lake)
    even = Gate(
        name="raw_rows_are_even",
        asset="raw_features",
        judge=lambda day: Verdict(day.rows_by_day()[DAY] % 2 == 0, "101 are odd"),
        description="An even number of rows.",
        moved_by="Nothing moves it",
    )
    monkeypatch.setattr(gates, "GATES", (even, *gates.GATES))

    verdicts = gates.after_validation(
        lake, lake.books(DAY, scoring=False), GateLimits()
    )

    assert [v.gate for v in verdicts if not v.passed] == ["raw_rows_are_even"]


def test_a_gate_that_some_pipelines_lack_can_not_block():
    (carried,) = [gate for gate in gates.GATES if gate.name.startswith("carried")]

    with pytest.raises(ValueError, match="is not every pipeline's: let it warn"):
        dataclasses.replace(carried, blocking=True)


def test_the_gates_before_serving_are_all_there(lake, registry, toy_release):
    predict(lake, toy_release)

    verdicts = gates.after_scoring(
        lake, registry, toy_release.manifest, DAY, GateLimits()
    )  # fmt: skip

    # Scores of a day that was never validated: its books don't close.
    shut = {v.gate for v in verdicts if not v.passed}
    assert [v.gate for v in verdicts] == [g.name for g in gates.GATES if g.blocking]
    assert shut == {"validated_is_scored_plus_carried_plus_dead"}


def verdict(
    gate: str, why: str, *, passed: bool = True, blocks: bool = True
) -> Verdict:
    return Verdict(passed, why, blocks=blocks, gate=gate, moved_by="Mend it")


def test_open_gates_let_the_day_go_on():
    open_gates = [verdict("a", "fine"), verdict("b", "odd", passed=False, blocks=False)]

    must_be_open(DAY, open_gates, pipeline="toy", then="nothing is served")


def test_shut_gates_are_all_named():
    verdicts = [
        verdict("a", "two rows are lost", passed=False),
        verdict("b", "fine"),
        verdict("c", "only warns", passed=False, blocks=False),
        verdict("d", "drifted", passed=False),
    ]

    with pytest.raises(GateError) as refused:
        must_be_open(DAY, verdicts, pipeline="toy", then="yesterday stays up")

    assert str(refused.value).splitlines() == [
        f"2 of 4 gates of {DAY} are shut; yesterday stays up.",
        "- a: two rows are lost. Mend it",
        "- d: drifted. Mend it",
    ]
