"""A night is whole in a bucket too, and goes on where it was."""

import json
import signal
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from batch_assets.errors import CorruptPartError
from batch_assets.lake.parts import open_part, read_columns, read_open, sealed_part
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.snapshots.version import Version
from batch_assets.storage import (
    ObjectPath,
    Ranges,
    local,
    read_versioned,
    replace_if_unchanged,
)
from batch_assets_tests.commands import batch_assets
from batch_assets_tests.in_bucket import (
    NEXT_DAY,
    ROWS,
    TABLES,
    flip,
    prepared,
    publish,
    python,
    score,
)
from batch_assets_tests.models_that_fail import broken, write_mendable
from batch_assets_tests.parts_by_hand import write_part
from batch_assets_tests.projects import attributes, errors_of, make_project, metadata_of
from batch_assets_tests.replays import replay
from batch_assets_tests.toys import (
    DAY,
    NAME,
    make_rows,
    pin_rows,
    read_day,
    validate,
    write_source,
)

pytestmark = pytest.mark.slow


def test_nights_through_dagster_leave_the_parts_of_nights_on_disk(
    root, toy_release, tmp_path, monkeypatch
):
    """To the byte; with rows in quarantine, and a night that builds on another."""
    gates = {"max_quarantine_share": 0.1, "min_coverage": 0.9}
    project = make_project(
        tmp_path / "project",
        root,
        monkeypatch,
        [attributes(incremental=True, gates=gates, layout="fast")],
    )
    rows = make_rows(ROWS)
    ages = np.minimum(rows["age"].to_numpy(), 119)
    for day in (DAY, NEXT_DAY):
        ages[::97] = 130  # Too old: it waits in quarantine.
        rows = rows.set_column(1, rows.schema.field("age"), pa.array(ages, pa.int16()))
        write_source(project.folder, rows, day=day)
        ages[:100] = 50
    found = {}
    for where in (root, tmp_path / "disk"):
        monkeypatch.setenv("BATCH_ASSETS_ROOT", str(where))
        registry, lake = Registry(where), Lake(where, NAME)
        registry.add(toy_release.folder)
        registry.approve(NAME, toy_release.digest, why="the tests need it", by="ada")
        with dg.instance_for_test() as instance:
            nights = [project.run(NAME, day, instance) for day in (DAY, NEXT_DAY)]
        assert all(night.success for night in nights), errors_of(nights[-1])
        snapshot = Version.current(where / "snapshots" / NAME)
        keys = rows["user_id"].to_pylist()[:50]
        found[where] = {
            "carried": metadata_of(nights[1], "predictions")["carried_rows"],
            "quarantined": lake.books(DAY).total.quarantined.rows,
            "version": snapshot.name,
            "answers": [a and a.outputs for a in map(snapshot.get, keys)],
            **{
                f"{table} {day}": [
                    (part.path.name, part.size, part.sha256)
                    for part in getattr(lake, table).parts(day)
                ]
                for table in TABLES
                for day in (DAY, NEXT_DAY)
            },
        }

    on_store, on_disk = found.values()
    assert on_store == on_disk
    assert on_store["carried"] > 500
    assert on_store["quarantined"] > 5
    assert on_store[f"predictions {NEXT_DAY}"]


@pytest.mark.engines
@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_an_engine_leaves_in_a_bucket_what_one_machine_leaves(
    root, registry, tmp_path, monkeypatch, engine
):
    """Validated and scored there, with rows in quarantine; a worker needs the bucket alone."""
    gates = {"max_quarantine_share": 0.1, "min_coverage": 0.9}
    pipelines = [attributes(name, gates=gates) for name in (NAME, "alone")]
    make_project(tmp_path / "p", root, monkeypatch, pipelines)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    rows = make_rows(ROWS)
    ages = rows["age"].to_numpy().copy()
    ages[3] = 130  # Too old: it waits in quarantine.
    ages = pa.array(ages, pa.int16())
    rows = rows.set_column(1, rows.schema.field("age"), ages)
    write_source(tmp_path / "p", rows, day=DAY)
    for name, on in ((NAME, engine), ("alone", "local")):
        ran = batch_assets(
            tmp_path,
            "run",
            name,
            "--day",
            DAY,
            "--engine",
            on,
            "--json",
            BATCH_ASSETS_ROOT=str(root),
        )
        night = json.loads(ran.stdout)
        assert night["success"], night["errors"]
        assert night["quarantined_rows"] == 1

    mine, alone = Lake(root, NAME), Lake(root, "alone")
    for table in TABLES:
        assert [
            (part.receipt.shard, part.receipt.total)
            for part in getattr(mine, table).parts(DAY)
        ] == [
            (part.receipt.shard, part.receipt.total)
            for part in getattr(alone, table).parts(DAY)
        ]
    assert read_day(mine, "predictions").equals(read_day(alone, "predictions"))
    assert not mine.exchange_folder(DAY).is_dir()


