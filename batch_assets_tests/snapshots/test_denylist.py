"""A denied item is in no answer within seconds, and the next best have moved up."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from batch_assets import Ranking
from batch_assets.cli.main import main
from batch_assets.errors import NotServedError, SinkError, SnapshotError
from batch_assets.lake.tables import Lake
from batch_assets.models.output_specs import NO_ITEM
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_parts import summary_of
from batch_assets.sinks import answers
from batch_assets.sinks.sync import push_denylist, serves_the_same, sync_sink
from batch_assets.snapshots.deny import MOST, allow, deny, replace_denylist
from batch_assets.snapshots.denylist import DENYLIST
from batch_assets.snapshots.flattening import forms_of
from batch_assets.snapshots.forms import RankingForm
from batch_assets.snapshots.reader import Snapshot
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests.histories import ITEMS, NAME, K
from batch_assets_tests.rankings import (
    NOBODY,
    ROWS,
    SPARE,
    approve,
    contract_with_spare,
    items_of,
    publish,
    score_night,
    write_with_spare,
)
from batch_assets_tests.stores import open_store
from batch_assets_tests.toys import DAY

NEXT_DAY = "2026-01-06"
KEYS = list(range(1, ROWS + 1))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_with_spare(tmp_path_factory.mktemp("release") / NAME)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Lake:
    root = tmp_path_factory.mktemp("root") / "root"
    root.mkdir()
    approve(root, release)
    lake = Lake(root, NAME)
    for day in (DAY, NEXT_DAY):
        score_night(lake, release, day)
    publish(lake)
    return lake


@pytest.fixture
def served(scored: Lake) -> SnapshotStore:
    store = SnapshotStore(scored.folder.parent.parent, NAME)
    (store.folder / DENYLIST).unlink(missing_ok=True)
    return store


def held(store: SnapshotStore) -> dict[int, list[tuple[int, float]]]:
    """All that is held of each key's ranking, from the columns of the files."""
    version, found = Version.current(store), {}
    (form,) = [f for f in version.manifest.forms if isinstance(f, RankingForm)]
    places, scores = form.parts
    for number in range(len(version.manifest.files)):
        for row in version.shard(number).table.to_pylist():
            pairs = [
                (ITEMS[row[at]], row[score])
                for at, score in zip(places, scores, strict=True)
                if row[at] >= 0
            ]
            found[row["user_id"]] = pairs
    return found


def test_no_more_than_k_are_shown_and_more_are_held(served: SnapshotStore) -> None:
    version = Version.current(served)
    everything = held(served)
    assert {len(pairs) for pairs in everything.values()} == {K + SPARE}
    for key, answer in zip(KEYS, version.get_many(KEYS), strict=True):
        assert answer == version.get(key)
        assert answer.outputs["next_items"] == everything[key][:K]


def test_the_next_best_move_up_in_a_reader_that_is_open(served: SnapshotStore) -> None:
    everything = held(served)
    with Snapshot(served.folder, poll_seconds=0.05) as snapshot:
        gone = items_of(snapshot.get(7))[:2]
        before = snapshot.opened
        began = time.monotonic()
        deny(served, gone, why="a recall", by="ada")
        while items_of(snapshot.get(7))[0] == gone[0]:
            assert time.monotonic() - began < 30
            time.sleep(0.01)
        for key in KEYS:
            left = [pair for pair in everything[key] if pair[0] not in gone]
            assert snapshot.get(key).outputs["next_items"] == left[:K]
            assert snapshot.get_many([key])[0] == snapshot.get(key)
        # What was taken before stays as it was, and shares its rows.
        assert items_of(before.get(7))[:2] == gone
        assert snapshot.opened.folder == before.folder
        allow(served, gone, why="it was none", by="bob")
        assert snapshot.refresh()
        assert snapshot.get(7) == before.get(7)


