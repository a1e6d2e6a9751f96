"""Nights in a bucket behind a proxy of faults, and the audit that each has to pass.

The nights ask the proxy; whoever judges them asks the store itself.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore

from batch_assets.lake.parts import sealed_part
from batch_assets.lake.tables import Lake
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets.storage import ObjectPath, remove_tree
from batch_assets.storage.client import client_of
from batch_assets_tests.crash import KINDS, Ended, Zygote
from batch_assets_tests.faults.nights import (
    BEFORE,
    TABLES,
    Answers,
    answers_of,
    prepared,
)
from batch_assets_tests.faults.plan import FaultPlan
from batch_assets_tests.faults.proxy import Proxy
from batch_assets_tests.seaweed import BUCKET
from batch_assets_tests.toys import DAY, NAME

Seals = dict[str, list[tuple[str, int, str]]]


@dataclass
class BucketStage:
    """What all nights start from, and how they must end."""

    zygote: Zygote
    proxy: Proxy
    start: ObjectPath
    seals: Seals
    answers: dict[str, Answers]
    requests: list[str]
    numbers: Iterator[int]

    def root(self) -> ObjectPath:
        """A prefix on which the day before is served."""
        root = ObjectPath(BUCKET, f"faults/{next(self.numbers)}")
        client = client_of(BUCKET)
        for listed in obstore.list(client, f"{self.start.key}/"):
            for one in listed:
                rest = one["path"].removeprefix(self.start.key)
                obstore.copy(client, one["path"], f"{root.key}{rest}")
        return root

    def night(
        self, root: ObjectPath, plan: FaultPlan | None = None, **changes: Any
    ) -> Ended:
        """Make the day and publish it, as a run that has claimed it."""
        self.proxy.begin(plan or FaultPlan(0, share=0.0))
        changes = {"publish": DAY, "both": True, "claim": "a-run"} | changes
        return self.zygote.night(root, **changes)

    def must_serve_a_whole_version(self, root: ObjectPath) -> str:
        """Return the day that is served; its answers are those that its night gave."""
        store = SnapshotStore(root, NAME)
        version = Version.current(store)
        version.verify()
        assert answers_of(version) == self.answers[version.manifest.day]
        return version.manifest.day

    def must_be_whole(self, root: ObjectPath) -> None:
        """The day is that of an undisturbed night, to the byte, and it is served."""
        assert seals_of(root) == self.seals
        assert Lake(root, NAME).books(DAY).closed
        assert self.must_serve_a_whole_version(root) == DAY
        acts, unreadable = SnapshotStore(root, NAME).history()
        assert not unreadable
        assert [a.version[:10] for a in acts if a.act == "publish"][-1] == DAY


def seals_of(root: ObjectPath) -> Seals:
    """The parts of the day, each hashed now as it lies in the store."""
    lake = Lake(root, NAME)
    return {
        table: [
            (part.path.name, part.size, sealed_part(part.path).sha256)
            for part in getattr(lake, table).parts(DAY)
        ]
        for table in TABLES
    }


def survive(stage: BucketStage, plan: FaultPlan) -> tuple[Ended, list[str]]:
    """Make a night that meets faults, judge how it ended, and make it again without."""
    root = stage.root()
    ended = stage.night(root, plan)
    met = stage.proxy.faults.met
    told = f"replay with {plan}; met: {met}; it ended: {ended.error}: {ended.message}"
    assert not ended.killed, told
    try:
        assert stage.must_serve_a_whole_version(root) in (BEFORE, DAY)
        if ended.well:
            stage.must_be_whole(root)
        assert ended.well or ended.known, "no clear refusal"
        after = stage.night(root)
        assert after.well, f"{after.error}: {after.message}"
        stage.must_be_whole(root)
    except Exception as error:
        raise AssertionError(f"{error!r}; {told}") from error
    remove_tree(root)
    return ended, met


@contextmanager
def staged(
    folder: Path, proxy: Proxy, environment: dict[str, str]
) -> Iterator[BucketStage]:
    """A stage, for whose children `environment` says how to reach the proxy."""
    kind = KINDS["features"]
    project, start = folder / "project", ObjectPath(BUCKET, "faults/start")
    release = prepared(folder, start, kind)
    with Zygote(project, release.folder, environment) as zygote:
        made = zygote.night(start, day=BEFORE, publish=BEFORE, both=True)
        assert made.well, made
        stage = BucketStage(zygote, proxy, start, {}, {}, [], itertools.count())
        undisturbed = stage.root()
        ended = stage.night(undisturbed)
        assert ended.well, ended
        stage.requests = proxy.faults.labels
        stage.seals = seals_of(undisturbed)
        assert all(stage.seals.values())
        for day, root in ((BEFORE, start), (DAY, undisturbed)):
            stage.answers[day] = answers_of(Version.current(SnapshotStore(root, NAME)))
        yield stage