KILLED_NIGHT = """
import os, signal, sys
from itertools import count

from batch_assets.lake import part_writer
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.storage import storage_path
from batch_assets_tests.in_bucket import score

root, left, numbers = storage_path(sys.argv[1]), 3, count()
put = part_writer.put_file

def put_some(here, place):
    if next(numbers) == left:
        os.kill(os.getpid(), signal.SIGKILL)
    put(here, place)

part_writer.put_file = put_some
lake, registry = Lake(root, "toy"), Registry(root)
score(lake, registry.resolve("toy"))
"""


def test_a_killed_night_goes_on_where_it_was(root, lake, registry, tmp_path):
    """What was not put yet is not there; what was put is not made again."""
    rows = prepared(lake, tmp_path)
    killed = python(KILLED_NIGHT, str(root))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not lake.predictions.parts(DAY)
    left = [
        part
        for shard in (lake.predictions.path / f"day={DAY}").iterdir()
        for part in shard.iterdir()
    ]
    assert 0 < len(left) <= 3
    assert all(sealed_part(path).path == path for path in left)

    night = score(lake, registry.resolve(NAME))

    assert night.resumed_chunks == len(left)
    assert night.scored_rows < ROWS
    keys = read_day(lake, "predictions")["user_id"].to_pylist()
    assert keys == sorted(rows["user_id"].to_pylist())
    # What it had half written is on its machine, for whoever makes the day next there.
    assert list(local(lake.predictions.path).rglob("*.tmp"))
    lake.remove_leftovers(DAY)
    assert not list(local(lake.predictions.path).rglob("*.tmp"))


def empty(place: ObjectPath) -> None:
    assert replace_if_unchanged(place, b"", seen=read_versioned(place))


@pytest.mark.parametrize(
    ("damage", "said"), [(flip, "it was sealed as"), (empty, "is empty")]
)
def test_an_altered_part_is_refused_and_made_again(
    lake, registry, tmp_path, damage, said
):
    prepared(lake, tmp_path)
    release = registry.resolve(NAME)
    score(lake, release)
    whole = read_day(lake, "predictions")
    damage(lake.predictions.parts(DAY)[0].path)
    with pytest.raises(CorruptPartError, match=said):
        publish(lake.folder.parent.parent)

    night = score(lake, release)

    assert night.resumed_chunks > 0
    assert 0 < night.scored_rows < ROWS
    assert read_day(lake, "predictions").equals(whole)


def test_a_part_that_is_replaced_while_it_is_read_is_refused(lake):
    """Its ranges are of one object, or none."""
    part = write_part(lake.predictions, list(range(200_000)))
    assert part.size > 1_000_000
    opened, file = open_part(part.path)
    flip(part.path)
    with file, pytest.raises(CorruptPartError, match="was replaced while it was read"):
        read_open(part, file, None)


def test_a_chunk_reads_its_row_groups_and_the_end_alone(lake, monkeypatch):
    part = write_part(lake.predictions, list(range(200_000)))
    got = []
    inner = Ranges._get

    def counted(self: Ranges, wanted: Any) -> Any:
        found = inner(self, wanted)
        got.append(found.range[1] - found.range[0])
        return found

    monkeypatch.setattr(Ranges, "_get", counted)
    rows = read_columns(part.path, ["user_id"], range(1_000, 1_002))
    assert rows["user_id"].to_pylist() == list(range(100_000, 100_200))
    assert len(got) < 6
    assert sum(got) < part.size / 2


def test_dead_letters_are_replayed(root, lake, tmp_path):
    release = write_mendable(tmp_path / "mendable")
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it")
    rows = prepared(lake, tmp_path)
    broken.update({17, 18})
    try:
        score(lake, registry.resolve(NAME))
        dead = lake.books(DAY).total.dead.rows
        broken.clear()
        done = replay(lake, registry.resolve(NAME))
    finally:
        broken.clear()

    assert done.rescued.rows == dead > 0
    assert len(read_day(lake, "predictions")) == len(rows)
    assert not lake.books(DAY).open_after_scoring()


def test_a_day_of_a_delta_table_in_the_bucket_is_pinned(root, lake, tmp_path):
    rows = make_rows(ROWS)
    pin_rows(lake, rows, project=tmp_path / "project")
    validate(lake)
    assert len(read_day(lake, "validated_features")) == ROWS
