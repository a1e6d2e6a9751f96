"""A query reads the tables that it declares: what a stranger would try beside these.

See `lake/test_query.py` for the functions that ask for the clock or for dice.
"""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import SourceError
from batch_assets.lake.sources.base import ReadContext
from batch_assets.lake.sources.sql import SqlSource
from batch_assets_tests.toys import DAY

ROWS = pa.table({"user_id": [1, 2, 3]})
ASKED: list[str] = []


class Outside(http.server.BaseHTTPRequestHandler):
    """A server that a query has no business with; it keeps what it was asked."""

    def do_GET(self) -> None:
        ASKED.append(self.path)
        self.send_error(404)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outside) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_address[1]
        running.shutdown()
        thread.join()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    pq.write_table(ROWS, folder / "users.parquet")
    pyarrow.csv.write_csv(ROWS, folder / "secret.csv")
    pq.write_table(ROWS, folder / "secret.parquet")
    (folder / "secret.json").write_text('{"user_id": 7}\n')
    with duckdb.connect(str(folder / "secret.db")) as connection:
        connection.execute("CREATE TABLE users AS SELECT 7 AS user_id")
    monkeypatch.setenv("SECRET_OF_THE_TEST", "hush-hush")
    monkeypatch.chdir(folder)
    return folder


def read(project: Path, text: str) -> pa.Table:
    (project / "q.sql").write_text(text, encoding="utf-8")
    source = SqlSource(kind="sql", query="q.sql", tables={"users": "users.parquet"})
    context = ReadContext(DAY, "UTC", "user_id", project, project)
    with source.read(context) as rows:
        return rows.read_all()


