"""What the catalog says of tables, columns and runs is what they are."""

import re
from typing import Any, NamedTuple

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from batch_assets.assets.column_lineage import MOST_DEPS, lineage_metadata, same_columns
from batch_assets.assets.columns import (
    LABEL,
    MOST_COLUMNS,
    Note,
    column_schema,
    span,
)
from batch_assets.assets.table_metadata import in_order
from batch_assets.launch.project import load_definitions
from batch_assets.models.registry import Registry
from batch_assets_tests.projects import (
    FIRST,
    FLIGHTS,
    SECOND,
    attributes,
    make_project,
    metadata_of,
    write_project,
)
from batch_assets_tests.toys import make_rows, write_source

PAGE = (FLIGHTS / "docs" / "ui.md").read_text(encoding="utf-8")
TABLES = (
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "predictions",
    "dead_letters",
)
SCHEMA, LINEAGE = "dagster/column_schema", "dagster/column_lineage"


class FirstNight(NamedTuple):
    """A night, and what it says of each asset."""

    instance: dg.DagsterInstance
    said: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def first_night(tmp_path_factory, toy_release):
    """The first night of the toy; nothing may change what it left."""
    folder = tmp_path_factory.mktemp("catalog")
    registry = Registry(folder / "root")
    registry.add(toy_release.folder)
    registry.approve("toy", toy_release.digest, why="the tests need it", by="ada")
    with pytest.MonkeyPatch.context() as patched, dg.instance_for_test() as instance:
        project = make_project(folder / "p", folder / "root", patched, [attributes()])
        yield FirstNight(instance, said_by(project, instance, FIRST, 1_000))


@pytest.fixture
def night(first_night):
    """What the first night says of each asset."""
    return first_night.said


def said_by(project, instance, day: str, rows: int) -> dict[str, dict[str, Any]]:
    """What a night says of each asset."""
    write_source(project.folder, make_rows(rows), day=day)
    result = project.run("toy", day, instance)
    assert result.success
    names = (*TABLES, "serving_snapshot", "model_release")
    return {name: metadata_of(result, name) for name in names}


def columns_of(metadata) -> dict[str, dg.TableColumn]:
    return {column.name: column for column in metadata[SCHEMA].columns}


def test_every_column_of_every_table_has_a_description_and_a_role(night):
    for name in (*TABLES, "serving_snapshot"):
        columns = columns_of(night[name])
        assert len(columns) > 1
        for column in columns.values():
            assert column.description, (name, column)
            assert column.tags[LABEL], (name, column)


def test_the_columns_are_those_that_a_reader_of_the_table_finds(night):
    for name in ("raw_features", "validated_features", "predictions"):
        table = DeltaTable(night[name]["dagster/uri"]).schema()
        found = {field.name for field in table.fields}
        assert set(columns_of(night[name])) == found, name


def test_a_column_says_what_the_contract_says_of_it(night):
    raw, given, out = (columns_of(night[name]) for name in (*TABLES[:2], TABLES[3]))

    assert raw["user_id"].tags == {LABEL: "key"}
    assert not raw["user_id"].constraints.nullable
    assert raw["age"].description.startswith("Feature 1 of 4")
    assert raw["age"].constraints.other == ["0 to 120"]
    assert raw["plan"].constraints.other == ["2 categories"]
    assert "free, pro" in raw["plan"].description
    assert "0 is free, 1 is pro" in given["plan"].description
    assert given["plan"].type == "float32"
    assert out["risk"].constraints.other == ["0 to 1"]
    assert not out["risk"].constraints.nullable
    roles = {name: column.tags[LABEL] for name, column in out.items()}
    assert roles == {
        "user_id": "key",
        "risk": "output",
        "model_name": "stamp",
        "model_version": "stamp",
        "day": "partition",
        "shard": "partition",
    }


