"""A shard that can't be scored keeps what an earlier night left; the others are published."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import CorruptPartError, GateError, SnapshotError
from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.delta_table import Table, digest_of
from batch_assets.lake.shards import hash_key
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.gates import GATES
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import Night, score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.sinks.sync import sync_sink
from batch_assets.snapshots.judges import equals_predictions
from batch_assets.snapshots.listing import list_versions
from batch_assets.snapshots.operations import rollback
from batch_assets.snapshots.provenance import explain_key
from batch_assets.snapshots.reader import Snapshot
from batch_assets.snapshots.version import Version
from batch_assets_tests.parts_by_hand import spoil_shard
from batch_assets_tests.publishing import (
    BEFORE,
    NEXT,
    OPEN,
    approved,
    narrow,
    publish,
    raw_rows,
    root_of,
    served,
    snapshots_of,
)
from batch_assets_tests.stores import Store, open_store
from batch_assets_tests.toys import (
    DAY,
    SHARDS,
    copy_rows,
    make_contract,
    read_day,
    validate,
    write_toy_release,
)

BAD = 2


@pytest.fixture
def damaged(ready: Lake) -> Lake:
    """A day is served, and a shard of the next can't be read any more."""
    publish(ready, DAY)
    unscored(ready, NEXT)
    spoil_shard(ready, NEXT, BAD)
    return ready


def unscored(lake: Lake, day: str) -> None:
    """Take the predictions of a day away, as if it had never been scored."""
    for table in (lake.predictions, lake.dead_letters):
        for path in table.paths(day):
            path.unlink()
        commit = table.last_commit(day)
        assert commit is not None
        table.commit_day(day, [], lake_schema(table), commit.facts)


def lake_schema(table: Table) -> pa.Schema:
    stored = table.dataset()
    assert stored is not None
    return pa.schema([f for f in stored.schema if f.name not in ("day", "shard")])


def night(lake: Lake, release: Release, day: str = NEXT, **changes) -> Night:
    engine = changes.pop("engine", None) or LocalEngine(find_device("cpu"), workers=2)
    settings = replace(ScoringSettings(OPEN, 40, 60, keep_failed=True), **changes)
    return score_day(DayRun(lake, day), release, engine, settings)


def key_of(lake: Lake, shard: int, day: str) -> int:
    [path] = lake.raw_features.of_shards([shard]).paths(day)
    return pq.read_table(path, partitioning=None)["user_id"][0].as_py()


def test_the_others_are_published_and_the_shard_serves_yesterday(
    damaged: Lake, narrow_release: Release
):
    before = Version.current(snapshots_of(damaged))
    scored = night(damaged, narrow_release)

    assert list(scored.failed) == [BAD]
    assert "CorruptPartError" in scored.failed[BAD]
    books = damaged.books(NEXT)
    assert (books.closed, books.kept) == (True, [BAD])
    page = books.pages[BAD]
    assert (page.kept, page.scored.rows) == (page.validated, 0)
    assert books.total.kept == page.validated

    published = publish(damaged, NEXT)
    assert published.swapped
    version = Version.current(snapshots_of(damaged))
    manifest = version.manifest
    assert manifest.day == NEXT
    assert list(manifest.kept_shards) == [BAD]
    kept = manifest.kept_shards[BAD]
    assert (kept.day, kept.version) == (DAY, before.name)
    assert kept.created_at == before.manifest.created_at
    assert manifest.files[BAD].sha256 == before.manifest.files[BAD].sha256
    assert equals_predictions(damaged, snapshots_of(damaged), NEXT).passed

    today = {
        row["user_id"]: row["risk"]
        for row in read_day(damaged, "predictions", day=NEXT).to_pylist()
    }
    seen = set()
    for key in read_day(damaged, "raw_features", day=NEXT)["user_id"].to_pylist():
        answer, shard = version.get(key), hash_key(key) % SHARDS
        if shard == BAD:
            old = before.get(key)
            assert (answer and answer.outputs) == (old and old.outputs)
            if answer:
                assert answer.kept == kept
                assert (answer.day, answer.version) == (DAY, version.name)
                assert answer.age >= datetime.now(UTC) - kept.created_at - timedelta(1)
                assert answer.to_dict()["kept"] == {"why": kept.why, "day": DAY}
        elif answer:
            assert answer.outputs == {"risk": today[key]}
            assert (answer.day, answer.kept) == (NEXT, None)
        seen.add(shard)
    assert seen == set(range(SHARDS))


