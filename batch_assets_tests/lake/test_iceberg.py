"""A day of an Iceberg table: of one snapshot, without deleted rows, or not at all."""

import itertools
import os
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
)
from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import LongType, StringType

from batch_assets.errors import ConfigError, SourceError
from batch_assets.lake.side_tables import copy_side_tables
from batch_assets.lake.sources import IcebergSource
from batch_assets_tests.servers import PASSWORD, Server, postgres_server
from batch_assets_tests.steps import take
from batch_assets_tests.toys import (
    context_of,
    copying,
    make_contract,
    make_rows,
    not_utf8,
    read_day,
)

EVE, DAY, NEXT = "2026-01-04", "2026-01-05", "2026-01-06"
ZONED, WALL = pa.timestamp("us", "UTC"), pa.timestamp("us")
_numbers = itertools.count()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose catalog is a file of SQLite beside its tables."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def catalog(project: Path) -> Iterator[SqlCatalog]:
    with catalog_at(project, f"sqlite:///{project / 'catalog.db'}") as catalog:
        yield catalog


def catalog_at(project: Path, uri: str) -> SqlCatalog:
    made = SqlCatalog("default", uri=uri, warehouse=f"file://{project / 'lake'}")
    made.create_namespace_if_not_exists("shop")
    return made


def users(*keys: int, day: str | None = DAY, **columns: Any) -> pa.Table:
    rows = {"user_id": pa.array(keys, pa.int64()), **columns}
    if day:
        rows["day"] = pa.array([date.fromisoformat(day)] * len(keys))
    return pa.table(rows)


def make(catalog: SqlCatalog, *parts: pa.Table, **options: Any) -> Table:
    """A table with a data file, and a snapshot, for each part."""
    name = f"shop.users_{next(_numbers)}"
    table = catalog.create_table(name, parts[0].schema, **options)
    for part in parts:
        table.append(part)
    return table


def source_of(which: Table | str, **changes: Any) -> IcebergSource:
    name = which if isinstance(which, str) else ".".join(which.name())
    arguments = {
        "kind": "iceberg",
        "table": name,
        "properties": {"uri": "sqlite:///catalog.db", "type": "sql"},
    }
    return IcebergSource(**(arguments | changes))


def rows_of(
    source: IcebergSource, project: Path, day: str = DAY, timezone: str = "UTC"
) -> pa.Table:
    with source.read(context_of(project, day, timezone=timezone)) as reader:
        return reader.read_all()


def keys(rows: pa.Table) -> list[int]:
    return sorted(rows["user_id"].to_pylist())


def add_delete_file(
    table: Table, rows: pa.Table, content: DataFileContent, equal: list[int] | None
) -> None:
    """Commit a file of deletes, as engines that merge on reading do."""
    path = f"{table.location()}/data/deletes-{next(_numbers)}.parquet"
    local = path.removeprefix("file://")
    pq.write_table(rows, local)
    file = DataFile.from_args(
        content=content,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=len(rows),
        file_size_in_bytes=os.path.getsize(local),
        equality_ids=equal,
    )
    file.spec_id = table.spec().spec_id
    with (
        table.transaction() as transaction,
        transaction.update_snapshot().fast_append() as update,
    ):
        manifests = update._manifests

        def with_deletes() -> list[Any]:
            with update.new_manifest_writer(table.spec()) as writer:
                writer.content = lambda: ManifestContent.DELETES
                writer.add_entry(
                    ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED,
                        snapshot_id=update.snapshot_id,
                        data_file=file,
                    )
                )
            return [writer.to_manifest_file(), *manifests()]

        update._manifests = with_deletes


