"""The service answers with fallbacks, marked as such, and without denied items."""

from collections.abc import Iterator

import pytest

from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.snapshots.deny import deny
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests import services
from batch_assets_tests.histories import ITEMS, NAME, K, make_rows
from batch_assets_tests.rankings import (
    NOBODY,
    SPEC,
    approve,
    items_of,
    popular,
    publish,
    score_night,
    take,
    write_with_spare,
)
from batch_assets_tests.services import Server, serving


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SnapshotStore:
    root = tmp_path_factory.mktemp("served") / "root"
    root.mkdir()
    release = write_with_spare(root / "release")
    approve(root, release)
    registry = Registry(root)
    registry.approve(NAME, release.digest, channel="online", why="the tests", by="ada")
    lake = Lake(root, NAME)
    score_night(lake, release)
    take(lake, popular())
    publish(lake, fallback=SPEC)
    return SnapshotStore(root, NAME)


@pytest.fixture(scope="module")
def server(store: SnapshotStore) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "NAME", NAME)
        with serving(store.folder.parent.parent) as server:
            yield server


def test_a_key_without_a_prediction_is_answered_and_marked(
    store: SnapshotStore, server: Server
) -> None:
    version = Version.current(store)
    found = server.get(f"/v1/{NAME}/keys/{NOBODY}?segment=south")
    assert found.status_code == 200
    answer = found.json()
    assert (answer["is_fallback"], answer["segment"]) == (True, "south")
    assert answer["outputs"] == version.get(NOBODY, "south").plain_outputs
    assert server.get(f"/v1/{NAME}/keys/7?segment=south").json()["is_fallback"] is False

    keys, segments = [7, NOBODY, NOBODY], ["north", "north", None]
    asked = {"keys": keys, "segments": segments}
    many = server.post(f"/v1/{NAME}/lookup", asked).json()
    assert many["missing"] == 2
    assert [one["outputs"] for one in many["answers"]] == [
        answer.plain_outputs for answer in version.get_many(keys, segments)
    ]
    assert [one["is_fallback"] for one in many["answers"]] == [False, True, True]
    alone = server.post(f"/v1/{NAME}/lookup", {"keys": keys}).json()["answers"]
    assert alone[1]["outputs"] == version.get(NOBODY).plain_outputs
    assert server.number("keys_total", pipeline=NAME, found="fallback") == 5


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"keys": [1], "segments": []}, "0 segments of 1 keys"),
        ({"keys": [1], "segments": [[1]]}, 'and as many "segments", texts or null'),
        ({"keys": [1], "segments": "north"}, 'and as many "segments", texts or null'),
        ({"keys": [1], "segment": ["north"]}, 'and as many "segments", texts or null'),
    ],
)
def test_segments_that_fit_no_keys_are_refused(
    server: Server, asked: dict[str, object], said: str
) -> None:
    answer = server.post(f"/v1/{NAME}/lookup", asked)
    assert answer.status_code in (400, 422)
    assert said in answer.json()["error"]


def test_what_is_denied_is_in_no_answer_looked_up_or_scored(
    store: SnapshotStore, server: Server
) -> None:
    rows = make_rows(20).to_pylist()

    def scored() -> list[list[int]]:
        body = server.post(f"/v1/{NAME}/score", {"rows": rows}).json()
        rankings = [one["outputs"]["next_items"] for one in body["answers"]]
        return [[one["item"] for one in ranking] for ranking in rankings]

    def looked_up() -> list[int]:
        outputs = server.get(f"/v1/{NAME}/keys/7").json()["outputs"]
        return [one["item"] for one in outputs["next_items"]]

    before = scored()
    assert {len(items) for items in before} == {K}
    gone = [*before[0][:2], looked_up()[0], ITEMS[0]]
    deny(store, gone, why="a recall")
    server.until(lambda: not set(looked_up()) & set(gone))
    after = scored()
    assert not set(gone) & {item for items in after for item in items}
    assert {len(items) for items in after} == {K}
    assert after[0][: K - 2] == before[0][2:]
    fallback = server.get(f"/v1/{NAME}/keys/{NOBODY}?segment=north").json()
    ranking = fallback["outputs"]["next_items"]
    assert [one["item"] for one in ranking] == items_of(
        Version.current(store).get(NOBODY, "north")
    )
    assert ITEMS[0] not in [one["item"] for one in ranking]
