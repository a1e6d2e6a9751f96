"""A key that the night does not cover gets its segment's list, and is told so."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from dagster import DagsterInstance
from pydantic import ValidationError

from batch_assets.cli.main import main
from batch_assets.errors import ContractError, LakeError, SnapshotError
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract, KeySpec, Output
from batch_assets.models.release import Release
from batch_assets.sinks.sync import push_denylist, sync_sink
from batch_assets.snapshots.deny import allow, deny
from batch_assets.snapshots.denylist import DENYLIST
from batch_assets.snapshots.fallback_table import MOST_NUMBERS, read_fallback
from batch_assets.snapshots.flattening import columns_of
from batch_assets.snapshots.manifest import SnapshotManifest
from batch_assets.snapshots.reader import Snapshot
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets.spec import FallbackSpec, PipelineSpec
from batch_assets_tests.histories import ITEMS, NAME, K, make_rows
from batch_assets_tests.projects import make_project
from batch_assets_tests.rankings import (
    NOBODY,
    SOURCE,
    SPEC,
    approve,
    contract_with_spare,
    items_of,
    popular,
    publish,
    score_night,
    take,
    write_with_spare,
)
from batch_assets_tests.stores import open_store
from batch_assets_tests.toys import DAY

ASKED = [("north", 0), ("south", 10), ("east", 20), (None, 20), (7, 20)]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_with_spare(tmp_path_factory.mktemp("release") / NAME)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Lake:
    root = tmp_path_factory.mktemp("root") / "root"
    root.mkdir()
    approve(root, release)
    lake = Lake(root, NAME)
    score_night(lake, release)
    take(lake, popular())
    publish(lake, fallback=SPEC)
    return lake


@pytest.fixture
def served(scored: Lake) -> SnapshotStore:
    store = SnapshotStore(scored.folder.parent.parent, NAME)
    (store.folder / DENYLIST).unlink(missing_ok=True)
    return store


@pytest.mark.parametrize(("segment", "first"), ASKED)
def test_a_key_without_a_prediction_gets_its_segments_row_marked_as_one(
    served: SnapshotStore, segment: Any, first: int
) -> None:
    with Snapshot(served.folder) as snapshot:
        answer = snapshot.get(NOBODY, segment)
        assert answer.is_fallback
        assert answer.outputs["next_items"] == [
            (ITEMS[first + n], pytest.approx(1 - n / 10)) for n in range(K)
        ]
        assert answer.outputs["profile"] == [1.0, 2.0, 3.0]
        shown = json.loads(json.dumps(answer.to_dict()))
        assert (shown["is_fallback"], shown["segment"]) == (True, segment)
        # Whoever was scored gets what was scored, whatever the segment.
        scored = snapshot.get(7, segment)
        assert scored == snapshot.get(7)
        assert not scored.is_fallback
        assert "segment" not in scored.to_dict()
        keys, segments = [7, NOBODY, 8, -NOBODY], [segment] * 4
        many = snapshot.get_many(keys, segments)
        assert many == [
            snapshot.get(key, one) for key, one in zip(keys, segments, strict=True)
        ]
        with pytest.raises(SnapshotError, match="got 1 segments of 2 keys"):
            snapshot.get_many([1, 2], [segment])


@pytest.mark.parametrize("key", ["north", 1.5, None])
def test_what_can_be_no_key_is_an_error_all_the_same(
    served: SnapshotStore, key: Any
) -> None:
    with pytest.raises(SnapshotError, match="is an integer"):
        Version.current(served).get(key, "north")


def test_the_next_best_move_up_in_a_fallback_too(served: SnapshotStore) -> None:
    deny(served, ITEMS[:2], why="a recall")
    answer = Version.current(served).get(NOBODY, "north")
    assert items_of(answer) == list(ITEMS[2:7])
    deny(served, ITEMS[2:4], why="another")
    answer = Version.current(served).get(NOBODY, "north")
    assert items_of(answer) == list(ITEMS[4:7])


@pytest.mark.parametrize("kind", ["redis", "postgres", "cassandra"])
def test_a_client_of_a_store_gives_the_same(
    request: pytest.FixtureRequest, served: SnapshotStore, kind: str
) -> None:
    for store in open_store(request, kind):
        deny(served, [ITEMS[0]], why="a recall")
        sync_sink(writer := store.open(), served, keep=2)
        reader, version = store.open(), Version.current(served)
        for segment, _ in ASKED:
            for key in (7, NOBODY, -NOBODY, 2**70):
                want, got = version.get(key, segment), reader.get(key, segment)
                assert got.outputs == want.outputs
                assert got.is_fallback == want.is_fallback == (key != 7)
                assert got.segment == want.segment
        allow(served, [ITEMS[0]], why="none")
        assert push_denylist(writer, served)


def test_another_table_of_the_same_night_is_another_version(
    scored: Lake, served: SnapshotStore
) -> None:
    before = served.current()
    turned = pa.table(popular()).take([2, 0, 1])
    take(scored, {name: turned[name] for name in turned.column_names})
    assert publish(scored, fallback=SPEC).why == "this very version is served already"
    items = [list(ITEMS[at : at + 7]) for at in (30, 10, 20)]
    take(scored, popular(next_items=items))
    try:
        assert publish(scored, fallback=SPEC).swapped
        version = Version.current(served)
        assert version.name != before
        assert items_of(version.get(NOBODY, "north")) == list(ITEMS[30:35])
        assert all(file.linked_from for file in version.manifest.files)
        # Without one it is a third.
        assert publish(scored).swapped
        assert Version.current(served).get(NOBODY, "north") is None
    finally:
        take(scored, popular())
        assert publish(scored, fallback=SPEC).version == before


def test_it_is_taken_for_the_day_or_nothing_is_published(
    scored: Lake, served: SnapshotStore, release: Release
) -> None:
    score_night(scored, release, "2026-01-07")
    with pytest.raises(LakeError, match="'popular' was not taken for 2026-01-07"):
        publish(scored, "2026-01-07", fallback=SPEC)
    assert Version.current(served).manifest.day == DAY


def test_a_lookup_says_that_it_is_none(
    served: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(served.folder.parent.parent))
    asked = ["lookup", NAME, str(NOBODY), "--segment", "south"]
    said = CliRunner().invoke(main, asked)
    assert said.exit_code == 0
    assert (
        f"the night has no {NOBODY}: this is shown instead, of 'south'" in said.output
    )
    assert f"1  {ITEMS[10]}" in said.output
    shown = json.loads(CliRunner().invoke(main, [*asked, "--json"]).output)
    assert (shown["is_fallback"], shown["segment"]) == (True, "south")
    said = CliRunner().invoke(main, ["lookup", NAME, "7"])
    assert "fallback" not in said.output


def test_a_manifest_says_it_in_numbers_and_reads_it_again(
    served: SnapshotStore,
) -> None:
    manifest = Version.current(served).manifest
    assert SnapshotManifest.loads(manifest.dumps().encode()) == manifest
    assert [row.segment for row in manifest.fallback.rows] == [None, "north", "south"]


LISTS = pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shop": ["north", "north", None]}, "several rows for 'north'"),
        ({"shop": [None, None, "north"]}, "several rows for 'None'"),
        ({"risk": [0.5, None, 0.5]}, "has a null in 'risk'"),
        ({"risk": [0.5, 1.5, 0.5]}, r"output 'risk' is 1.5; it has 1.5, of 'south'"),
        ({"risk": ["high"] * 3}, "'risk' is string, expected float"),
        ({"verdict": ["safe", "odd", "safe"]}, "one of 3 classes; it has odd"),
        ({"profile": [[1.0, 2.0]] * 3}, "'profile' is nan"),
        ({"next_items": [[1, 2, 3, 4, 5, 6, 7]] * 3}, "fewer than 5 .*it has .1, 2, "),
        ({"next_items": pa.array([None] * 3, LISTS)}, "has a null in 'next_items'"),
        ({"next_items": [[ITEMS[0]] * 7] * 3}, "has an item twice"),
        ({"next_items": [list(ITEMS[:10])] * 3}, "another number of scores"),
        ({"next_items": [[ITEMS[0], *range(6)]] * 3}, "fewer than 5 items"),
        ({"next_items_scores": [[0.1 * n for n in range(7)]] * 3}, "descending"),
        ({"next_items_scores": [[float("nan")] * 7] * 3}, "not finite"),
        ({"extra": [1, 2, 3]}, "has the columns .*'extra'"),
        ({"shop": ["north", "north ", "north"]}, "several rows"),
    ],
)
def test_a_table_that_no_model_could_have_given_is_one_error(
    changes: dict[str, Any], match: str
) -> None:
    table = pa.table(popular(**changes))
    with pytest.raises(ContractError, match=match) as error:
        read_fallback(table, SPEC, contract_with_spare(at_least=5))
    assert "Nothing was scored or published" in str(error.value)


def test_what_is_popular_may_be_longer_and_newer_than_the_model_knows() -> None:
    items, scores = [2**50, *ITEMS[:15], 7], [1 - n / 20 for n in range(17)]
    table = popular(next_items=[items] * 3, next_items_scores=[scores] * 3)
    contract = contract_with_spare()
    numbers = read_fallback(pa.table(table), SPEC, contract).rows[0].outputs
    found = dict(zip(columns_of(contract), numbers, strict=True))
    assert [found[f"next_items.{n}"] for n in range(9)] == list(range(9))
    assert [found[f"next_items_scores.{n}"] for n in range(9)] == pytest.approx(
        scores[1:10]
    )


def test_without_segments_it_is_one_row() -> None:
    spec, contract = FallbackSpec(table="popular"), contract_with_spare()
    table = pa.table(popular()).drop_columns(["shop"])
    with pytest.raises(ContractError, match="all keys: name a column with `by`"):
        read_fallback(table, spec, contract)
    (row,) = read_fallback(table.slice(1, 1), spec, contract).rows
    assert row.segment is None
    assert len(row.outputs) == len(columns_of(contract))
    with pytest.raises(ContractError, match="has no row"):
        read_fallback(table.slice(0, 0), spec, contract)
    with pytest.raises(ContractError, match="expected .*'shop'"):
        read_fallback(table, SPEC, contract)


def test_plain_numbers_have_one_too_and_segments_may_be_numbers() -> None:
    contract = Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        features=make_features(),
        outputs=(Output(name="risk", min=0, max=1), Output(name="n", dtype="int64")),
    )
    table = pa.table({"shop": [2, 1], "n": [2**53 + 1, -1], "risk": [1, 0]})
    fallback = read_fallback(table, SPEC, contract)
    assert [(row.segment, row.outputs) for row in fallback.rows] == [
        ("1", (0.0, -1)),
        ("2", (1.0, 2**53 + 1)),
    ]
    large = pa.table(
        {"shop": range(MOST_NUMBERS), "n": [0] * MOST_NUMBERS}
        | {"risk": [0.0] * MOST_NUMBERS}
    )
    with pytest.raises(ContractError, match="100,000 numbers at most"):
        read_fallback(large, SPEC, contract)


def make_features() -> Any:
    return contract_with_spare().features


def test_a_pipeline_says_which_side_table_it_is(tmp_path: Path) -> None:
    plain = {
        "name": "shop",
        "start_day": "2026-01-01",
        "source": {"kind": "parquet", "glob": "days/{{ day }}.parquet"},
        "model": {"name": "shop"},
        "serving": {"fallback": {"table": "popular", "by": "shop"}},
    }
    with pytest.raises(ValidationError, match="`side_tables` are none"):
        PipelineSpec.model_validate_json(json.dumps(plain))
    side = {"popular": {"kind": "parquet", "glob": "popular-{{ day }}.parquet"}}
    spec = PipelineSpec.model_validate_json(json.dumps(plain | {"side_tables": side}))
    assert spec.serving.fallback == SPEC


@pytest.mark.parametrize("fits", [True, False])
def test_a_night_whose_fallback_does_not_fit_scores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: Release, fits: bool
) -> None:
    pipeline = {
        "name": NAME,
        "start_day": DAY,
        "source": {"kind": "parquet", "glob": "days/{{ day }}.parquet"},
        "side_tables": {"popular": SOURCE.model_dump(exclude_none=True)},
        "serving": {"fallback": {"table": "popular", "by": "shop"}},
        "model": {"name": NAME},
        "shards": 2,
    }
    folder = tmp_path / "project"
    project = make_project(folder, tmp_path / "root", monkeypatch, [pipeline])
    approve(tmp_path / "root", release)
    (folder / "days").mkdir()
    pq.write_table(make_rows(50), folder / "days" / f"{DAY}.parquet")
    table = popular() if fits else popular(risk=[0.5, 0.5, 1.5])
    pq.write_table(pa.table(table), folder / f"popular-{DAY}.parquet")
    with DagsterInstance.ephemeral() as on:
        result = project.run(NAME, DAY, on)
    lake = project.lake(NAME)
    assert lake.validated_features.rows_by_day()
    assert result.success == fits
    assert bool(lake.predictions.rows_by_day()) == fits
    assert not fits or Version.current(project.snapshots(NAME)).get(NOBODY).is_fallback


def test_a_key_that_no_file_can_hold_gets_a_fallback_that_can_be_told(
    served: SnapshotStore,
) -> None:
    with Snapshot(served.folder) as snapshot:
        fallback = snapshot.get(NOBODY)
    assert fallback is not None
    # Half of a surrogate pair: it has no hash, hence no shard.
    answer = fallback._replace(key="\ud800")
    assert answer.to_dict()["coverage"] == fallback.manifest.coverage
    assert answer.kept is None
