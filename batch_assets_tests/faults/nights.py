"""Nights that meet faults, and the audit that each of them has to pass.

A stage holds a root on which a day before is served. On copies of it a night of the next
day is made and published, in a process whose storage keeps to a plan of faults.
"""

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.quality.verdict_record import read_verdicts
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets.storage import StoragePath
from batch_assets_tests.crash import (
    KINDS,
    Ended,
    Kind,
    Zygote,
    doubled,
    seen,
)
from batch_assets_tests.faults.plan import FaultPlan
from batch_assets_tests.toys import DAY, NAME, write_source

BEFORE = "2026-01-04"
TABLES = (
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "predictions",
    "dead_letters",
)
Answers = dict[int, object]
Tables = dict[str, pa.Table | None]


@dataclass
class Stage:
    """What all nights start from, and how they must end.

    `again` is a root on which the day itself is served already, made of other rows;
    `before` what the tables hold of the day on the one and on the other.
    """

    folder: Path
    zygote: Zygote
    release: Release
    start: Path
    again: Path
    whole: Tables
    before: dict[bool, Tables]
    answers: dict[str, list[Answers]]
    undisturbed: Ended
    numbers: Iterator[int]

    def root(self, *, again: bool = False) -> Path:
        root = self.folder / "roots" / str(next(self.numbers))
        shutil.copytree(self.again if again else self.start, root)
        return root

    def night(self, root: Path, plan: FaultPlan | None = None) -> Ended:
        """Make the day and publish it, as a run that has claimed it."""
        return self.zygote.night(
            root,
            publish=DAY,
            both=True,
            claim="a-run",
            faults=plan.dumps() if plan else None,
        )

    def must_serve_a_whole_version(self, root: Path) -> str:
        """Return the day that is served; each answer is one that a night gave."""
        store = SnapshotStore(root, NAME)
        version = Version.open(store, store.must_serve())
        version.verify()
        day = version.manifest.day
        assert answers_of(version) in self.answers[day], "what is served nobody scored"
        return day

    def must_be_whole(self, root: Path) -> None:
        """The day is that of an undisturbed night, to the byte, and it is served."""
        for table, expected in self.whole.items():
            rows = seen(root, table)
            assert rows is not None, table
            assert rows.equals(expected), table
            assert not doubled(rows), table
        assert Lake(root, NAME).books(DAY).closed
        assert self.must_serve_a_whole_version(root) == DAY
        store = SnapshotStore(root, NAME)
        current = Version.open(store, store.must_serve())
        assert answers_of(current) == self.answers[DAY][0]
        acts, unreadable = store.history()
        assert not unreadable
        assert current.name in {a.version for a in acts if a.act == "publish"}
        judged = read_verdicts(Lake(root, NAME), DAY)
        assert judged is not None
        assert judged.predictions == current.manifest.predictions


def answers_of(version: Version) -> Answers:
    """What a version says of every key that it has."""
    found: Answers = {}
    for number in range(len(version.manifest.files)):
        for row in version.shard(number).table.to_pylist():
            key = row.pop(version.manifest.key)
            assert key not in found
            found[key] = repr(row)
    return found


def survive(stage: Stage, plan: FaultPlan, *, again: bool = False) -> Ended:
    """Make a night that meets faults, judge how it ended, and make it again without."""
    root = stage.root(again=again)
    ended = stage.night(root, plan)
    told = f"replay with {plan}, again={again}; met: {ended.faults}; it ended: {ended.error}: {ended.message}"
    assert not ended.killed, told
    served = stage.must_serve_a_whole_version(root)
    assert served in (BEFORE, DAY), told
    if ended.well:
        try:
            stage.must_be_whole(root)
        except AssertionError as error:
            raise AssertionError(
                f"called whole, and is not: {error}; {told}"
            ) from error
    else:
        assert ended.known, f"no clear refusal; {told}"
    after = stage.night(root)
    assert after.well, f"{after.error}: {after.message}; {told}"
    try:
        stage.must_be_whole(root)
    except AssertionError as error:
        raise AssertionError(f"not whole when run again: {error}; {told}") from error
    shutil.rmtree(root)
    return ended


def prepared(folder: Path, start: StoragePath, kind: Kind) -> Release:
    """Write a project with two days of rows; its release, approved under a root."""
    release = kind.write_release(folder / "release")
    registry = Registry(start)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it", by="ada")
    write_source(folder / "project", kind.rows(seed=2), day=BEFORE)
    kind.write_source(folder / "project")
    return release


@contextmanager
def staged(folder: Path, kind: Kind = KINDS["features"]) -> Iterator[Stage]:
    project, start, again = folder / "project", folder / "start", folder / "again"
    release = prepared(folder, start, kind)
    other = folder / "other"
    kind.write_source(other, seed=1)
    with Zygote(project, release.folder) as zygote:
        made = zygote.night(start, day=BEFORE, publish=BEFORE, both=True)
        assert made.well, made
        shutil.copytree(start, again)
        made = zygote.night(again, publish=DAY, both=True, project=other)
        assert made.well, made
        undisturbed = folder / "undisturbed"
        shutil.copytree(start, undisturbed)
        ended = zygote.night(
            undisturbed,
            publish=DAY,
            both=True,
            claim="a-run",
            faults=FaultPlan(0, share=0.0).dumps(),
        )
        assert ended.well, ended
        whole = tables_of(undisturbed)
        # Every table has something to lose.
        assert all(whole.values())
        before = {False: tables_of(start), True: tables_of(again)}
        answers = {
            BEFORE: [answers_of(current(start))],
            DAY: [answers_of(current(undisturbed)), answers_of(current(again))],
        }
        yield Stage(
            folder,
            zygote,
            release,
            start,
            again,
            whole,
            before,
            answers,
            ended,
            itertools.count(),
        )


def tables_of(root: Path) -> Tables:
    return {table: seen(root, table) for table in TABLES}


def current(root: Path) -> Version:
    return Version.current(SnapshotStore(root, NAME))