def test_coverage_counts_tonights_rows_that_have_an_answer(
    damaged: Lake, narrow_release: Release
):
    night(damaged, narrow_release)
    publish(damaged, NEXT)
    version = Version.current(snapshots_of(damaged))
    raw = read_day(damaged, "raw_features", day=NEXT)["user_id"].to_pylist()
    of_shard = [key for key in raw if hash_key(key) % SHARDS == BAD]
    answered = sum(version.get(key) is not None for key in of_shard)
    file = version.manifest.files[BAD]
    assert (file.answered, file.raw_rows) == (answered, len(of_shard))
    answer = next(a for a in map(version.get, of_shard) if a)
    assert answer.coverage == answered / len(of_shard)
    assert answer.to_dict()["coverage"] == answer.coverage
    whole = sum(version.get(key) is not None for key in raw) / len(raw)
    assert version.manifest.coverage == pytest.approx(whole)


def test_many_keys_are_answered_as_one_by_one(damaged: Lake, narrow_release: Release):
    night(damaged, narrow_release)
    publish(damaged, NEXT)
    version = Version.current(snapshots_of(damaged))
    keys = read_day(damaged, "raw_features", day=NEXT)["user_id"].to_pylist()
    assert version.get_many(keys) == [version.get(key) for key in keys]


def test_the_gates_say_so_and_the_coverage_is_of_what_was_scored(
    damaged: Lake, narrow_release: Release
):
    night(damaged, narrow_release)
    evidence = DayEvidence.of_day(damaged, Registry(root_of(damaged)), NEXT, OPEN)
    said = {gate.name: gate.verdict(evidence) for gate in GATES}
    kept = said["every_shard_is_of_the_day"]
    assert (kept.passed, kept.blocks) == (False, False)
    assert f"shards [{BAD}] of {SHARDS} could not be scored" in kept.message
    assert said["coverage_is_within_limit"].passed
    assert "1 shards aside that were kept" in said["coverage_is_within_limit"].why
    assert said["validated_is_scored_plus_carried_plus_dead"].passed
    few = OPEN.model_copy(update={"max_kept_share": 0.1})
    with pytest.raises(GateError, match="every_shard_is_of_the_day"):
        publish(damaged, NEXT, gates=few)


def test_the_night_after_the_mend_has_every_shard(ready: Lake, narrow_release: Release):
    publish(ready, DAY)
    unscored(ready, NEXT)
    whole = spoil_shard(ready, NEXT, BAD)
    night(ready, narrow_release)
    publish(ready, NEXT)
    again = night(ready, narrow_release)  # Still damaged: tried, and kept again.
    assert (list(again.failed), again.scored_rows > 0) == ([BAD], True)
    [path] = ready.validated_features.of_shards([BAD]).paths(NEXT)
    path.write_bytes(whole)

    mended = night(ready, narrow_release)

    assert mended.failed == {}
    assert {part.shard for part in mended.parts} == set(range(SHARDS))
    assert ready.books(NEXT).kept == []
    assert publish(ready, NEXT).current.kept_shards == {}
    assert night(ready, narrow_release).unchanged


def test_two_nights_on_end_keep_the_same_origin(damaged: Lake, narrow_release: Release):
    night(damaged, narrow_release)
    publish(damaged, NEXT)
    later = "2026-01-07"
    copy_rows(damaged, raw_rows(later), day=later)
    validate(damaged, day=later)
    spoil_shard(damaged, later, BAD)
    night(damaged, narrow_release, later)
    kept = publish(damaged, later).current.kept_shards[BAD]
    assert kept.day == DAY


def test_an_old_shard_is_stale_before_the_version_is(
    damaged: Lake, narrow_release: Release
):
    night(damaged, narrow_release)
    publish(damaged, NEXT)
    version = Version.current(snapshots_of(damaged))
    shard = version.manifest.by_shard[BAD]
    hours = datetime.now(UTC) - timedelta(hours=40)
    old = shard.model_copy(update={"created_at": hours})
    assert (old.is_stale, version.manifest.is_stale) == (True, False)


@pytest.mark.parametrize("keep", [False, True])
def test_more_than_may_fail_stop_the_night_and_so_does_one_where_none_may(
    damaged: Lake, narrow_release: Release, keep: bool
):
    if keep:
        spoil_shard(damaged, NEXT, 0)
    before = served(damaged)
    with pytest.raises(CorruptPartError) as stopped:
        night(damaged, narrow_release, keep_failed=keep)
    assert damaged.predictions.paths(NEXT) == []
    assert served(damaged) == before
    notes = " ".join(stopped.value.__notes__)
    assert ("may be kept as they were (gates.max_kept_share)" in notes) == keep


