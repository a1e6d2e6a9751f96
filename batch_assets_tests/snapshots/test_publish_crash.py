"""A publisher that is killed, starved or not alone leaves the old version or the new one.

Each disturbed publisher runs in a child process on a root of its own. A reader that was
open all the time, and one that is opened after it, answer from one whole version; the
next publisher ends as an undisturbed one. Of rankings one item is denied, so that what is
held behind those that are shown is read, too.
"""

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batch_assets import Snapshot
from batch_assets.lake.tables import Lake
from batch_assets.snapshots.deny import deny
from batch_assets.snapshots.judges import equals_predictions
from batch_assets.snapshots.operations import rollback
from batch_assets.snapshots.version import Version
from batch_assets_tests.crash import Ended, Zygote, kinds_of, publish
from batch_assets_tests.histories import ITEMS, K
from batch_assets_tests.publishing import (
    BEFORE,
    KINDS,
    NEXT,
    score_days,
    snapshots_of,
)
from batch_assets_tests.toys import DAY, NAME, SHARDS, read_day

Answers = dict[int, dict[str, Any]]
DENIED = ITEMS[0]


@dataclass
class Stage:
    """What all publishers start from: three scored days, of which two are published."""

    folder: Path
    zygote: Zygote
    start: Path
    expected: dict[str, Answers]
    undisturbed: Ended
    numbers: Iterator[int]
    built: int = 0

    def lake(self) -> Lake:
        root = self.folder / f"root-{next(self.numbers)}"
        # Links stay links: a version may share files with the one before.
        shutil.copytree(self.start, root, copy_function=os.link)
        for path in (root / "snapshots" / NAME).iterdir():
            if path.is_file():  # What is written in place of a link must be a file.
                data = path.read_bytes()
                path.unlink()
                path.write_bytes(data)
        return Lake(root, NAME)

    def publish(self, lake: Lake, **changes: object) -> Ended:
        root = lake.folder.parent.parent
        return self.zygote.night(root, publish=NEXT, **changes)

    def answers_of(self, reader: Snapshot | Version) -> str:
        """The day of which a reader's every answer is; all of them are asked for."""
        keys = sorted({key for answers in self.expected.values() for key in answers})
        found = reader.get_many(keys)
        days = {answer.day for answer in found if answer}
        assert len(days) == 1, days
        (day,) = days
        told = {a.key: a.outputs for a in found if a}
        assert told == self.expected[day]
        return day

    def must_end_well(self, lake: Lake) -> None:
        """The next publisher serves the day, and leaves nothing half made."""
        store = snapshots_of(lake)
        publish(lake.folder.parent.parent, NEXT, guard=lambda: None)
        with Snapshot(store) as reader:
            assert self.answers_of(reader) == NEXT
        assert equals_predictions(lake, store, NEXT).passed
        assert not [
            p.name for p in store.folder.iterdir() if p.name.startswith((".b", ".r"))
        ]
        there = [manifest.version for manifest in store.versions()]
        assert sorted(p.name[2:] for p in store.folder.glob("v=*")) == sorted(there)
        for version in there:
            Version.open(store, version).verify()


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """What a reader is to be told of a row of predictions."""
    outputs = {
        name: value
        for name, value in row.items()
        if name not in ("user_id", "model_name", "model_version")
    }
    if (scores := outputs.pop("next_items_scores", None)) is not None:
        ranked = zip(outputs["next_items"], scores, strict=True)
        left = [(item, score) for item, score in ranked if item != DENIED]
        outputs["next_items"] = left[:K]
    return outputs


@pytest.fixture(scope="module", params=kinds_of(KINDS, fast="numbers"))
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    kind = KINDS[request.param]
    folder = tmp_path_factory.mktemp("publishers")
    start = folder / "start"
    release = kind.write_release(folder / "release")
    # The same rows on two days: some shards are linked, others are built.
    rows = {BEFORE: kind.rows(BEFORE), DAY: kind.rows(DAY)}
    rows[NEXT] = rows[DAY].slice(0, len(rows[DAY]) - 1)
    score_days(start, release, rows)
    lake = Lake(start, NAME)
    for day in (BEFORE, DAY):
        publish(start, day, guard=lambda: None)
    deny(snapshots_of(lake), [DENIED], why="a recall", by="ada")
    expected = {
        day: {
            row["user_id"]: shown(row)
            for row in read_day(lake, "predictions", day).to_pylist()
        }
        for day in rows
    }
    with Zygote(folder, release.folder) as zygote:
        stage = Stage(folder, zygote, start, expected, Ended(0), itertools.count())
        lake = stage.lake()
        stage.undisturbed = stage.publish(lake)
        assert stage.undisturbed.well, stage.undisturbed
        newest = snapshots_of(lake).versions()[-1]
        stage.built = max(f.size for f in newest.files if not f.linked_from)
        yield stage