ATTACKS = {
    "copy out": "COPY users TO '{p}/out.csv'",
    "copy of a query": "COPY (SELECT * FROM users) TO '{p}/out.parquet'",
    "copy in": "COPY users FROM '{p}/secret.csv'",
    "export": "EXPORT DATABASE '{p}/out'",
    "import": "IMPORT DATABASE '{p}/out'",
    "attach": "ATTACH '{p}/secret.db' AS other",
    "attach and read": "ATTACH '{p}/secret.db' AS other; SELECT * FROM other.users",
    "attach a postgres": "ATTACH 'host=127.0.0.1' AS pg (TYPE postgres)",
    "read_text": "SELECT content FROM read_text('{p}/secret.csv')",
    "read_blob": "SELECT content FROM read_blob('/etc/hostname')",
    "read_csv": "SELECT * FROM read_csv('{p}/secret.csv')",
    "read_csv_auto": "SELECT * FROM read_csv_auto('{p}/secret.csv')",
    "read_json": "SELECT * FROM read_json('{p}/secret.json')",
    "read_json_objects": "SELECT * FROM read_json_objects('{p}/secret.json')",
    "read_ndjson": "SELECT * FROM read_ndjson('{p}/secret.json')",
    "read_parquet": "SELECT * FROM read_parquet('{p}/secret.parquet')",
    "parquet_scan": "SELECT * FROM parquet_scan('{p}/secret.parquet')",
    "parquet_metadata": "SELECT * FROM parquet_metadata('{p}/secret.parquet')",
    "parquet_schema": "SELECT * FROM parquet_schema('{p}/secret.parquet')",
    "glob": "SELECT * FROM glob('/etc/*')",
    "a path": "SELECT * FROM '{p}/secret.parquet'",
    "a relative path": "SELECT * FROM 'secret.csv'",
    "a quoted path": 'SELECT * FROM "{p}/secret.csv"',
    "a path in a CTE": "WITH x AS (FROM 'secret.csv') SELECT * FROM x",
    "a path in a join": "SELECT u.* FROM users u JOIN 'secret.csv' s USING (user_id)",
    "a path in a subquery": "SELECT (SELECT user_id FROM 'secret.csv') AS user_id",
    "a path in a union": "FROM users UNION ALL FROM 'secret.csv'",
    "a path in a lateral": "FROM users, LATERAL (FROM 'secret.csv')",
    "a path in EXISTS": "FROM users WHERE EXISTS (FROM 'secret.csv')",
    "a path after PIVOT": "PIVOT 'secret.csv' ON user_id IN (1) USING count(*)",
    "a query of text": "SELECT * FROM query('FROM ''secret.csv''')",
    "a table by name": "SELECT * FROM query_table('secret.csv')",
    "http": "SELECT * FROM 'http://127.0.0.1:{port}/x.parquet'",
    "http of read_csv": "SELECT * FROM read_csv('http://127.0.0.1:{port}/x.csv')",
    "http of read_text": "SELECT * FROM read_text('http://127.0.0.1:{port}/x')",
    "s3": "SELECT * FROM 's3://bucket/x.parquet'",
    "a secret": "CREATE SECRET (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "the secrets": "SELECT * FROM duckdb_secrets()",
    "settings": "SELECT * FROM duckdb_settings()",
    "files": "SELECT * FROM duckdb_temporary_files()",
    "logs": "SELECT * FROM duckdb_logs()",
    "open the door": "SET enable_external_access = true",
    "reset it": "RESET enable_external_access",
    "a pragma": "PRAGMA enable_external_access = true",
    "a pragma of files": "PRAGMA database_list",
    "install": "INSTALL httpfs FROM '{p}'",
    "load": "LOAD '{p}/evil.duckdb_extension'",
    "environment": "SELECT getenv('SECRET_OF_THE_TEST') AS user_id",
    "a variable": "SET VARIABLE x = (SELECT content FROM read_text('{p}/secret.csv'))",
    "a macro": "CREATE MACRO f() AS TABLE FROM 'secret.csv'",
    "call": "CALL pragma_table_info('users')",
    "explain": "EXPLAIN ANALYZE FROM users",
    "prepare": "PREPARE x AS FROM 'secret.csv'",
    "delete": "DELETE FROM users",
    "two statements": "FROM users; DROP VIEW users",
    "out of a comment": "FROM users) TO '{p}/out.csv'; --",
    "python": "SELECT * FROM ROWS",
    "an iceberg": "SELECT * FROM iceberg_scan('{p}')",
    "a sqlite": "SELECT * FROM sqlite_scan('{p}/secret.db', 'users')",
    "arrow by address": "SELECT * FROM arrow_scan(1, 2, 3)",
    "python by address": "SELECT * FROM pandas_scan(1)",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_query_is_confined(project: Path, server: int, attack: str) -> None:
    before = sorted(path.name for path in project.iterdir())
    ASKED.clear()
    with pytest.raises(SourceError) as refused:
        read(project, ATTACKS[attack].format(p=project, port=server))
    assert ASKED == []
    assert "hush" not in str(refused.value)
    after = sorted(path.name for path in project.iterdir() if path.name != "q.sql")
    assert after == before


def test_what_is_not_read_may_not_be_named_by_a_link_either(
    project: Path, tmp_path: Path
) -> None:
    """A table's file that becomes a link to another file, before the query is run."""
    outside = tmp_path / "outside.parquet"
    pq.write_table(pa.table({"user_id": [7]}), outside)
    (project / "users.parquet").unlink()
    os.symlink(outside, project / "users.parquet")
    with pytest.raises(SourceError, match="leads out of the project"):
        read(project, "FROM users")


def test_a_name_of_a_table_is_no_sql(project: Path) -> None:
    odd = "x\" AS SELECT 1; COPY (SELECT 1) TO 'out.csv'; --"
    (project / "q.sql").write_text("SELECT 1 AS user_id")
    source = SqlSource(kind="sql", query="q.sql", tables={odd: "users.parquet"})
    context = ReadContext(DAY, "UTC", "user_id", project, project)
    with source.read(context) as rows:
        assert rows.read_all().num_rows == 1
    assert not (project / "out.csv").exists()


@pytest.mark.parametrize("name", ["it's.parquet", "a'; DROP.parquet", "[a]*.parquet"])
def test_a_name_of_a_file_is_no_sql_and_no_pattern(project: Path, name: str) -> None:
    pq.write_table(ROWS, project / name)
    (project / "q.sql").write_text("FROM t")
    source = SqlSource(kind="sql", query="q.sql", tables={"t": name})
    context = ReadContext(DAY, "UTC", "user_id", project, project)
    with source.read(context) as rows:
        assert rows.read_all() == ROWS


def test_the_query_that_is_attacked_works(project: Path) -> None:
    assert read(project, "FROM users WHERE user_id > 1").num_rows == 2
