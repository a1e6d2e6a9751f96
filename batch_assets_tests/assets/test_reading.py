"""A pipeline's tables as arguments of assets downstream, in every type that they come in."""

import importlib

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from batch_assets import Snapshot, column_lineage
from batch_assets.assets.needs import keys_of
from batch_assets.assets.pipeline import TABLES
from batch_assets.assets.reading import tables_io_manager
from batch_assets.models.registry import Registry
from batch_assets.resources import StorageResource
from batch_assets.snapshots.version import Version
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    THIRD,
    Project,
    attributes,
    errors_of,
    instance_for_readers,
    write_project,
)
from batch_assets_tests.toys import make_rows, write_source

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")
ROWS = {FIRST: 300, SECOND: 310}
COLUMNS = ["user_id", "risk", "model_name", "model_version", "day"]
TYPES = {
    pl.DataFrame: lambda rows: rows,
    pl.LazyFrame: lambda rows: rows.collect(),
    pa.Table: pl.DataFrame,
    pa.RecordBatchReader: lambda rows: pl.DataFrame(rows.read_all()),
    ds.Dataset: lambda rows: pl.DataFrame(rows.to_table(COLUMNS)),
    duckdb.DuckDBPyRelation: lambda rows: pl.DataFrame(rows.to_arrow_table()),
    pd.DataFrame: pl.DataFrame,
}


@pytest.fixture(scope="module")
def home():
    with instance_for_readers() as instance:
        yield instance


