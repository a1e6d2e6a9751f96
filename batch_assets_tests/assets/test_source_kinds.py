"""A pipeline over a database, in Dagster: what the catalog shows, and what is hidden."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
import psycopg
import pyarrow as pa
import pytest
from click.testing import CliRunner

from batch_assets.cli.main import main
from batch_assets_tests.projects import Project, attributes, make_project, metadata_of
from batch_assets_tests.servers import PASSWORD, Server
from batch_assets_tests.source_kinds import DSN, fill
from batch_assets_tests.toys import DAY, make_rows

TABLE = "users_of_a_pipeline"
QUERY = f"SELECT * FROM {TABLE} WHERE $day < DATE '2026-02-01'"


@dataclass(frozen=True)
class Scored:
    """A project whose raw rows of a day were taken, and the run."""

    project: Project
    instance: dg.DagsterInstance
    result: dg.ExecuteInProcessResult
    rows: pa.Table


@pytest.fixture(scope="module")
def scored(tmp_path_factory, toy_release, postgres_here: Server) -> Iterator[Scored]:
    folder, root = tmp_path_factory.mktemp("p"), tmp_path_factory.mktemp("root")
    source = {"kind": "postgres", "query": "features.sql", "dsn_env": DSN}
    declared = attributes(source=source)
    rows = make_rows(300)
    with (
        pytest.MonkeyPatch.context() as patch,
        dg.instance_for_test() as instance,
        psycopg.connect(postgres_here.url, autocommit=True) as connection,
    ):
        patch.setenv(DSN, postgres_here.url)
        project = make_project(folder / "project", root, patch, [declared])
        defs = project.folder / project.module / "defs" / "toy"
        (defs / "features.sql").write_text(QUERY, encoding="utf-8")
        project.registry.add(toy_release.folder)
        project.registry.approve("toy", toy_release.digest, why="a test", by="ada")
        fill(connection, TABLE, rows)
        result = project.materialize("toy", ["raw_features"], DAY, instance)
        yield Scored(project, instance, result, rows)


def test_rows_of_a_database_are_taken_and_shown_without_a_secret(scored):
    assert scored.result.success

    found = metadata_of(scored.result, "raw_features")
    assert found["in_short"] == f"300 rows of {DAY}, in 4 shards"
    graph = scored.project.definitions.resolve_asset_graph()
    node = graph.get(dg.AssetKey(["toy", "source"]))
    assert node.kinds == {"postgres"}
    assert node.metadata["dagster/uri"] == f"postgres://{DSN}/features.sql"
    raw = graph.get(dg.AssetKey(["toy", "raw_features"]))
    assert "postgres" in raw.kinds
    links = raw.metadata["dagster/code_references"].code_references
    assert any("features.sql" in str(link) for link in links)
    lineage = found["dagster/column_lineage"].deps_by_column
    assert [str(dep.asset_key) for dep in lineage["age"]] == [str(node.key)]
    everything = [
        path.read_bytes() for path in scored.project.root.rglob("*") if path.is_file()
    ]
    assert not [data for data in everything if PASSWORD.encode() in data]
    events = scored.instance.all_logs(scored.result.run_id)
    assert PASSWORD not in "".join(event.user_message for event in events)


def test_what_a_row_was_read_from_is_explained(scored):
    key = str(scored.rows["user_id"][0].as_py())

    told = CliRunner().invoke(main, ["explain", "toy", key, "--day", DAY, "--json"])

    assert told.exit_code == 0, told.output
    source = json.loads(told.output)["source"]
    assert source["kind"] == "postgres"
    assert source["read_at"].startswith("20")
    assert PASSWORD not in told.output
