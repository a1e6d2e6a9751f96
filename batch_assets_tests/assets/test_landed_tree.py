"""A tree that the version of 2026-11-28 wrote, from before the rooms were laid out anew.

Two nights of the toy, incremental, with a quarantined row and a dead letter; the second
was rolled back. The model only multiplies, adds and clamps, so that every CPU gives its
bits. The days' sources and the release lie beside the root.
"""

import hashlib
import re
import shutil
import tarfile
from pathlib import Path

import polars as pl
import pytest
from dagster import DagsterInstance

from batch_assets.lake.reconciliation import Page
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.gates import GATES
from batch_assets.snapshots.reader import Snapshot
from batch_assets.spec import GateLimits
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    THIRD,
    Project,
    attributes,
    make_project,
    metadata_of,
)
from batch_assets_tests.toys import read_day

TREE = Path(__file__).parents[1] / "trees" / "landed-2026-11-28.tar.gz"
LIMITS = {"max_quarantine_share": 0.05, "max_dead_letter_share": 0.05}


@pytest.fixture
def layout() -> str:
    return "fast"


@pytest.fixture
def landed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> Project:
    with tarfile.open(TREE) as tree:
        tree.extractall(tmp_path, filter="data")
    pipeline = attributes(incremental=True, gates=LIMITS, layout=layout)
    return make_project(tmp_path, tmp_path / "root", monkeypatch, [pipeline])


MEASURED = re.compile(
    "^(gate_verdicts|stage_metrics|estimate_metrics|[.]stages|reports)$"
)


def digests(root: Path, *suffixes: str) -> dict[str, str]:
    """The sha256 of each file under a root, by its path there.

    What a night measures of itself and says of its gates is another each time.
    """
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and (not suffixes or path.suffix in suffixes)
        if not any(MEASURED.search(part) for part in path.relative_to(root).parts)
    }


def _rows_out(total: Page) -> tuple[int, int, int]:
    scored = total.scored.rows + total.carried.rows
    return scored, total.quarantined.rows, total.dead.rows


def test_its_books_close_and_no_gate_is_shut(landed: Project) -> None:
    lake = landed.lake("toy")
    for day in (FIRST, SECOND):
        evidence = DayEvidence.of_day(
            lake, landed.registry, day, GateLimits.model_validate(LIMITS)
        )
        verdicts = [gate.verdict(evidence) for gate in GATES]

        assert [verdict.gate for verdict in verdicts if not verdict.passed] == []
        assert _rows_out(evidence.books().total) == (398, 1, 1)


def test_its_nights_need_not_be_done_again(
    landed: Project, instance: DagsterInstance
) -> None:
    before = digests(landed.root, ".parquet", ".arrow", ".json")
    for day in (FIRST, SECOND):
        night = landed.run("toy", day, instance)

        assert night.success
        for asset in ("raw_features", "validated_features", "predictions"):
            assert metadata_of(night, asset)["unchanged"], asset
    assert digests(landed.root, ".parquet", ".arrow", ".json") == before


@pytest.mark.parametrize("layout", ["compact", "fast"])
def test_the_same_nights_have_the_same_rows_however_their_parts_lie(
    landed: Project, instance: DagsterInstance, layout: str
) -> None:
    """Bytes of parts are not kept: raw ones say what was not UTF-8, and jobs name them."""
    tables = ["raw_features", "quarantined_rows", "predictions", "dead_letters"]
    if layout == "compact":  # As the tree has them; else a block for all features.
        tables.append("validated_features")

    def rows() -> dict[tuple[str, str], pl.DataFrame]:
        return {  # To Polars, a missing number equals another.
            (table, day): pl.DataFrame(read_day(landed.lake("toy"), table, day))
            for table in tables
            for day in (FIRST, SECOND)
        }

    before = rows()
    shutil.rmtree(landed.root / "lake")
    shutil.rmtree(landed.root / "snapshots")

    for day in (FIRST, SECOND):
        assert landed.run("toy", day, instance).success

    parts = landed.lake("toy").validated_features.parts(SECOND)
    assert all(part.as_in_memory is (layout == "fast") for part in parts)
    for name, table in rows().items():
        assert table.equals(before[name]), name


def test_what_it_serves_is_served_and_its_history_is_read(landed: Project) -> None:
    store = landed.snapshots("toy")
    first, second = store.version_names()

    with Snapshot(store.folder) as snapshot:
        answer, served = snapshot.get(1), snapshot.version

    assert served == first == store.current()
    assert answer is not None
    assert 0 <= answer.outputs["risk"] <= 1
    entries, unreadable = store.history()
    assert [entry.act for entry in entries] == ["publish", "publish", "rollback"]
    assert unreadable == []
    assert list(store.withdrawn()) == [second]


def test_the_next_night_builds_on_it(
    landed: Project, instance: DagsterInstance
) -> None:
    night = landed.run("toy", THIRD, instance)

    assert night.success
    scored = metadata_of(night, "predictions")
    assert scored["built_on"] == SECOND
    # Of 30 rows that were set to the plan "pro", 13 had another.
    assert scored["carried_rows"] == 385
    commit = landed.lake("toy").predictions.last_commit(THIRD)
    assert commit is not None
    # The first night built on none, and the second says so in its commit.
    assert commit.facts.decision.nights_since_full == 2
