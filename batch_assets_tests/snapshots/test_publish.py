"""What is served is proved, goes forward only, and changes in one swap or not at all."""

from pathlib import Path

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.snapshots.judges import equals_predictions
from batch_assets.snapshots.operations import unblock
from batch_assets.snapshots.store import CURRENT
from batch_assets.snapshots.version import Version
from batch_assets_tests.publishing import (
    NEXT,
    approved,
    block,
    narrow,
    publish,
    root_of,
    score,
    served,
    snapshots_of,
)
from batch_assets_tests.toys import DAY, NAME, read_day


def test_a_version_has_every_prediction_and_no_other(
    ready: Lake, narrow_release: Release
) -> None:
    published = publish(ready)

    assert (published.swapped, published.why) == (True, "published")
    snapshot = Version.current(snapshots_of(ready))
    predictions = read_day(ready, "predictions")
    assert snapshot.name == published.version
    assert snapshot.manifest.rows == len(predictions)
    for row in predictions.to_pylist():
        answer = snapshot.get(row["user_id"])
        assert answer is not None
        assert answer.outputs == {"risk": row["risk"]}
        assert answer.release.digest == row["model_version"] == narrow_release.digest
        assert (answer.release.name, answer.day) == (NAME, DAY)
    for table in ("dead_letters", "quarantined_rows"):
        absent = read_day(ready, table)["user_id"].to_pylist()
        assert absent
        assert {snapshot.get(key) for key in absent} == {None}
    assert equals_predictions(ready, snapshots_of(ready), DAY).passed


def test_an_older_day_never_replaces_a_newer_one(ready: Lake) -> None:
    newest = publish(ready, NEXT)
    before = served(ready)

    older = publish(ready, DAY)

    assert not older.swapped
    assert older.current == newest.current
    assert "newer" in older.why
    assert served(ready) == before
    assert equals_predictions(ready, snapshots_of(ready), DAY).passed


def test_the_next_day_replaces_it_and_remembers_its_parent(ready: Lake) -> None:
    first = publish(ready, DAY)

    second = publish(ready, NEXT)

    assert second.swapped
    assert second.current.parent == first.version
    assert snapshots_of(ready).current() == second.version


def test_the_same_version_again_changes_nothing(ready: Lake) -> None:
    first = publish(ready)
    before, at = (
        served(ready),
        (snapshots_of(ready).folder / CURRENT).stat().st_mtime_ns,
    )

    again = publish(ready)

    assert (again.swapped, again.version) == (False, first.version)
    assert served(ready) == before
    assert (snapshots_of(ready).folder / CURRENT).stat().st_mtime_ns == at


def test_the_same_day_by_another_release_replaces_it(
    ready: Lake, tmp_path: Path
) -> None:
    first = publish(ready)
    other = approved(
        root_of(ready), narrow(tmp_path / "other", about={"author": "else"})
    )
    score(ready, other, DAY)

    second = publish(ready)

    assert second.swapped
    assert second.version != first.version
    assert second.current.parent == first.version
    assert second.current.model_version == other.digest
    assert equals_predictions(ready, snapshots_of(ready), DAY).passed


def test_collection_keeps_the_newest_and_never_the_served_or_its_parent(
    ready: Lake, tmp_path: Path
) -> None:
    found = []
    for number in range(4):
        other = narrow(tmp_path / str(number), about={"number": number})
        score(ready, approved(root_of(ready), other), DAY)
        found.append(publish(ready, keep=2).version)

    left = [manifest.version for manifest in snapshots_of(ready).versions()]

    assert left == found[-2:]
    assert snapshots_of(ready).current() == found[-1]
    Version.open(snapshots_of(ready), found[-2]).verify()


def test_collection_spares_a_parent_that_is_older_than_what_is_kept(
    ready: Lake, tmp_path: Path
) -> None:
    served_version = publish(ready, DAY).version
    store = snapshots_of(ready)
    block(store)
    for number in range(3):  # Built and proved, and held.
        other = narrow(tmp_path / str(number), about={"number": number})
        score(ready, approved(root_of(ready), other), NEXT)
        assert not publish(ready, NEXT).swapped
    assert len(store.versions()) == 4
    unblock(store, why="the test goes on")
    last = narrow(tmp_path / "last", about={"number": "last"})
    score(ready, approved(root_of(ready), last), NEXT)

    published = publish(ready, NEXT, keep=2)

    left = {manifest.version for manifest in store.versions()}
    assert {served_version, published.version} <= left
    assert len(left) == 3


def test_what_a_killed_publisher_left_is_cleaned_away(ready: Lake) -> None:
    store = snapshots_of(ready)
    for name in (".building-2026-01-01-0123", ".building-half"):
        (store.folder / name).mkdir(parents=True)
        (store.folder / name / "shard=00.arrow").write_bytes(b"half of it")

    publish(ready)

    assert sorted(p.name for p in store.folder.iterdir() if p.is_dir()) == [
        f"v={store.current()}"
    ]


def test_a_version_left_without_a_swap_is_built_anew(ready: Lake) -> None:
    version = publish(ready).version
    store = snapshots_of(ready)
    (store.folder / CURRENT).unlink()
    broken = store.version_folder(version) / "shard=00.arrow"
    broken.unlink()

    again = publish(ready)

    # Under a name of its own: a reader may still hold the other.
    assert (again.swapped, again.version) == (True, f"{version}-2")
    Version.current(store).verify()