def test_each_column_is_traced_back_to_the_source(night):
    """Step by step, and each step ends at a column that is there."""
    ends, at = set(), {("serving_snapshot", "risk")}
    while at:
        name, column = at.pop()
        if name == "source":
            ends.add(column)
            continue
        assert column in columns_of(night[name]), (name, column)
        for dep in night[name][LINEAGE].deps_by_column[column]:
            at.add((dep.asset_key.path[1], dep.column_name))

    assert ends == set(columns_of(night["raw_features"])) - {"user_id", "day", "shard"}
    assert "From `age`." in columns_of(night["raw_features"])["age"].description


def test_the_key_is_the_key_all_the_way(night):
    for name in (*TABLES, "serving_snapshot"):
        (dep,) = night[name][LINEAGE].deps_by_column["user_id"]
        assert dep.column_name == "user_id"


def test_rows_that_are_pinned_are_traced_to_where_they_lie(
    tmp_path, root, registry, monkeypatch, instance
):
    project = make_project(
        tmp_path / "p",
        root,
        monkeypatch,
        [attributes(source={"kind": "delta", "table": "users"})],
    )
    rows = make_rows(500)
    rows = rows.append_column("day", pa.array([FIRST] * len(rows)))
    write_deltalake(project.folder / "users", rows)
    result = project.run("toy", FIRST, instance)
    assert result.success
    raw = metadata_of(result, "raw_features")

    assert set(columns_of(raw)) == {"user_id", "day", "shard"}
    validated = metadata_of(result, "validated_features")[LINEAGE].deps_by_column
    assert validated["age"] == [
        dg.TableColumnDep(dg.AssetKey(["toy", "source"]), "age")
    ]


def test_a_table_says_how_large_it_is_after_each_night(project, instance):
    first, second = (
        said_by(project, instance, day, rows)["raw_features"]
        for day, rows in ((FIRST, 1_000), (SECOND, 400))
    )

    counts = "dagster/partition_row_count", "dagster/row_count"
    assert [first[name] for name in counts] == [1_000, 1_000]
    assert [second[name] for name in counts] == [400, 1_400]
    assert second["dagster/size_bytes"] > first["dagster/size_bytes"] > 0


def test_a_day_begins_with_a_sentence_and_ends_with_dagsters_own(night):
    for name in (*TABLES, "serving_snapshot"):
        names = list(night[name])
        assert names[0] == "in_short", name
        own = [at for at, key in enumerate(names) if key.startswith("dagster/")]
        assert own == list(range(len(names) - len(own), len(names))), name
    assert night["predictions"]["in_short"].startswith("1,000 rows scored by toy ")


def test_what_only_tells_runs_apart_comes_after_what_is_read():
    mixed = {"dagster/uri": 1, "job": 2, "raw_keys": 3, "rows": 4, "in_short": 5}
    mixed["picture"] = dg.MetadataValue.md("![]()")

    assert list(in_order(mixed)) == [
        "in_short",
        "picture",
        "rows",
        "job",
        "raw_keys",
        "dagster/uri",
    ]


def test_lineage_that_would_fill_the_log_is_left_out():
    key = dg.AssetKey("a")
    most = same_columns(key, map(str, range(MOST_DEPS)))

    assert lineage_metadata(most)
    assert lineage_metadata({**most, "one": [dg.TableColumnDep(key, "more")]}) == {}
    assert lineage_metadata({}) == {}


def test_the_columns_of_a_very_wide_table_are_names_and_types():
    wide = pa.schema([(f"f{at}", pa.float32()) for at in range(MOST_COLUMNS + 1)])
    notes = {"f0": Note("The first.", "feature")}
    (first, *_) = column_schema(wide, notes, partitioned=False).columns
    (narrow, *_) = column_schema(pa.schema([wide[0]]), notes).columns

    assert (first.type, first.description) == ("float32", None)
    assert narrow.description == "The first."


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0, 1, ("0 to 1",)),
        (-60, 1440, ("-60 to 1,440",)),
        (None, 0.25, ("at most 0.25",)),
        (1e-9, None, ("at least 1e-09",)),
        (0, 123456789, ("0 to 123,456,789",)),
        (None, None, ()),
    ],
)
def test_a_range_is_said_in_words(low, high, said):
    assert span(low, high) == said


