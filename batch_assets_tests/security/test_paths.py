"""No path of a YAML leads out of its project, unless this machine's owner says so."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from batch_assets.errors import BatchAssetsError, SnapshotError, SourceError
from batch_assets.lake.places import DATA
from batch_assets.lake.sources.adbc import AdbcSource
from batch_assets.lake.sources.base import BaseSource, ReadContext
from batch_assets.lake.sources.csv import CsvSource
from batch_assets.lake.sources.delta import DeltaSource
from batch_assets.lake.sources.iceberg import IcebergSource
from batch_assets.lake.sources.json import JsonSource
from batch_assets.lake.sources.parquet import ParquetSource
from batch_assets.lake.sources.postgres import PostgresSource
from batch_assets.lake.sources.sql import SqlSource
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.toys import DAY

ROWS = pa.table({"user_id": [1, 2, 3], "day": [DAY] * 3})


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What lies on this machine, and is none of the project's business."""
    folder = tmp_path / "outside"
    folder.mkdir()
    pq.write_table(ROWS, folder / "a.parquet")
    pyarrow.csv.write_csv(ROWS, folder / "a.csv")
    (folder / "a.jsonl").write_text('{"user_id": 1}\n')
    (folder / "q.sql").write_text("SELECT 1 AS user_id")
    (folder / "catalog.db").touch()
    write_deltalake(folder / "delta", ROWS)
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dagster.yaml").touch()
    (folder / "in.sql").write_text("SELECT * FROM t")
    monkeypatch.chdir(folder)
    return folder


def read(source: BaseSource, project: Path) -> pa.Table:
    columns = pa.schema([("user_id", pa.int64())])
    context = ReadContext(DAY, "UTC", "user_id", project, project, columns)
    source.keeps_history(project)
    source.identity(context)
    with source.read(context) as rows:
        return rows.read_all()


SOURCES: dict[str, Callable[[str], BaseSource]] = {
    "parquet": lambda at: ParquetSource(kind="parquet", glob=f"{at}/a.parquet"),
    "globbed": lambda at: ParquetSource(kind="parquet", glob=f"{at}/*.parquet"),
    "csv": lambda at: CsvSource(kind="csv", glob=f"{at}/a.csv"),
    "json": lambda at: JsonSource(kind="json", glob=f"{at}/a.jsonl"),
    "table": lambda at: SqlSource(
        kind="sql", query="in.sql", tables={"t": f"{at}/a.parquet"}
    ),
    "query": lambda at: SqlSource(kind="sql", query=f"{at}/q.sql"),
    "postgres": lambda at: PostgresSource(kind="postgres", query=f"{at}/q.sql"),
    "delta": lambda at: DeltaSource(kind="delta", table=f"{at}/delta"),
    "iceberg": lambda at: IcebergSource(
        kind="iceberg",
        table="a.b",
        properties={"type": "sql", "uri": f"sqlite:///{at}/catalog.db"},
    ),
}


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "link of a file"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_path_that_leads_out_of_the_project_is_refused(
    project: Path, outside: Path, kind: str, way: str
) -> None:
    at = {"absolute": str(outside), "dots": "data/../../outside"}.get(way, "here")
    (project / "data").mkdir()
    if way == "link":
        (project / "here").symlink_to(outside)
    elif way == "link of a file":
        (project / "here").mkdir()
        for path in outside.iterdir():
            (project / "here" / path.name).symlink_to(path)
    with pytest.raises(SourceError, match=f"leads out of the project.*{DATA}"):
        read(SOURCES[kind](at), project)


@pytest.mark.parametrize(
    "kind", ["parquet", "globbed", "csv", "table", "query", "delta"]
)
def test_what_the_machines_owner_names_may_be_read(
    project: Path, outside: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA, f"/nowhere{os.pathsep}{outside}")
    assert read(SOURCES[kind](str(outside)), project).num_rows in (1, 3)


def test_what_lies_under_the_root_may_be_read(
    project: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(outside))
    assert len(read(SOURCES["delta"](str(outside)), project)) == 3


@pytest.mark.parametrize(
    "address", ["file://{outside}/delta", "FILE://{outside}/delta", "file://{dots}"]
)
def test_a_table_of_this_machine_is_no_url(
    project: Path, outside: Path, address: str
) -> None:
    dots = f"{project}/%2e%2e/outside/delta"
    table = address.format(outside=outside, dots=dots)
    with pytest.raises(SourceError, match="leads out of the project"):
        read(DeltaSource(kind="delta", table=table), project)


@pytest.mark.parametrize(
    "pattern",
    ["*/../../outside/a.parquet", "**/../../outside/*.parquet", "[.][.]/outside/*"],
)
def test_a_glob_does_not_climb(project: Path, outside: Path, pattern: str) -> None:
    (project / "data").mkdir()
    with pytest.raises(SourceError, match="leads out of|no file matches"):
        read(ParquetSource(kind="parquet", glob=pattern), project)


def test_a_day_that_is_put_into_a_glob_leads_nowhere_else(
    project: Path, outside: Path
) -> None:
    """Days come from Dagster and the command line; this is what a stranger would try."""
    source = ParquetSource(kind="parquet", glob="data/{{ day }}/*.parquet")
    context = ReadContext("../../outside", "UTC", "user_id", project, project)
    with pytest.raises(SourceError, match="leads out of"):
        source.files(context)


@pytest.mark.parametrize("name", ["", ".", "a\0b", "~root/x", "//etc/*"])
def test_what_is_no_path_ends_in_an_error_of_ours(project: Path, name: str) -> None:
    for source in (
        ParquetSource(kind="parquet", glob=name),
        SqlSource(kind="sql", query=name or "nothing"),
        SqlSource(kind="sql", query="in.sql", tables={"t": name}),
    ):
        with pytest.raises(BatchAssetsError):
            read(source, project)


def test_links_in_a_circle_are_no_path(project: Path) -> None:
    (project / "one").symlink_to(project / "other")
    (project / "other").symlink_to(project / "one")
    with pytest.raises(SourceError, match="no file matches|the path of nothing"):
        read(ParquetSource(kind="parquet", glob="one/a.parquet"), project)


@pytest.mark.parametrize("version", ["../../other", "/etc", "..", "a/b", "a\0b", ""])
def test_a_pointer_of_a_snapshot_names_no_path(tmp_path: Path, version: str) -> None:
    store = SnapshotStore(tmp_path, "toy")
    with pytest.raises(SnapshotError, match="not the name of a version"):
        store.version_folder(version)


@pytest.mark.parametrize("named", ["../outside/driver.so", "{outside}/driver.so"])
def test_no_library_from_elsewhere_is_loaded_as_a_driver(
    project: Path, outside: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (outside / "driver.so").write_bytes(b"no library")
    (project / "q.sql").write_text("SELECT 1 AS user_id")
    source = AdbcSource(
        kind="adbc", query="q.sql", driver=named.format(outside=outside)
    )

    with pytest.raises(SourceError, match="leads out of the project"):
        read(source, project)

    monkeypatch.setenv(DATA, str(outside))
    with pytest.raises(SourceError, match="does not connect"):
        read(source, project)
