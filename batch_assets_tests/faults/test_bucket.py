"""In a bucket that is away, slow, late or lies, a night is whole or refused."""

import random
import threading

import pytest

from batch_assets_tests.crash import Ended
from batch_assets_tests.faults.bucket_nights import BucketStage, survive
from batch_assets_tests.faults.plan import DAY_SECONDS, Fault, FaultPlan
from batch_assets_tests.faults.proxy import DELETE, GET, LIST, PUT
from batch_assets_tests.toys import DAY

pytestmark = pytest.mark.slow

CAN = {"put": PUT, "get": GET, "list": LIST, "delete": DELETE}
SEED, SOME, MANY = 20_260_105, 3, 120


# Each was a night that ended without a clear refusal.
HOLES = [
    # Delta has an error of its own for an entry of its log that is late.
    (
        "put lake/toy/quarantined_rows/_delta_log/00000000000000000002.json 1",
        Fault.LATE,
    ),
    ("put lake/toy/predictions/_delta_log/00000000000000000002.json 1", Fault.LIE),
    # A log that names a file of verdicts which is nowhere, that night and the next.
    (
        "put lake/toy/gate_verdicts/day=2026-01-05/part-00000-*-c000.snappy.parquet 1",
        Fault.LIE,
    ),
]


@pytest.mark.parametrize(("at", "fault"), HOLES)
def test_what_was_a_hole_is_none_any_more(
    bucket: BucketStage, at: str, fault: Fault
) -> None:
    _, met = survive(bucket, FaultPlan(0, faults=(fault,), at=at))
    assert met == [f"{at}: {fault}"]


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_in_a_bucket_of_some_faults_nights_are_whole_or_refused(
    bucket: BucketStage, share: float
) -> None:
    ended = [survive(bucket, FaultPlan(SEED + n, share)) for n in range(SOME)]
    assert sum(len(met) for _, met in ended) > SOME


def test_a_bucket_that_only_stumbles_is_borne(bucket: BucketStage) -> None:
    """What was not done is asked for again, and what was done is not done twice."""
    stumbling = (Fault.FAIL, Fault.LOST, Fault.DELAY)
    for number in range(SOME):
        ended, met = survive(bucket, FaultPlan(number, 0.05, stumbling))
        assert ended.well, (ended, met)
        assert met


@pytest.mark.parametrize("clock", [-DAY_SECONDS, DAY_SECONDS])
def test_a_machine_whose_clock_is_a_day_off_makes_a_whole_night(
    bucket: BucketStage, clock: float
) -> None:
    root = bucket.root()
    assert bucket.night(root, clock=clock).well
    bucket.must_be_whole(root)


def test_a_bucket_that_is_away_in_the_middle_of_a_night_is_waited_for(
    bucket: BucketStage,
) -> None:
    must_wait(bucket, seconds=6)


@pytest.mark.crash
def test_a_bucket_that_is_away_for_a_minute_is_waited_for(bucket: BucketStage) -> None:
    must_wait(bucket, seconds=60)


def must_wait(bucket: BucketStage, seconds: float) -> None:
    root = bucket.root()
    bucket.proxy.begin(FaultPlan(0, share=0.0))
    begin, half = bucket.proxy.requests, len(bucket.requests) // 2
    running = bucket.zygote.start(root, publish=DAY, both=True, claim="a-run")
    while bucket.proxy.requests < begin + half:
        assert not running.done(), running.result()
        threading.Event().wait(0.001)
    bucket.proxy.go_away(seconds)

    ended = running.result(timeout=300)

    assert ended.well, ended
    assert ended.seconds > seconds
    bucket.must_be_whole(root)


@pytest.mark.crash
@pytest.mark.timeout(14_400)
def test_whatever_one_request_meets_a_night_is_whole_or_refused(
    bucket: BucketStage,
) -> None:
    """Each put, and some of what is read, with each fault that it can meet."""
    ended, draw = [], random.Random(SEED)
    for label in dict.fromkeys(bucket.requests):
        operation = label.split()[0]
        for fault in CAN.get(operation, ()):
            worth = operation == "put" or draw.random() < 0.05
            if worth and fault is not Fault.DELAY:
                plan = FaultPlan(0, faults=(fault,), at=label)
                ended.append(survive(bucket, plan))
    print(told([one for one, _ in ended], sum(len(met) for _, met in ended)))  # noqa: T201
    assert len(ended) > 50


@pytest.mark.crash
@pytest.mark.timeout(14_400)
def test_in_a_bucket_of_many_faults_nights_are_whole_or_refused(
    bucket: BucketStage,
) -> None:
    ended = [
        survive(bucket, FaultPlan(n, (0.002, 0.01, 0.05)[n % 3])) for n in range(MANY)
    ]
    print(told([one for one, _ in ended], sum(len(met) for _, met in ended)))  # noqa: T201


def told(ended: list[Ended], met: int) -> str:
    well = sum(one.well for one in ended)
    return f"\n{len(ended)} nights met {met} faults: {well} ended whole, {len(ended) - well} refused"