def test_tables_that_several_sources_read_are_one_node(tmp_path, root, monkeypatch):
    def sql(**tables: str) -> dict:
        return {"kind": "sql", "query": "q.sql", "tables": tables}

    users, items = "data/users.parquet", "data/items.csv"
    declared = attributes(
        source=sql(users=users, again=users),
        side_tables={"gone": sql(items=items, users=users)},
        outcomes={
            "source": sql(users="data/other.parquet", late=items),
            "output": "risk",
            "task": "binary",
        },
    )
    project = make_project(tmp_path / "p", root, monkeypatch, [declared])
    graph = project.definitions.resolve_asset_graph()
    nodes = {
        "/".join(key.path[1:]) for key in graph.external_asset_keys if len(key.path) > 2
    }
    parents = graph.get(dg.AssetKey(["toy", "raw_features"])).parent_keys

    assert nodes == {"source/users", "side_tables/gone/items", "outcomes_source/users"}
    assert {"/".join(key.path[1:]) for key in parents} == {
        "source/users",
        "side_tables/gone/items",
    }


def test_what_nothing_here_makes_is_in_no_job_and_no_selection(
    tmp_path, root, monkeypatch
):
    project = make_project(tmp_path / "p", root, monkeypatch, [attributes()])
    graph = project.definitions.resolve_asset_graph()
    source = dg.AssetKey(["toy", "source"])

    assert source in graph.get_all_asset_keys()
    selected = dg.AssetSelection.from_string('group:"toy"').resolve(graph)
    assert source not in selected
    job = project.definitions.resolve_job_def("toy_job").asset_layer
    assert source not in job.executable_asset_keys


def test_every_run_of_a_job_bears_the_name_of_its_pipeline(first_night):
    (run,) = first_night.instance.get_runs()

    assert run.tags["batch_assets/pipeline"] == "toy"


def test_another_release_is_swept_and_the_same_one_is_not(project, instance):
    def asked(cursor):
        return dg.evaluate_automation_conditions(
            project.definitions, instance, cursor=cursor
        )

    def released(digest: str) -> None:
        key = dg.AssetKey(["toy", "model_release"])
        tags = {"dagster/data_version": digest}
        instance.report_runless_asset_event(dg.AssetMaterialization(key, tags=tags))

    released("one")
    seen = asked(None)
    released("one")
    seen = asked(seen.cursor)
    assert seen.total_requested == 0
    released("two")
    seen = asked(seen.cursor)
    sweep = dg.AssetKey(["toy", "batch_size_sweep"])
    assert [r.key for r in seen.results if r.true_subset.size] == [sweep]
    assert asked(seen.cursor).total_requested == 0


def test_a_condition_is_put_on_in_the_yaml_as_the_page_says(
    tmp_path, root, monkeypatch
):
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert "churn/outcomes" in block
    outcomes = {"source": attributes()["source"], "output": "risk", "task": "binary"}
    declared = attributes("churn", outcomes=outcomes)
    project = tmp_path / "p"
    write_project(project, "with_condition", [declared])
    path = next(project.rglob("defs.yaml"))
    path.write_text(path.read_text("utf-8") + block, encoding="utf-8")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    graph = load_definitions().resolve_asset_graph()
    key = dg.AssetKey(["churn", "outcomes"])
    assert graph.get(key).automation_condition is not None


def test_the_page_names_every_key_that_a_night_gives_dagster(night):
    given = {key for of in night.values() for key in of if key.startswith("dagster/")}
    named = set(re.findall(r"`(dagster/\w+)`", PAGE))

    assert given <= named
    assert named - given == {"dagster/table_name", "dagster/code_references"}
