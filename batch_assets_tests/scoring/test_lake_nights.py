"""Nights whose rows come from a topic or a table of a lake: killed, resumed, replayed."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets_tests import crash, kafka_broker
from batch_assets_tests.crash import POISON, FussyRisk, Zygote, crash_rows, seen
from batch_assets_tests.replays import replay
from batch_assets_tests.toys import (
    DAY,
    NAME,
    features_of,
    make_contract,
    write_toy_release,
)

TABLES = (
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "predictions",
    "dead_letters",
)
# Iceberg's shortest whole number has 32 bits.
CONTRACT = make_contract(
    features=[
        one.model_dump() | ({"dtype": "int32"} if one.dtype == "int16" else {})
        for one in make_contract().features
    ]
)


@dataclass
class Source:
    """A source of a night, how others write to it, and how it goes away."""

    declared: dict[str, Any]
    write_on: Callable[[], None]
    take_away: Callable[[], None]


@dataclass
class Stage:
    folder: Path
    zygote: Zygote
    release: Release
    source: Source
    whole: dict[str, pa.Table | None]

    def root(self, name: str) -> Path:
        root = self.folder / name
        root.mkdir()
        return root

    def night(self, root: Path, **changes: Any) -> Any:
        return self.zygote.night(root, source=self.source.declared, **changes)


def day_of(root: Path) -> dict[str, pa.Table | None]:
    return {table: seen(root, table) for table in TABLES}


def rows_of_night() -> pa.Table:
    return crash_rows().cast(CONTRACT.raw_schema())


def write_release(folder: Path) -> Release:
    golden = features_of(crash_rows(seed=7).slice(0, 16), make_contract())
    golden[:, 0].clamp_(0, POISON - 1)
    return write_toy_release(
        folder,
        module=FussyRisk(),
        contract=CONTRACT,
        golden_inputs=golden,
        model_format="safetensors",
        import_path="batch_assets_tests.crash:FussyRisk",
    )


def topic_of(folder: Path, stack: ExitStack) -> Source:
    broker = stack.enter_context(kafka_broker.running(folder))
    topic = kafka_broker.Topic(broker, 2)
    for message in kafka_broker.messages_of(
        rows_of_night().to_pylist(), f"{DAY}T12:00"
    ):
        # Nobody keeps the order between partitions.
        topic.send(message | {"partition": int(message["key"]) % 2})
    late = kafka_broker.messages_of(crash_rows(seed=9).to_pylist(), f"{DAY}T23:00")
    return Source(
        {
            "kind": "kafka",
            "bootstrap_servers": broker.address,
            "topic": topic.name,
            "columns": {CONTRACT.key.name: CONTRACT.key.dtype}
            | {one.name: one.dtype for one in CONTRACT.features},
        },
        lambda: topic.send(*late),
        broker.stop,
    )


def table_of(folder: Path, stack: ExitStack) -> Source:
    uri = f"sqlite:///{folder / 'catalog.db'}"
    catalog = SqlCatalog("default", uri=uri, warehouse=f"file://{folder / 'lake'}")
    stack.callback(catalog.close)
    catalog.create_namespace("shop")
    rows = rows_of_night()
    rows = rows.append_column("day", pa.array([date.fromisoformat(DAY)] * len(rows)))
    table = catalog.create_table("shop.users", rows.schema)
    for start in range(0, len(rows), 200):
        table.append(rows.slice(start, 200))
    return Source(
        {
            "kind": "iceberg",
            "table": "shop.users",
            "properties": {"type": "sql", "uri": "sqlite:///catalog.db"},
            "snapshot": table.current_snapshot().snapshot_id,
        },
        lambda: table.append(rows.slice(0, 10)),
        lambda: shutil.rmtree(folder / "lake" / "shop" / "users" / "data"),
    )


@pytest.fixture(scope="module", params=[topic_of, table_of], ids=["kafka", "iceberg"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("night")
    project = folder / "project"
    project.mkdir()
    release = write_release(folder / "release")
    with ExitStack() as stack:
        source = request.param(project, stack)
        zygote = stack.enter_context(Zygote(project, release.folder))
        stage = Stage(folder, zygote, release, source, {})
        ended = stage.night(stage.root("undisturbed"))
        assert ended.well, ended
        stage.whole |= day_of(folder / "undisturbed")
        yield stage


def test_a_night_has_all_rows_and_its_second_run_does_nothing(stage):
    raw = rows_of_night().sort_by("user_id").combine_chunks()

    assert (
        stage.whole["raw_features"]
        .select(["user_id", "age"])
        .equals(raw.select(["user_id", "age"]))
    )
    assert all(len(stage.whole[table]) for table in TABLES)
    before = Lake(stage.folder / "undisturbed", NAME).raw_features.last_commit(DAY)
    assert stage.night(stage.folder / "undisturbed").well
    lake = Lake(stage.folder / "undisturbed", NAME)
    assert lake.raw_features.last_commit(DAY) == before
    assert day_of(stage.folder / "undisturbed") == stage.whole


def test_dead_letters_are_replayed_without_the_source(stage, monkeypatch):
    root = stage.folder / "replayed"
    shutil.copytree(stage.folder / "undisturbed", root)
    dead = len(stage.whole["dead_letters"])
    # The model is mended.
    monkeypatch.setattr(crash, "POISON", -1)

    replayed = replay(Lake(root, NAME), stage.release)

    assert replayed.rescued.rows == dead > 0
    after = day_of(root)
    assert len(after["predictions"]) == len(stage.whole["predictions"]) + dead
    assert after["raw_features"] == stage.whole["raw_features"]
    assert not Lake(root, NAME).books(DAY).open_after_scoring()


def test_killed_before_its_rows_are_committed_a_night_takes_them_again(stage):
    for number, die_at in enumerate(["before ParquetWriter.close 1", "before guard 1"]):
        root = stage.root(f"early-{number}")
        assert stage.night(root, die_at=die_at).killed == signal.SIGKILL

        ended = stage.night(root)

        assert ended.well, ended
        assert day_of(root) == stage.whole


def test_killed_later_a_night_goes_on_with_the_rows_that_it_took(stage):
    """Though others have written on, and the source is gone: what is pinned is there.

    The last of its stage: the source does not come back.
    """
    roots = []
    for die_at in ("before guard 2", "before guard 4"):
        roots.append(stage.root(f"late-{len(roots)}"))
        assert stage.night(roots[-1], die_at=die_at).killed == signal.SIGKILL
    stage.source.write_on()
    stage.source.take_away()

    for root in roots:
        ended = stage.night(root)
        assert ended.well, ended
        assert day_of(root) == stage.whole
        books = Lake(root, NAME).books(DAY)
        assert not books.open_after_validation()
        assert not books.open_after_scoring()
