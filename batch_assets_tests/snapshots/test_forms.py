"""Labels, vectors and rankings are served as they were predicted, from every store."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from batch_assets.lake.day_run import DayRun
from batch_assets.lake.tables import Lake
from batch_assets.models.output_specs import Label, Ranking
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.sinks.sync import serves_the_same, sync_sink
from batch_assets.snapshots.audit import ask
from batch_assets.snapshots.forms import RankingForm, plain
from batch_assets.snapshots.manifest import SnapshotManifest
from batch_assets.snapshots.publish import publish_day
from batch_assets.snapshots.reader import Snapshot
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Answer, Version
from batch_assets.spec import GateLimits, Serving
from batch_assets_tests.histories import (
    ITEMS,
    NAME,
    Histories,
    expected,
    make_contract,
    make_rows,
    write_histories,
)
from batch_assets_tests.nights import score
from batch_assets_tests.stores import open_store
from batch_assets_tests.toys import DAY, copy_rows, validate

NEXT_DAY = "2026-01-06"
ROWS = 300


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    outputs = make_contract().outputs
    ranking = Ranking(name="next_items", vocabulary="items", k=5, at_least=0)
    contract = make_contract(outputs=(*outputs[:-1], ranking))
    return write_histories(tmp_path_factory.mktemp("release") / NAME, contract=contract)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    records = make_rows(ROWS).to_pylist()
    # Some rankings are shorter than five, and one has no item at all.
    for at, left in enumerate((0, 1, 4)):
        records[at]["seen_items"] = list(ITEMS[left:])
    return pa.Table.from_pylist(records, make_contract().raw_schema())


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, release: Release, rows: pa.Table
) -> SnapshotStore:
    root = tmp_path_factory.mktemp("root") / "root"
    root.mkdir()
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it", by="ada")
    store = SnapshotStore(root, NAME)
    for day in (DAY, NEXT_DAY):
        lake = Lake(root, NAME)
        copy_rows(lake, rows, day=day, contract=release.contract)
        validate(lake, day=day, contract=release.contract)
        score(lake, release, day=day)
        run = DayRun(lake, day)
        publish_day(run, registry, store, gates=GateLimits(), serving=Serving())
    return store


def must_be_as_expected(answer: Answer, row: dict[str, Any]) -> None:
    want = expected(row, Histories())
    scores = want.pop("next_items_scores")
    assert list(answer.outputs) == list(want)
    ranking = answer.outputs["next_items"]
    assert [item for item, _ in ranking] == want.pop("next_items")
    np.testing.assert_allclose([score for _, score in ranking], scores, rtol=1e-5)
    for name, value in want.items():
        if isinstance(value, str):
            assert answer.outputs[name] == value
        else:
            np.testing.assert_allclose(answer.outputs[name], value, 1e-5, 1e-5)


def test_every_key_is_answered_as_it_was_predicted_alone_and_among_many(
    served: SnapshotStore, rows: pa.Table
) -> None:
    with Snapshot(served.folder) as snapshot:
        records = rows.to_pylist()
        for row in records:
            must_be_as_expected(snapshot.get(row["user_id"]), row)
        keys = [row["user_id"] for row in records]
        many = snapshot.get_many([*keys, 10**9])
        assert many.pop() is None
        assert many == [snapshot.get(key) for key in keys]


def test_a_receipt_says_how_many_rankings_are_short(
    served: SnapshotStore, release: Release
) -> None:
    lake = Lake(served.folder.parent.parent, NAME)
    receipts = [part.receipt for part in lake.predictions.parts(DAY)]
    # None, one and four of five items are left of three of the rows.
    assert sum(one.outputs["next_items"].short for one in receipts) == 3
    assert {one.outputs["risk"].short for one in receipts} == {None}
    assert release.side_tables == ()


def test_an_equal_day_links_the_files_of_the_one_before(served: SnapshotStore) -> None:
    version = Version.current(served)
    assert version.manifest.day == NEXT_DAY
    assert all(file.linked_from for file in version.manifest.files)


@pytest.mark.parametrize("kind", ["redis", "postgres", "cassandra"])
def test_a_store_answers_as_the_version_on_disk(
    request: pytest.FixtureRequest, served: SnapshotStore, rows: pa.Table, kind: str
) -> None:
    for store in open_store(request, kind):
        sink = store.open()
        assert sync_sink(sink, served, keep=2).rows == ROWS
        assert serves_the_same(sink, served).passed
        version = Version.current(served)
        for key in rows["user_id"].to_pylist()[:50]:
            assert sink.get(key).outputs == version.get(key).outputs


def test_json_names_item_and_score_of_each_place(served: SnapshotStore) -> None:
    answer = Version.current(served).get(7)
    shown = json.loads(json.dumps(answer.to_dict()))["outputs"]
    assert shown["next_items"] == [
        {"item": item, "score": score} for item, score in answer.outputs["next_items"]
    ]
    assert shown["verdict"] == answer.outputs["verdict"]
    assert shown["profile"] == answer.outputs["profile"]


def test_a_lookup_prints_a_ranking_as_a_table(
    served: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch_assets.cli import lookup as command

    monkeypatch.setattr(command, "snapshots_of", lambda pipeline: served.folder)
    answer = Version.current(served).get(7)
    said = CliRunner().invoke(command.lookup, [NAME, "7"]).output.splitlines()
    places = [line for line in said if str(2**40)[:6] in line]
    assert len(places) == len(answer.outputs["next_items"]) == 5
    (first, score), *_ = answer.outputs["next_items"]
    assert places[0].split() == ["next_items", "1", str(first), f"{score:.6g}"]
    assert places[1].startswith(" ")


def test_sql_sees_names_and_lists(served: SnapshotStore, rows: pa.Table) -> None:
    lake = Lake(served.folder.parent.parent, NAME)
    version = served.current()
    assert version is not None
    query = "SELECT * FROM snapshot ORDER BY user_id"
    names, found = ask(lake, served, version, query)
    asked = "SELECT user_id, next_items, verdict FROM predictions WHERE day = ? "
    with duckdb.connect() as connection:
        connection.register("predictions", lake.predictions.dataset())
        predicted = connection.execute(
            asked + "ORDER BY user_id", [NEXT_DAY]
        ).fetchall()
    at = [names.index(name) for name in ("user_id", "next_items", "verdict")]
    assert [tuple(row[n] for n in at) for row in found] == predicted
    assert len(found) == ROWS


def test_a_flipped_bit_in_a_ranking_is_not_served(
    served: SnapshotStore, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / NAME
    shutil.copytree(served.folder, copy)
    store = SnapshotStore.at(copy)
    version = Version.current(store)
    path = version.folder / version.manifest.files[0].name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(Exception, match="hashes to|sha256|is not"):
        Version.current(store).verify()


def test_a_version_of_numbers_alone_says_nothing_of_forms() -> None:
    manifest = SnapshotManifest(
        pipeline="toy",
        version="v",
        day=DAY,
        created_at="2026-01-05T00:00:00Z",
        stale_after_seconds=1,
        key="user_id",
        key_dtype="int64",
        outputs=("risk",),
        model_name="toy",
        model_version="ab",
        job="cd",
        predictions="ef",
        files=(),
    )
    assert "forms" not in manifest.dumps()
    assert SnapshotManifest.loads(manifest.dumps().encode()) == manifest


def test_items_may_be_words() -> None:
    form = RankingForm(name="next", k=2, items=("tea", "milk", "bread"))
    outputs = {"next": form.teller()((2, 0), (0.5, 0.25))}
    assert outputs == {"next": [("bread", 0.5), ("tea", 0.25)]}
    assert plain(outputs, [form]) == {
        "next": [{"item": "bread", "score": 0.5}, {"item": "tea", "score": 0.25}]
    }
    assert form.teller()((-1, -1), (0.0, 0.0)) == []


def test_what_lies_in_predictions_otherwise_than_declared_is_at_fault() -> None:
    words = {"items": ("tea", "milk", "bread")}
    ranking = Ranking(name="next", vocabulary="items", k=2)
    table = pa.table(
        {
            "next": [["tea", "milk"], ["tea"], ["tea", "tea"], ["oil", "tea"], None]
            + [["tea", "milk", "bread"], ["milk", "tea"], ["milk", "tea"]],
            "next_scores": pa.array(
                [
                    [1, 0.5],
                    [1],
                    [1, 0.5],
                    [1, 0.5],
                    None,
                    [1, 0.5, 0.25],
                    [0.5, 1],
                    [1],
                ],
                pa.list_(pa.float32()),
            ),
        }
    )
    wrong = ranking.at_fault(ranking.read(table, words), words)
    assert wrong is not None
    assert wrong.tolist() == [False, *[True] * 7]
    label = Label(name="verdict", classes=("safe", "unsafe"))
    table = pa.table({"verdict": ["safe", "unsafe", "odd", None]})
    wrong = label.at_fault(label.read(table, {}), {})
    assert wrong is not None
    assert wrong.tolist() == [False, False, True, True]


def test_an_item_that_no_vocabulary_has_is_at_fault() -> None:
    words = {"items": ("tea", "milk", "bread")}
    ranking = Ranking(name="next", vocabulary="items", k=2, at_least=1)
    items = np.array([[0, 2], [3, 0], [-2, 0], [1, -1]])
    scores = np.array([[1, 0.5]] * 4, np.float32)
    computed = {"next": items, "next_scores": scores}
    wrong = ranking.at_fault(computed, words)
    assert wrong is not None
    assert wrong.tolist() == [False, True, True, False]
    assert "has no item from 0 to 2: positions [3, 0]" in ranking.why(
        computed, 1, words
    )