def test_a_ranking_without_enough_spare_gets_shorter(served: SnapshotStore) -> None:
    everything = held(served)[7]
    deny(served, [item for item, _ in everything[: SPARE + 2]], why="w")
    assert (
        Version.current(served).get(7).outputs["next_items"] == everything[SPARE + 2 :]
    )
    deny(served, ITEMS, why="w")
    assert Version.current(served).get(7).outputs["next_items"] == []


def test_it_outlives_the_night_and_a_rollback(
    scored: Lake, served: SnapshotStore
) -> None:
    gone = items_of(Version.current(served).get(7))[0]
    deny(served, [gone], why="a recall")
    with Snapshot(served.folder, poll_seconds=60) as snapshot:
        publish(scored, NEXT_DAY)
        assert snapshot.refresh()
        assert snapshot.day == NEXT_DAY
        assert all(gone not in items_of(snapshot.get(key)) for key in KEYS)


def test_who_opens_it_later_does_not_show_it_either(served: SnapshotStore) -> None:
    gone = items_of(Version.current(served).get(7))[0]
    deny(served, [str(gone)], why="a recall")
    with Snapshot(served.folder, poll_seconds=60) as snapshot:
        assert gone not in items_of(snapshot.get(7))
        assert snapshot.denylist.names == [str(gone)]


@pytest.mark.parametrize("data", [b"", b"{", b'{"items": [{"item": 7}]}', b"[]"])
def test_a_list_that_cant_be_read_lets_no_reader_begin_and_changes_none(
    served: SnapshotStore, data: bytes
) -> None:
    gone = items_of(Version.current(served).get(7))[0]
    deny(served, [gone], why="a recall")
    with Snapshot(served.folder, poll_seconds=60) as snapshot:
        (served.folder / DENYLIST).write_bytes(data)
        assert not snapshot.refresh()
        assert "which items are denied is not certain" in str(snapshot.problem)
        assert gone not in items_of(snapshot.get(7))
        with pytest.raises(SnapshotError, match="denylist replace"):
            Snapshot(served.folder)
        with pytest.raises(SnapshotError, match="not certain"):
            deny(served, [ITEMS[0]], why="w")
        replace_denylist(served, [gone], why="the file was damaged")
        assert snapshot.refresh()
        assert snapshot.problem is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda store: deny(store, [" "], why="w"), "an item is empty"),
        (lambda store: deny(store, [ITEMS[0]], why=" "), "takes a reason"),
        (lambda store: allow(store, [ITEMS[0]], why="w"), "not denied"),
        (
            lambda store: deny(store, range(MOST + 1), why="w"),
            "belongs into a side table",
        ),
    ],
)
def test_what_can_be_no_list_changes_nothing(
    served: SnapshotStore, change: Any, match: str
) -> None:
    deny(served, [ITEMS[3]], why="w", by="ada")
    before = (served.folder / DENYLIST).read_bytes(), served.history()
    with pytest.raises(SnapshotError, match=match):
        change(served)
    assert ((served.folder / DENYLIST).read_bytes(), served.history()) == before


def test_it_is_said_who_did_it_and_why(served: SnapshotStore) -> None:
    first = deny(served, [ITEMS[0], ITEMS[1], ITEMS[0]], why="a recall", by="ada")
    assert first.denied == [str(ITEMS[0]), str(ITEMS[1])]
    again = deny(served, [ITEMS[1], ITEMS[2]], why="another", by="bob")
    assert again.denied == [str(ITEMS[2])]
    # Who denied it first stays on record.
    assert [one.by for one in served.denylist().items] == ["ada", "ada", "bob"]
    replaced = replace_denylist(served, [ITEMS[2]], why="the morning's list", by="cy")
    assert (replaced.denied, replaced.allowed) == ([], [str(ITEMS[0]), str(ITEMS[1])])
    entries, _ = served.history()
    told = [(e.act, e.items, e.by, e.why) for e in entries[-3:]]
    assert told == [
        ("deny", (str(ITEMS[0]), str(ITEMS[1])), "ada", "a recall"),
        ("deny", (str(ITEMS[2]),), "bob", "another"),
        ("allow", (str(ITEMS[0]), str(ITEMS[1])), "cy", "the morning's list"),
    ]