@pytest.fixture(scope="module")
def project(tmp_path_factory, toy_release, home):
    """A project whose first two nights are done and served."""
    root, folder = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("p") / "p"
    registry = Registry(root)
    registry.add(toy_release.folder)
    registry.approve("toy", toy_release.digest, why="the test", by="ada")
    write_project(folder, "reading_project", [attributes()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCH_ASSETS_ROOT", str(root))
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        definitions = importlib.import_module("reading_project.definitions").defs()
        made = Project(folder, root, "reading_project", definitions)
        for number, (day, rows) in enumerate(ROWS.items()):
            write_source(folder, make_rows(rows, seed=number), day=day)
            assert made.run("toy", day, home).success
        yield made


def read(project, instance, function, day=None, *, last=None, **of_asset):
    """What an asset downstream gets as its argument `rows`, or the errors of its run."""
    got = []
    asset = of_asset.pop("asset", "predictions")
    mapping = of_asset.pop("mapping", None)
    if day and "partitions_def" not in of_asset:
        of_asset["partitions_def"] = DAYS
    ins = {"rows": dg.AssetIn(["toy", asset], partition_mapping=mapping)}

    def takes(rows):
        got.append(function(rows))

    of = of_asset.pop("of", pl.DataFrame)
    takes.__annotations__ = {"return": None} | ({"rows": of} if of else {})
    downstream = dg.asset(name="downstream", ins=ins, **of_asset)(takes)
    key = dg.AssetKey(["toy", asset])
    (own,) = [one for one in project.definitions.assets if key in keys_of(one)]
    tags = last and {
        "dagster/asset_partition_range_start": day,
        "dagster/asset_partition_range_end": last,
    }
    result = dg.materialize(
        [downstream, own],
        selection=[downstream],
        partition_key=None if last else day,
        tags=tags or None,
        resources=project.definitions.resources,
        instance=instance,
        raise_on_error=False,
    )
    return got[0] if result.success else errors_of(result)


@pytest.mark.parametrize("of", TYPES, ids=lambda of: f"{of.__module__}.{of.__name__}")
def test_a_day_comes_as_the_argument_is_annotated(project, home, of):
    rows = read(project, home, TYPES[of], FIRST, of=of)

    assert rows.columns == COLUMNS
    assert (len(rows), set(rows["day"])) == (300, {FIRST})
    assert sorted(rows["user_id"].to_list()) == list(range(1, 301))


def test_a_range_in_one_run_is_its_days_and_all_days_are_those_that_are_there(
    project, home
):
    def days(rows):
        return dict(rows.group_by("day").len().sort("day").iter_rows())

    of_range = read(project, home, days, FIRST, last=SECOND)
    of_all = read(project, home, days)

    assert of_range == of_all == ROWS


@pytest.mark.parametrize("last", [None, THIRD])
def test_a_day_that_is_not_committed_is_an_error_and_not_an_empty_frame(
    project, home, last
):
    said = read(project, home, len, SECOND if last else THIRD, last=last)
    assert f"{THIRD} of toy/predictions is not committed; the newest day" in said
    assert f"is {SECOND}. Run that night first" in said


def test_the_last_day_of_a_mapping_that_is_not_there_is_an_error(project, home):
    said = read(project, home, len, mapping=dg.LastPartitionMapping())
    assert "2026-01-31 of toy/predictions is not committed" in said


def test_features_come_as_the_model_gets_them(project, home):
    rows = read(project, home, lambda rows: rows, FIRST, asset="validated_features")
    assert len(rows) == 300
    assert rows.schema["age"] == pl.Float32


def test_without_an_annotation_it_is_a_frame_of_polars(project, home):
    found = read(project, home, lambda rows: type(rows).__name__, FIRST, of=None)
    assert found == "DataFrame"


@pytest.mark.parametrize(
    ("asset", "of", "said"),
    [
        (
            "predictions",
            dict,
            "toy/predictions is asked for as dict, and comes as a DataFrame",
        ),
        (
            "raw_features",
            pl.DataFrame,
            "has no rows to take as an argument. Take one of",
        ),
        ("dead_letters", pl.DataFrame, "toy/dead_letters has no rows to take"),
        ("model_release", pl.DataFrame, "toy/model_release has no rows to take"),
        ("predictions", Snapshot, "is asked for as Snapshot"),
    ],
)
def test_what_it_cant_come_as_is_said(project, home, asset, of, said):
    assert said in read(project, home, len, FIRST, asset=asset, of=of)


def test_a_snapshot_is_the_version_of_the_day(project, home):
    def rows(day):
        return read(project, home, lambda rows: rows, day, asset="serving_snapshot")

    assert rows(FIRST).columns == ["user_id", "risk", "day"]
    assert {day: len(rows(day)) for day in ROWS} == ROWS
    now = read(project, home, lambda rows: set(rows["day"]), asset="serving_snapshot")
    assert now == {SECOND}
    risk = read(
        project,
        home,
        lambda version: version.get(7).outputs["risk"],
        FIRST,
        asset="serving_snapshot",
        of=Version,
    )
    assert rows(FIRST).filter(pl.col("user_id") == 7)["risk"].item() == risk


def test_a_reader_follows_what_is_served_and_no_older_day(project, home):
    def day(snapshot):
        with snapshot:
            return snapshot.get(7).day

    asked = {"asset": "serving_snapshot", "of": Snapshot}
    assert read(project, home, day, SECOND, **asked) == SECOND
    assert read(project, home, day, **asked) == SECOND
    assert f"follows what is served: {SECOND}, and {FIRST} is" in read(
        project, home, day, FIRST, **asked
    )


def test_a_day_without_a_version_is_an_error_that_says_what_keeps_it(project, home):
    said = read(project, home, len, THIRD, asset="serving_snapshot")
    assert f"no version of {THIRD} is at" in said
    assert "Take `predictions`, which keeps every day" in said


def test_nothing_is_written_by_it(project, home):
    @dg.asset(io_manager_key=TABLES)
    def mine():
        return 5

    resources = {TABLES: tables_io_manager, "storage": StorageResource()}
    result = dg.materialize(
        [mine], resources=resources, instance=home, raise_on_error=False
    )
    assert "writes nothing: give mine an IO manager of its own" in errors_of(result)


def test_a_value_is_loaded_by_hand_as_dagsters_docs_say(project, home):
    key = dg.AssetKey(["toy", "predictions"])
    found = project.definitions.load_asset_value(
        key, python_type=pa.Table, partition_key=FIRST, instance=home
    )
    assert len(found) == 300


def test_columns_downstream_name_those_that_they_are_from():
    (taken,) = column_lineage("toy/predictions", ["risk"]).values()
    (computed,) = column_lineage("toy/predictions", {"band": ["risk", "day"]}).values()
    key = dg.AssetKey(["toy", "predictions"])
    assert taken.deps_by_column == {"risk": [dg.TableColumnDep(key, "risk")]}
    assert set(computed.deps_by_column["band"]) == {
        dg.TableColumnDep(key, "risk"),
        dg.TableColumnDep(key, "day"),
    }