def test_nothing_is_published_where_nothing_is_served_to_keep(
    ready: Lake, narrow_release: Release
):
    unscored(ready, NEXT)
    spoil_shard(ready, NEXT, BAD)
    night(ready, narrow_release)
    with pytest.raises(
        SnapshotError, match="there is nothing to keep: nothing is served"
    ):
        publish(ready, NEXT)


def test_another_models_outputs_are_not_kept_beside_tonights(
    damaged: Lake, tmp_path: Path
):
    outputs = [{"name": "chance", "dtype": "float32", "min": 0, "max": 1}]
    release = write_toy_release(
        tmp_path / "other",
        contract=make_contract(outputs=outputs),
        reference={},
        reference_days=None,
    )
    approved(root_of(damaged), release)
    night(damaged, release)
    before = served(damaged)
    with pytest.raises(SnapshotError, match="of other shards or outputs"):
        publish(damaged, NEXT)
    assert served(damaged) == before


def test_a_release_of_yesterday_is_named_in_the_answers_of_the_kept_shard(
    damaged: Lake, tmp_path: Path, narrow_release: Release
):
    other = approved(root_of(damaged), narrow(tmp_path / "n", about={"author": "new"}))
    night(damaged, other)
    publish(damaged, NEXT)
    version = Version.current(snapshots_of(damaged))
    releases = {
        hash_key(key) % SHARDS == BAD: answer.release.digest
        for key in read_day(damaged, "raw_features", day=NEXT)["user_id"].to_pylist()
        if (answer := version.get(key))
    }
    assert releases == {True: narrow_release.digest, False: other.digest}


def test_a_key_of_the_kept_shard_is_explained(damaged: Lake, narrow_release: Release):
    night(damaged, narrow_release)
    publish(damaged, NEXT)
    registry = Registry(root_of(damaged))
    raw = read_day(damaged, "raw_features", day=NEXT).to_pylist()
    key = next(
        row["user_id"]
        for row in raw
        if hash_key(row["user_id"]) % SHARDS == BAD and 0 <= row["age"] <= 120
    )
    found = explain_key(damaged, registry, snapshots_of(damaged), str(key))
    assert (found.fate, found.features) == ("kept", None)
    assert "CorruptPartError" in found.notes[0]
    assert found.page.kept == found.page.validated


def test_versions_and_readers_show_it_and_a_rollback_ends_it(
    damaged: Lake, narrow_release: Release
):
    night(damaged, narrow_release)
    publish(damaged, NEXT)
    store = snapshots_of(damaged)
    assert list_versions(store).versions[-1].kept_shards == (BAD,)
    reader = Snapshot(store.folder)
    try:
        answer = reader.get(key_of(damaged, BAD, DAY))
    finally:
        reader.close()
    assert answer is None or answer.kept is not None
    rollback(store, why="rather whole", by="ada")
    assert Version.current(store).manifest.kept_shards == {}


def test_an_incremental_night_builds_on_one_with_a_kept_shard(
    damaged: Lake, narrow_release: Release
):
    night(damaged, narrow_release, incremental=None)
    later = "2026-01-07"
    copy_rows(damaged, raw_rows(NEXT), day=later)
    validate(damaged, day=later)
    built = night(damaged, narrow_release, later, incremental=Incremental())
    assert built.failed == {}
    assert damaged.books(later).closed
    assert {part.shard for part in built.parts} == set(range(SHARDS))
    assert digest_of(built.parts) == digest_of(damaged.predictions.parts(later))
    assert later > BEFORE


@pytest.fixture(params=["redis", "postgres", "cassandra"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from open_store(request, request.param)


def test_a_store_answers_as_the_disk_does(
    damaged: Lake, narrow_release: Release, store: Store
):
    night(damaged, narrow_release)
    publish(damaged, NEXT)
    snapshots, sink = snapshots_of(damaged), store.open()
    assert sync_sink(sink, snapshots, keep=2).swapped
    version = Version.current(snapshots)
    days = set()
    for key in read_day(damaged, "raw_features", day=NEXT)["user_id"].to_pylist():
        answer, there = version.get(key), sink.get(key)
        assert (there is None) == (answer is None)
        if answer and there:
            assert there.outputs == answer.outputs
            assert (there.day, there.kept) == (answer.day, answer.kept)
            days.add(there.day)
    assert days == {DAY, NEXT}