@pytest.mark.parametrize("dtype", [pa.date32(), pa.string(), ZONED, WALL], ids=str)
@pytest.mark.parametrize("partitioned", [False, True])
def test_rows_are_of_the_day_of_their_column(catalog, project, dtype, partitioned):
    noon = [datetime(2026, 1, 4 + n, 12) for n in range(3)]
    if dtype == pa.string():
        days = pa.array([EVE, DAY, NEXT])
    elif dtype == ZONED:
        days = pa.array([one.replace(tzinfo=UTC) for one in noon], ZONED)
    else:
        days = pa.array(noon, WALL).cast(dtype)
    table = make(catalog, users(1, day=None).append_column("day", days[:1]))
    if partitioned:
        how = IdentityTransform() if dtype == pa.string() else DayTransform()
        with table.update_spec() as update:
            update.add_field("day", how)
    table.append(users(2, 3, day=None).append_column("day", days[1:]))
    source = source_of(table)

    assert [keys(rows_of(source, project, day)) for day in (EVE, DAY, NEXT)] == [
        [1],
        [2],
        [3],
    ]
    assert rows_of(source, project).schema == pa.schema([("user_id", pa.int64())])
    assert keys(rows_of(source, project, "2026-01-07")) == []
    assert keys(rows_of(source_of(table, day_column=None), project)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("dtype", "timezone", "day", "count"),
    [
        (ZONED, "Europe/Oslo", "2026-03-29", 23),
        (ZONED, "Europe/Oslo", "2026-10-25", 25),
        (ZONED, "America/New_York", DAY, 24),
        (WALL, "Asia/Tokyo", DAY, 24),
    ],
)
def test_a_day_begins_and_ends_in_the_pipelines_zone(
    catalog, project, dtype, timezone, day, count
):
    first = datetime.combine(date.fromisoformat(day), datetime.min.time())
    zone = UTC if dtype.tz else None
    hours = [(first + timedelta(hours=h)).replace(tzinfo=zone) for h in range(-24, 49)]
    rows = users(*range(73), day=None).append_column("day", pa.array(hours, dtype))

    found = keys(rows_of(source_of(make(catalog, rows)), project, day, timezone))

    own = ZoneInfo(timezone) if dtype.tz else None
    midnight = first.replace(tzinfo=own)
    begin = hours.index(midnight.astimezone(UTC) if own else midnight)
    assert found == list(range(begin, begin + count))


def test_a_column_that_tells_no_day_is_refused_by_name(catalog, project):
    table = make(catalog, users(1, day=None).append_column("day", pa.array([20260105])))

    with pytest.raises(SourceError, match="'day' .* is long, which tells no day"):
        source_of(table).identity(context_of(project))


def test_text_that_goes_on_after_the_day_is_refused(catalog, project):
    days = pa.array([DAY, f"{DAY}T13:00"])
    table = make(catalog, users(1, 2, day=None).append_column("day", days))

    with pytest.raises(SourceError, match=f"holds '{DAY}T13:00', which is not the day"):
        rows_of(source_of(table), project)
    assert keys(rows_of(source_of(table), project, EVE)) == []


def test_deleted_positions_are_no_rows(catalog, project):
    table = make(catalog, users(1, 2, 3), users(4, 5), users(6, day=EVE))
    files = {
        tuple(pq.read_table(path.removeprefix("file://"))["user_id"].to_pylist()): path
        for path in table.inspect.files()["file_path"].to_pylist()
    }
    deletes = pa.table(
        {
            "file_path": pa.array([files[1, 2, 3], files[4, 5]]),
            "pos": pa.array([1, 0], pa.int64()),
        },
        schema=pa.schema(
            [
                pa.field("file_path", pa.string(), False, {b"PARQUET:field_id": b"2147483546"}),
                pa.field("pos", pa.int64(), False, {b"PARQUET:field_id": b"2147483545"}),
            ]
        ),
    )  # fmt: skip
    before = table.current_snapshot().snapshot_id
    add_delete_file(table, deletes, DataFileContent.POSITION_DELETES, None)

    assert keys(rows_of(source_of(table), project)) == [1, 3, 5]
    assert keys(rows_of(source_of(table, snapshot=before), project)) == [1, 2, 3, 4, 5]


def test_equality_deletes_are_refused_and_never_read_over(catalog, project):
    table = make(catalog, users(1, 2, 3))
    field = pa.field("user_id", pa.int64(), metadata={b"PARQUET:field_id": b"1"})
    deletes = pa.table({"user_id": pa.array([2])}, schema=pa.schema([field]))
    add_delete_file(table, deletes, DataFileContent.EQUALITY_DELETES, [1])

    with pytest.raises(SourceError, match="can't be read.*equality deletes"):
        rows_of(source_of(table), project)


def test_rows_that_an_engine_deleted_or_wrote_over_are_gone(catalog, project):
    table = make(catalog, users(1, 2, 3, 4))
    table.delete("user_id = 2")
    table.overwrite(users(4, 5), overwrite_filter="user_id = 4")

    assert keys(rows_of(source_of(table), project)) == [1, 3, 4, 5]