def test_a_list_as_long_as_may_be_is_replaced_and_told_to_postgres(
    request: pytest.FixtureRequest, served: SnapshotStore
) -> None:
    most = [str(n) for n in range(MOST)]
    deny(served, most, why="w")
    turned = replace_denylist(served, most[::-1][:-1], why="w")
    assert (turned.denied, turned.allowed) == ([], ["0"])
    assert turned.denylist.names == most[::-1][:-1]
    for store in open_store(request, "postgres"):
        sink = store.open()
        assert push_denylist(sink, served)
        assert sink.denied() == served.denylist()


def test_where_nothing_is_served_there_is_nothing_to_deny(tmp_path: Path) -> None:
    with pytest.raises(NotServedError):
        deny(SnapshotStore(tmp_path, "nobody"), [1], why="w")


@pytest.mark.parametrize("kind", ["redis", "postgres", "cassandra"])
def test_a_client_of_a_store_denies_the_same_within_a_second(
    request: pytest.FixtureRequest,
    served: SnapshotStore,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    # The clock of the clients alone: that of their connections goes on.
    clock = SimpleNamespace(now=1_000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(answers, "time", clock)
    for store in open_store(request, kind):
        gone = items_of(Version.current(served).get(7))[:2]
        reader, writer = store.open(), store.open()
        assert writer.denied().items == ()
        sync_sink(writer, served, keep=2)
        assert items_of(reader.get(7))[:2] == gone

        deny(served, gone, why="a recall", by="ada")
        assert not serves_the_same(writer, served).passed
        assert "sinks follow" in serves_the_same(writer, served).why
        assert push_denylist(writer, served)
        assert not push_denylist(writer, served)
        assert serves_the_same(writer, served).passed
        assert writer.denied() == served.denylist()
        # It has asked a moment ago. A second later it asks again.
        clock.now += 0.9
        assert items_of(reader.get(7))[:2] == gone
        clock.now += 0.2
        version = Version.current(served)
        for key in KEYS[:40]:
            assert reader.get(key).outputs == version.get(key).outputs
        assert reader.get(NOBODY) is None

        # A night tells a store what it has missed, even if nothing else is new.
        allow(served, gone[:1], why="it was none")
        assert not sync_sink(writer, served, keep=2).swapped
        clock.now += 1.0
        assert items_of(reader.get(7))[0] == gone[0]
        assert gone[1] not in items_of(reader.get(7))


def test_sql_in_postgres_sees_names_and_arrays_without_what_is_denied(
    request: pytest.FixtureRequest, served: SnapshotStore
) -> None:
    import psycopg

    for store in open_store(request, "postgres"):
        sink = store.open()
        sync_sink(sink, served, keep=2)
        gone = items_of(Version.current(served).get(7))[:2]
        for _ in range(2):
            version = Version.current(served)
            with psycopg.connect(store.url) as analyst:
                rows = analyst.execute(
                    f"SELECT user_id, risk, verdict, profile, next_items, "
                    f"next_items_scores, served_version FROM {store.name}.current"
                ).fetchall()
            assert len(rows) == ROWS
            for key, risk, verdict, profile, items, scores, name in rows:
                want = version.get(key).outputs
                assert (verdict, items, name) == (
                    want["verdict"],
                    [item for item, _ in want["next_items"]],
                    version.name,
                )
                assert scores == pytest.approx([s for _, s in want["next_items"]])
                assert profile == pytest.approx(want["profile"])
                assert risk == pytest.approx(want["risk"])
            deny(served, gone, why="a recall")
            push_denylist(sink, served)
        sink_tables = "SELECT tablename FROM pg_tables WHERE schemaname = %s"
        with psycopg.connect(store.url) as analyst:
            tables = analyst.execute(sink_tables, [store.name]).fetchall()
        assert sum(name.startswith("items_") for (name,) in tables) == 1


def test_the_commands_tell_sinks_and_people(
    served: SnapshotStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(served.folder.parent.parent))
    run = CliRunner()
    gone, *_ = items_of(Version.current(served).get(7))
    said = run.invoke(
        main, ["denylist", "add", NAME, str(gone), "7", "--why", "a recall"]
    )
    assert said.exit_code == 0, said.output
    assert "2 denied, 0 allowed again; 2 are denied now" in said.output
    assert "in no ranking that is served now" in said.output
    assert said.output.strip().endswith("should one have them: 7")
    shown = run.invoke(main, ["lookup", NAME, "7", "--json"])
    assert gone not in [
        one["item"] for one in json.loads(shown.output)["outputs"]["next_items"]
    ]
    listed = tmp_path / "list.txt"
    listed.write_text(f"{ITEMS[4]}\n\n {ITEMS[5]} \n", encoding="utf-8")
    said = run.invoke(
        main, ["denylist", "replace", NAME, str(listed), "--why", "x", "--json"]
    )
    assert json.loads(said.output) == {
        "denied": [str(ITEMS[4]), str(ITEMS[5])],
        "allowed": [str(gone), "7"],
        "unknown": [],
        "items": [str(ITEMS[4]), str(ITEMS[5])],
    }
    said = run.invoke(main, ["denylist", "show", NAME])
    assert str(ITEMS[4]) in said.output
    said = run.invoke(main, ["denylist", "remove", NAME, "8", "--why", "x"])
    assert said.exit_code != 0
    assert "8: not denied" in said.output
    assert str(ITEMS[5]) in run.invoke(main, ["snapshot", "history", NAME]).output


def test_items_that_are_words_are_denied_by_their_text() -> None:
    words = {"items": tuple(map(str, range(9))), "regions": ("north", "south", "east")}
    contract = contract_with_spare(k=2, spare=1).model_copy(
        update={"vocabularies": words}
    )
    (form,) = [f for f in forms_of(contract) if isinstance(f, RankingForm)]
    from batch_assets.snapshots.denylist import DeniedItem, Denylist

    at = "2026-01-05T00:00:00Z"
    denylist = Denylist.loads(
        Denylist(
            items=tuple(
                DeniedItem(item=item, at=at, by="ada", why="w")
                for item in ("3", "03", "x" * 40, "-0", "9" * 30)
            )
        )
        .model_dump_json()
        .encode(),
        "here",
    )
    assert denylist.denied([form]) == {"next_items": frozenset({3})}
    assert form.teller(frozenset({3}))((3, 1, 2), (3.0, 2.0, 1.0)) == [
        ("1", 2.0),
        ("2", 1.0),
    ]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"spare": -1}, "greater than or equal"),
        ({"k": 40, "spare": 11}, "k is 40 and spare 11"),
    ],
)
def test_a_spare_that_no_ranking_can_have_is_refused(
    changes: dict[str, int], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        contract_with_spare(**changes)


def test_a_ranking_without_spare_has_the_digest_that_it_always_had() -> None:
    ranking = Ranking(name="next", vocabulary="items", k=3)
    assert "spare" not in ranking.model_dump()


def test_a_ranking_is_short_when_a_reader_sees_fewer_than_k() -> None:
    # Held are two and a spare: the first has all, the second no spare, the third one.
    items = np.array([[4, 3, 2], [4, 3, NO_ITEM], [4, NO_ITEM, NO_ITEM]])
    assert summary_of(items, None, k=2).short == 1


def test_a_store_that_is_gone_is_said_and_stops_nobody(
    served: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch_assets.sinks import operations

    def refuse(*_: Any) -> Any:
        msg = "redis://nowhere can't be used"
        raise SinkError(msg)

    monkeypatch.setattr(operations, "declared_sinks", lambda store: [_Target()])
    monkeypatch.setattr(operations, "open_sink", refuse)
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(served.folder.parent.parent))
    said = CliRunner().invoke(
        main, ["denylist", "add", NAME, str(ITEMS[0]), "--why", "a recall"]
    )
    assert said.exit_code != 0
    assert "try again with: batch-assets sinks follow" in said.output
    assert served.denylist().names == [str(ITEMS[0])]


class _Target:
    name = "gone"