def test_an_undisturbed_publisher_links_builds_swaps_and_collects(stage: Stage) -> None:
    """So that a kill at each of its steps is a kill in each of these."""
    kinds = {label.rpartition(" ")[0] for label in stage.undisturbed.steps}
    assert {
        "before guard",
        "before pyarrow.ipc.new_file",
        "before Path.hardlink_to",
        "before Path.chmod",
        "before Path.write_text",
        "before Path.rename",
        "before Path.replace",
        "before os.fsync",
        "before shutil.rmtree",
    } <= kinds


def kill(stage: Stage, die_at: int | str) -> str:
    lake = stage.lake()
    store = snapshots_of(lake)
    with Snapshot(store, poll_seconds=0.01) as reader:
        assert stage.answers_of(reader) == DAY
        ended = stage.publish(lake, die_at=die_at)
        assert ended.killed == signal.SIGKILL, ended
        with Snapshot(store) as fresh:
            day = stage.answers_of(fresh)
        assert day in (DAY, NEXT)
        assert reader.refresh(), reader.problem
        assert stage.answers_of(reader) == day
        acts, unreadable = store.history()
        assert not unreadable
        if day == NEXT:
            assert acts[-1].act in ("publish", "collect")
        # An operator gets through whatever was left.
        if day == NEXT:
            assert rollback(store, why="it was killed").served
            shutil.rmtree(store.folder)
            shutil.copytree(stage.start / "snapshots" / NAME, store.folder)
        stage.must_end_well(lake)
        assert reader.refresh()
        assert stage.answers_of(reader) == NEXT
    shutil.rmtree(lake.folder.parent.parent)
    return day


@pytest.mark.slow
def test_killed_at_each_kind_of_step_a_publisher_leaves_the_old_or_the_new(
    stage: Stage,
) -> None:
    first: dict[str, str] = {}
    for label in stage.undisturbed.steps:
        first.setdefault(label.rpartition(" ")[0], label)
    days = {label: kill(stage, label) for label in first.values()}
    assert set(days.values()) == {DAY, NEXT}


@pytest.mark.crash
@pytest.mark.timeout(14_400)
def test_killed_at_every_step_a_publisher_leaves_the_old_or_the_new(
    stage: Stage,
) -> None:
    count = len(stage.undisturbed.steps)
    assert count > 40
    days = [kill(stage, number) for number in range(1, count + 1)]
    # Threads take their turns, but the swap is the only change of what is served.
    assert days == sorted(days)
    assert set(days) == {DAY, NEXT}


@pytest.mark.slow
def test_a_full_disk_keeps_what_is_served_and_says_what_to_do(stage: Stage) -> None:
    lake = stage.lake()
    store = snapshots_of(lake)
    for limit in (100, stage.built // 2, stage.built - 8):
        ended = stage.publish(lake, file_limit=limit)
        assert (ended.error, ended.known) == ("SnapshotError", True), ended
        assert "Make room, or give the permission" in ended.message
        assert "what was served is still served" in ended.message
        with Snapshot(store) as reader:
            assert stage.answers_of(reader) == DAY

    stage.must_end_well(lake)


@pytest.mark.slow
def test_two_publishers_at_once_end_in_one_whole_version(stage: Stage) -> None:
    lake = stage.lake()
    root = lake.folder.parent.parent

    started = [stage.zygote.start(root, publish=day) for day in (NEXT, DAY, NEXT)]
    ended = [one.result(timeout=600) for one in started]

    assert all(one.well for one in ended), ended
    stage.must_end_well(lake)
    assert sum(a.act == "publish" for a in snapshots_of(lake).history()[0]) == 3


@pytest.mark.slow
def test_a_clock_that_went_back_keeps_what_is_served(stage: Stage) -> None:
    """A day ago by its clock, the new version is older than all others."""
    lake = stage.lake()
    store = snapshots_of(lake)

    ended = stage.publish(lake, clock=-86_400.0)

    assert ended.well, ended
    with Snapshot(store) as reader:
        assert stage.answers_of(reader) == NEXT
    current = store.current()
    assert current is not None
    assert store.version_folder(current).is_dir()
    assert len(store.versions()[0].files) == SHARDS
    stage.must_end_well(lake)