def test_a_renamed_added_dropped_and_widened_column_is_read_by_its_id(catalog, project):
    table = make(
        catalog,
        users(1, age=pa.array([30], pa.int32()), old=pa.array(["x"])),
        properties={"format-version": "2"},
    )
    older = table.current_snapshot().snapshot_id
    with table.update_schema() as update:
        update.rename_column("age", "years")
        update.delete_column("old")
        update.add_column("plan", StringType())
    with table.update_schema() as update:
        update.update_column("years", LongType())
    source = source_of(table)
    renamed = source.identity(context_of(project))
    assert rows_of(source, project).to_pylist() == [
        {"user_id": 1, "years": 30, "plan": None}
    ]
    table.append(users(2, years=pa.array([40]), plan=pa.array(["pro"])).select(
        ["user_id", "years", "day", "plan"]
    ))  # fmt: skip

    found = rows_of(source, project)

    assert sorted(found.to_pylist(), key=lambda row: row["user_id"]) == [
        {"user_id": 1, "years": 30, "plan": None},
        {"user_id": 2, "years": 40, "plan": "pro"},
    ]
    assert found.schema.types == [pa.int64(), pa.int64(), pa.string()]
    by_id = source_of(table, snapshot=older)
    assert rows_of(by_id, project).column_names == ["user_id", "age", "old"]
    assert renamed["schema"] != by_id.identity(context_of(project))["schema"]


def test_columns_and_rows_may_be_chosen(catalog, project):
    table = make(
        catalog,
        users(1, 2, 3, plan=pa.array(["a", "b", "a"]), age=pa.array([1, 2, 3])),
    )

    chosen = source_of(
        table, columns=["plan", "user_id"], where="plan = 'a' and age > 1"
    )

    assert rows_of(chosen, project).to_pylist() == [{"user_id": 3, "plan": "a"}]
    for changes, why in [
        ({"columns": ["no"]}, "no column 'no'; it has: user_id, plan, age, day"),
        ({"day_column": "no"}, "no column 'no'"),
        ({"where": "no = 1"}, "no"),
        ({"where": "plan = "}, "Expected"),
    ]:
        with pytest.raises(SourceError, match=why):
            rows_of(source_of(table, **changes), project)


def test_lists_are_lists_of_plain_types(catalog, project):
    items = pa.array([["a", "b"], []], pa.list_(pa.string()))

    found = rows_of(source_of(make(catalog, users(1, 2, items=items))), project)

    assert found["items"].to_pylist() == [["a", "b"], []]
    assert found.schema.field("items").type.value_type == pa.string()


def test_text_that_is_not_utf8_comes_as_it_lies(catalog, project):
    """So that its row alone is quarantined."""
    table = make(catalog, users(1, 2, plan=pa.array(["free", "pr?"])))
    (name,) = table.inspect.files()["file_path"].to_pylist()
    file = Path(name.removeprefix("file://"))
    rows = pq.read_table(file)
    at = rows.schema.get_field_index("plan")
    broken = rows.set_column(
        at, rows.schema.field("plan"), not_utf8([b"free", b"pr\xff"])
    )
    pq.write_table(broken, file)

    found = rows_of(source_of(table), project)

    assert found["plan"].cast(pa.binary()).to_pylist() == [b"free", b"pr\xff"]


def test_the_identity_is_the_table_its_snapshot_and_its_columns(catalog, project):
    table = make(catalog, users(1))
    source, context = source_of(table), context_of(project)
    first = source.identity(context)

    assert source.identity(context) == first
    assert first["uuid"] == str(table.metadata.table_uuid)
    assert first["snapshot"] == table.current_snapshot().snapshot_id
    assert source.identity(context_of(project, NEXT)) != first
    assert source_of(table, where="user_id > 0").identity(context) != first
    table.append(users(2))
    second = source.identity(context)
    assert second != first
    # What was named is read, wherever the table has got to.
    with source.read(replace(context, identity=first)) as reader:
        assert keys(reader.read_all()) == [1]
    with table.update_schema() as update:
        update.add_column("plan", StringType())
    assert source.identity(context) != second


