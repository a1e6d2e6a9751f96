"""Over a disk that fails, tears, delays, reorders and lies, a night is whole or refused.

What a test says when it fails begins with the plan that makes the same again. A plan that
has found a hole once stays here as an example.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from batch_assets.errors import CommitError
from batch_assets.lake import metrics
from batch_assets.lake.metrics import STAGE, MetricTable
from batch_assets_tests.crash import Ended
from batch_assets_tests.faults.delta import COMMIT, LOOK, newest_entry
from batch_assets_tests.faults.nights import TABLES, Stage, staged, survive
from batch_assets_tests.faults.plan import Fault, FaultPlan
from batch_assets_tests.faults.store import FOLDER, OPEN, READ, WRITE
from batch_assets_tests.toys import DAY, NAME

CAN = {
    "put": WRITE,
    "replace": WRITE,
    "put folder": FOLDER,
    "has folder": READ,
    "hide": (Fault.FAIL,),
    "remove": (Fault.FAIL,),
    "read": READ,
    "open": OPEN,
    "commit": COMMIT,
    "write": COMMIT,
    "log of": LOOK,
}
# Each was a night that was called whole and was not, or ended without a clear refusal.
HOLES = [
    # The commit of a day that was made again: the night went on with the old rows.
    ("commit lake/toy/raw_features 1", Fault.LIE, True),
    # CURRENT named a version that is not there.
    ("put folder snapshots/toy/v=2026-01-05-* 1", Fault.LIE, True),
    ("replace snapshots/toy/CURRENT 1", Fault.TEAR, True),
    ("replace snapshots/toy/CURRENT 1", Fault.FLIP, False),
    # It said that the day is served, and the day before was.
    ("replace snapshots/toy/CURRENT 1", Fault.LIE, False),
    ("replace snapshots/toy/CURRENT 1", Fault.LATE, True),
    # Of what was published there was no record, or a torn one, which stops rollbacks.
    ("replace snapshots/toy/history.jsonl 1", Fault.LIE, False),
    ("replace snapshots/toy/history.jsonl 1", Fault.TEAR, False),
    # An operating system's error, without what to do.
    ("log of lake/toy/predictions 5", Fault.FAIL, False),
    ("read lake/toy/.claims/2026-01-05.json 2", Fault.FAIL, True),
    ("replace lake/toy/.claims/2026-01-05.json 1", Fault.LOST, False),
    ("has folder models/toy/* 1", Fault.FAIL, False),
    (
        "open lake/toy/raw_features/day=2026-01-05/shard=0/*-00000.parquet 6",
        Fault.FAIL,
        True,
    ),
]
FEW, MANY, SHARE = 6, 250, 0.006
SEED = 20_260_105


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("faults")) as stage:
        yield stage


@pytest.mark.parametrize(("at", "fault", "again"), HOLES)
def test_what_was_a_hole_is_none_any_more(
    stage: Stage, at: str, fault: Fault, again: bool
) -> None:
    ended = survive(stage, FaultPlan(0, faults=(fault,), at=at), again=again)
    assert ended.faults == [f"{at}: {fault}"]  # or the example is of nothing


def test_a_claim_that_is_shown_as_it_was_for_a_moment_is_not_lost(stage: Stage) -> None:
    """The run was told that its day was taken over, by itself."""
    at = "read lake/toy/.claims/2026-01-05.json 4"
    ended = survive(stage, FaultPlan(0, faults=(Fault.STALE,), at=at))
    assert (ended.well, len(ended.faults)) == (True, 1)


def test_metrics_that_were_said_to_be_written_and_were_not_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "write_deltalake", lambda *_, **__: None)
    row = dict.fromkeys(STAGE.names) | {"day": DAY, "stage": "predictions"}
    with pytest.raises(CommitError, match="said to be written, and are not there"):
        MetricTable(tmp_path / "metrics", STAGE).write(
            DAY, pa.Table.from_pylist([row], STAGE)
        )


def test_over_a_disk_of_few_faults_nights_are_whole_or_refused(stage: Stage) -> None:
    ended = [
        survive(stage, FaultPlan(SEED + n, 2 * SHARE), again=n % 2 == 0)
        for n in range(FEW)
    ]
    assert sum(len(one.faults) for one in ended) >= FEW


@pytest.mark.crash
@pytest.mark.timeout(14_400)
def test_over_a_disk_of_many_faults_nights_are_whole_or_refused(stage: Stage) -> None:
    """From a fault in each second night to dozens in each."""
    ended = [
        survive(stage, FaultPlan(n, (0.002, SHARE, 0.03)[n % 3]), again=n % 2 == 0)
        for n in range(MANY)
    ]
    print(told(ended))  # noqa: T201
    assert any(one.well and one.faults for one in ended)
    assert any(one.error for one in ended)


@pytest.mark.crash
@pytest.mark.timeout(14_400)
def test_whatever_one_operation_meets_a_night_is_whole_or_refused(stage: Stage) -> None:
    """Each operation of a night, with each fault that it can meet."""
    ended = []
    for number, label in enumerate(stage.undisturbed.operations):
        operation = max((name for name in CAN if label.startswith(f"{name} ")), key=len)
        for fault in CAN[operation]:
            # To open a part is asked for hundreds of times: every tenth will do.
            if fault is not Fault.DELAY and (operation != "open" or number % 10 == 0):
                plan = FaultPlan(0, faults=(fault,), at=label)
                ended.append(survive(stage, plan, again=number % 2 == 0))
    print(told(ended))  # noqa: T201
    assert len(ended) > 250
    assert sum(bool(one.faults) for one in ended) > 0.9 * len(ended)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("left", [0.0, 0.5])
def test_a_torn_entry_of_a_log_is_made_up_for_or_named(
    stage: Stage, table: str, left: float
) -> None:
    root = stage.root(again=True)
    entry = newest_entry(root / "lake" / NAME / table)
    data = entry.read_bytes()
    entry.write_bytes(data[: int(len(data) * left)])

    ended = stage.night(root)

    assert ended.well == (not left), ended
    if left:
        assert ended.error == "StorageError"
        assert f"{table}/_delta_log, take the newest file aside" in ended.message
        assert stage.must_serve_a_whole_version(root) == DAY
        entry.unlink()
        assert stage.night(root).well
    stage.must_be_whole(root)


def test_an_entry_of_a_log_that_opens_and_is_no_json_is_named(stage: Stage) -> None:
    """Delta opens a table without what an entry says of itself, and fails on it later."""
    root = stage.root(again=True)
    entry = newest_entry(root / "lake" / NAME / "raw_features")
    data = entry.read_bytes()
    at = data.index(b"batch_assets") + 30
    entry.write_bytes(data[:at] + b"\x15" + data[at + 1 :])

    ended = stage.night(root)

    assert ended.error == "LakeError", ended
    assert f"{entry} is damaged" in ended.message
    assert newest_entry(root / "lake" / NAME / "raw_features") == entry
    assert stage.must_serve_a_whole_version(root) == DAY
    entry.unlink()
    again = stage.night(root)
    assert again.well, (sorted(entry.parent.iterdir()), again.message)
    stage.must_be_whole(root)


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_a_flipped_bit_of_a_log_is_made_up_for_or_refused(
    stage: Stage, table: str
) -> None:
    draw = random.Random(table)
    for _ in range(8):
        root = stage.root()
        assert stage.night(root).well
        entry = newest_entry(root / "lake" / NAME / table)
        data = bytearray(entry.read_bytes())
        at, bit = draw.randrange(len(data)), draw.randrange(7)
        data[at] ^= 1 << bit
        entry.write_bytes(data)

        ended = stage.night(root)

        told = (
            f"bit {bit} of byte {at} of {bytes(data)!r}: {ended.error}: {ended.message}"
        )
        assert ended.well or ended.known, told
        assert stage.must_serve_a_whole_version(root) == DAY
        if ended.well:
            stage.must_be_whole(root)
        shutil.rmtree(root)


def told(ended: list[Ended]) -> str:
    """How many nights there were, and how they ended."""
    met = sum(len(one.faults) for one in ended)
    well = sum(one.well for one in ended)
    return (
        f"\n{len(ended)} nights met {met} faults: {well} ended whole, "
        f"{len(ended) - well} refused"
    )