def test_a_table_that_was_made_anew_while_it_was_read_is_refused(catalog, project):
    table = make(catalog, users(1))
    source, context = source_of(table), context_of(project)
    named = source.identity(context)
    catalog.drop_table(table.name())
    catalog.create_table(table.name(), users(1).schema).append(users(1))

    with (
        pytest.raises(SourceError, match="made anew while it was read"),
        source.read(replace(context, identity=named)) as reader,
    ):
        reader.read_all()


def test_a_table_without_a_snapshot_has_no_rows(catalog, project):
    table = catalog.create_table(f"shop.users_{next(_numbers)}", users(1).schema)

    assert len(rows_of(source_of(table), project)) == 0


def of_times(catalog: SqlCatalog, *times: str) -> tuple[Table, list[int]]:
    """A table with a snapshot of each time, and a key more in each; and their ids."""
    table = make(catalog, *(users(n, day=None) for n in range(len(times))))
    at = [
        int(datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp() * 1000)
        for when in times
    ]
    metadata = table.metadata
    log = [
        entry.model_copy(update={"timestamp_ms": ms})
        for entry, ms in zip(metadata.snapshot_log, at, strict=True)
    ]
    written = table.metadata.model_copy(update={"snapshot_log": log})
    path = Path(table.metadata_location.removeprefix("file://"))
    path.write_text(written.model_dump_json(), encoding="utf-8")
    return catalog.load_table(table.name()), [entry.snapshot_id for entry in log]


def test_the_snapshot_of_a_day_is_the_one_that_was_current_at_its_end(catalog, project):
    table, ids = of_times(
        catalog, f"{EVE}T12:00", f"{DAY}T22:59:59.999", f"{DAY}T23:00", f"{NEXT}T12:00"
    )
    source = source_of(table, day_column=None, snapshot="day_end")

    def found(day: str, timezone: str = "UTC") -> Any:
        return source.identity(context_of(project, day, timezone=timezone))["snapshot"]

    assert [found(day) for day in (EVE, DAY, NEXT)] == [ids[0], ids[2], ids[3]]
    assert found(DAY, "Europe/Oslo") == ids[1]
    assert keys(rows_of(source, project, DAY)) == [0, 1, 2]
    assert source.keeps_history(project)
    with pytest.raises(SourceError, match="no snapshot that was current at the end of"):
        found("2026-01-03")


def test_a_snapshot_that_has_expired_is_an_error_and_not_another_one(catalog, project):
    table, ids = of_times(catalog, *(f"2026-01-0{n}T12:00" for n in (4, 5, 6, 7)))
    table.maintenance.expire_snapshots().by_id(ids[1]).commit()
    source = source_of(table, day_column=None, snapshot="day_end")

    for day in (EVE, DAY):
        with pytest.raises(SourceError, match="does not tell which snapshot was"):
            rows_of(source, project, day)
    with pytest.raises(SourceError, match=f"no snapshot {ids[1]}; has it expired"):
        rows_of(source_of(table, snapshot=ids[1]), project)
    assert keys(rows_of(source, project, NEXT)) == [0, 1, 2]

    named = source.identity(context_of(project, NEXT))
    table = catalog.load_table(table.name())
    table.maintenance.expire_snapshots().by_id(ids[2]).commit()
    context = replace(context_of(project, NEXT), identity=named)
    with (
        pytest.raises(SourceError, match=f"no snapshot {ids[2]}"),
        source.read(context),
    ):
        pass


def test_rows_come_in_the_order_of_the_names_of_their_files(catalog, project):
    table = make(catalog, *(users(n) for n in range(6)))
    paths = sorted(table.inspect.files()["file_path"].to_pylist())

    found = rows_of(source_of(table), project)["user_id"].to_pylist()

    assert found == [
        pq.read_table(path.removeprefix("file://"))["user_id"][0].as_py()
        for path in paths
    ]


def test_a_lost_file_is_named(catalog, project):
    table = make(catalog, users(1))
    (path,) = table.inspect.files()["file_path"].to_pylist()
    Path(path.removeprefix("file://")).unlink()

    with pytest.raises(SourceError, match=r"can't be read.*\.parquet"):
        rows_of(source_of(table), project)


def test_what_is_not_there_is_named(catalog, project, tmp_path):
    table = make(catalog, users(1))
    with pytest.raises(SourceError, match="shop.nobody .*can't be opened"):
        rows_of(source_of("shop.nobody"), project)
    with pytest.raises(SourceError, match="can't be opened: NoSuch"):
        rows_of(source_of("nobody.users"), project)
    with pytest.raises(SourceError, match=r"the catalog .*catalog\.db is not there"):
        rows_of(source_of(table), tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "catalog.db").touch()
    with pytest.raises(SourceError, match="can't be opened"):
        rows_of(source_of(table), tmp_path)
    # Who reads makes no tables.
    assert (tmp_path / "catalog.db").stat().st_size == 0
    with pytest.raises(SourceError, match="has no snapshot 7; has it expired"):
        rows_of(source_of(table, snapshot=7), project)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"table": "users"}, "should match pattern"),
        ({"snapshot": "oldest"}, "'newest' or 'day_end'"),
        ({"day_column": None, "history": "days"}, "every day has the same rows"),
        ({"columns": []}, "at least 1"),
        ({"properties_env": {"uri": "URI"}}, "say it once"),
        ({"version": 1}, "Extra inputs"),
    ],
)
def test_a_misdeclared_table_is_refused(changes, why):
    with pytest.raises(ValidationError, match=why):
        source_of("shop.users", **changes)


def test_a_source_has_history_if_its_rows_or_its_snapshots_have():
    table = "shop.users"

    assert source_of(table).keeps_history(Path())
    assert not source_of(table, day_column=None).keeps_history(Path())
    assert not source_of(table, history="none").keeps_history(Path())
    (shown,) = source_of(table).read_from()
    assert (shown.name, shown.format) == ("", "iceberg")
    assert shown.address == "iceberg://default/shop.users"


def test_a_table_is_copied_into_the_lake_once(catalog, project, lake):
    rows = make_rows(50)
    days = pa.array([date.fromisoformat(DAY)] * 50)
    # Iceberg's shortest whole number has 32 bits.
    wide = rows.append_column("day", days).cast(
        pa.schema(
            [
                field.with_type(pa.int32()) if field.type == pa.int16() else field
                for field in rows.append_column("day", days).schema
            ]
        )
    )
    table = make(catalog, wide)
    features = [one.model_dump() for one in make_contract().features]
    contract = make_contract(features=[one | {"dtype": "int32"} if one["dtype"] == "int16" else one for one in features])  # fmt: skip
    source, arguments = source_of(table), copying(contract)

    first = take(lake, source, context_of(project), **arguments)
    second = take(lake, source, context_of(project), **arguments)

    assert (first.unchanged, second.unchanged) == (False, True)
    assert read_day(lake, "raw_features").equals(
        rows.cast(contract.raw_schema()).sort_by("user_id")
    )
    commit = lake.raw_features.last_commit(DAY)
    assert commit.facts.source["snapshot"] == table.current_snapshot().snapshot_id
    table.append(wide.slice(0, 0))
    assert not take(lake, source, context_of(project), **arguments).unchanged


def test_a_side_table_may_be_one_of_icebergs(catalog, project, lake):
    source = source_of(make(catalog, users(1, 2)))

    taken = copy_side_tables(lake, {"blocked": source}, context_of(project), newest=DAY)

    assert taken == {"blocked": 2}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


def test_a_catalog_of_postgresql_is_reached_by_a_secret_that_nothing_shows(
    postgres, tmp_path, monkeypatch
):
    uri = postgres.url.replace("postgresql://", "postgresql+psycopg://")
    with catalog_at(tmp_path, uri) as catalog:
        table = make(catalog, users(1, 2))
    source = source_of(table, properties={"type": "sql"}, properties_env={"uri": "URI"})
    with pytest.raises(ConfigError, match="needs the environment variable URI"):
        rows_of(source, tmp_path)
    monkeypatch.setenv("URI", uri)

    assert keys(rows_of(source, tmp_path)) == [1, 2]

    told = f"{source!r}{source.identity(context_of(tmp_path))}{source.read_from()}"
    for wrong in (
        uri.replace(PASSWORD, f"{PASSWORD}-of-old"),
        uri.replace(str(postgres.port), "1"),
    ):
        monkeypatch.setenv("URI", wrong)
        with pytest.raises(SourceError, match="can't be opened") as refused:
            rows_of(source, tmp_path)
        told += "".join(traceback.format_exception(refused.value))
    assert PASSWORD not in told
