"""What each released version left on disk is read by this one, and a later one's is refused."""

import hashlib
import json
import re
import shutil
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance

from batch_assets.alerts.record import AlertRecord
from batch_assets.errors import (
    BatchAssetsError,
    CorruptPartError,
    LakeError,
    ReleaseError,
    SnapshotError,
    TamperedReleaseError,
)
from batch_assets.formats import FORMATS, SINK, Format
from batch_assets.lake.overrides import Overrides
from batch_assets.lake.parts import RECEIPT
from batch_assets.lake.receipts import read_receipt
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.gates import GATES
from batch_assets.sinks.base import SinkVersion
from batch_assets.snapshots.reader import Snapshot
from batch_assets.snapshots.store import CURRENT
from batch_assets.spec import GateLimits
from batch_assets_tests.histories import NAME
from batch_assets_tests.projects import (
    FIRST,
    FLIGHTS,
    SECOND,
    THIRD,
    Project,
    errors_of,
    make_project,
)
from batch_assets_tests.trees import keep

TREES = sorted(keep.FOLDER.glob("[0-9]*.tar.gz"))
# Beside the rows of remote stores, which no tree holds.
ON_DISK = tuple(each for each in FORMATS if each is not SINK)


@pytest.fixture(params=TREES, ids=lambda tree: tree.name.removesuffix(".tar.gz"))
def kept(request, tmp_path, monkeypatch) -> Project:
    """A project whose root another version has written."""
    with tarfile.open(request.param) as tree:
        tree.extractall(tmp_path, filter="data")
    folder = tmp_path / "p"
    project = make_project(folder, tmp_path / "root", monkeypatch, [keep.PIPELINE])
    keep.write_days(folder)
    return project


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@dataclass(frozen=True)
class Place:
    """Where a format lies in a tree, as JSON that can be changed."""

    glob: str
    is_log: bool = False
    field: str = "format"

    def bodies(self, root: Path) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for path in sorted(root.glob(self.glob))
            for line in (
                path.read_text("utf-8").splitlines()
                if self.is_log
                else [path.read_text("utf-8")]
            )
        ]

    def set(self, root: Path, version: int) -> None:
        """Let the last of them be of another version."""
        path = sorted(root.glob(self.glob))[-1]
        body = self.bodies(root)[-1] | {self.field: version}
        text = json.dumps(body)
        if self.is_log:
            others = path.read_text("utf-8").splitlines()[:-1]
            text = "\n".join([*others, text]) + "\n"
        path.write_text(text, encoding="utf-8")


PLACES = {
    "release": Place("models/*/*/release.json", field="version"),
    "signatures": Place("models/*/*/release.sig"),
    "approval": Place("models/*/approvals.jsonl", is_log=True),
    "comparison": Place("models/*/comparisons/*.json", field="version"),
    "override": Place("lake/*/overrides.jsonl", is_log=True),
    "version of a snapshot": Place("snapshots/*/v=*/manifest.json"),
    "history of a snapshot": Place("snapshots/*/history.jsonl", is_log=True),
    "denylist": Place("snapshots/*/denylist.json"),
    "record of alerts": Place("alerts/*/alerts.jsonl", is_log=True),
}


def test_there_is_a_tree_of_every_version() -> None:
    """What is being made, the changelog's `Unreleased`, has none yet."""
    project = tomllib.loads((FLIGHTS / "pyproject.toml").read_text("utf-8"))["project"]
    changes = (FLIGHTS / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(
        r"^## (\d+\.\d+\.\d+), \d{4}-\d\d-\d\d$", changes, re.MULTILINE
    )
    assert released[0] == project["version"]
    assert {f"{each}.tar.gz" for each in released} == {tree.name for tree in TREES}


@pytest.mark.parametrize("form", ON_DISK, ids=lambda form: form.name)
def test_a_tree_holds_every_format(kept: Project, form: Format) -> None:
    if place := PLACES.get(form.name):
        found = [body.get(place.field, 1) for body in place.bodies(kept.root)]
    elif form.name == "receipt":
        parts = kept.root.glob("lake/*/predictions/**/*.parquet")
        notes = [pq.ParquetFile(path).metadata.metadata for path in parts]
        found = [json.loads(each[RECEIPT])["body"].get("format", 1) for each in notes]
    else:
        lines = [
            json.loads(line)
            for path in kept.root.glob("lake/*/predictions/_delta_log/*.json")
            for line in path.read_text("utf-8").splitlines()
        ]
        commits = [line["commitInfo"] for line in lines if "commitInfo" in line]
        facts = [json.loads(each.get("batch_assets", "{}")) for each in commits]
        found = [each.get("format", 1) for each in facts if each]
    assert found
    assert {form.refusal(version) for version in found} == {None}


def test_it_answers_what_it_answered(kept: Project) -> None:
    served = json.loads((kept.root / "served.json").read_text("utf-8"))
    with Snapshot(kept.snapshots(NAME).folder) as snapshot:
        for key, before in served.items():
            answer = snapshot.get(int(key))
            assert answer is not None
            shown = json.loads(json.dumps(answer.to_dict()))
            # Its time is over by now, and it is older.
            changes = {"age", "is_stale", "overrides"}
            assert {k: v for k, v in shown.items() if k not in changes} == {
                k: v for k, v in before.items() if k not in changes
            }


def test_its_books_close_and_its_records_are_read(kept: Project) -> None:
    lake, registry = kept.lake(NAME), kept.registry
    for day in (FIRST, SECOND, THIRD):
        evidence = DayEvidence.of_day(lake, registry, day, GateLimits(min_coverage=0.8))
        verdicts = {gate.name: gate.verdict(evidence).passed for gate in GATES}
        shut = {name for name, passed in verdicts.items() if not passed}
        assert shut == ({keep.GATE} if day == THIRD else set())

    (override,) = Overrides(lake.folder).entries()
    entries, unreadable = kept.snapshots(NAME).history()
    alerts, _ = AlertRecord(kept.root, NAME).read()
    compared = registry.comparisons(NAME)
    (comparison,) = [compared.find(digest) for digest in compared.digests()]

    assert (override.day, override.gate, override.by) == (THIRD, keep.GATE, "ada")
    assert [entry.act for entry in entries] == [*["publish"] * 3, "deny"]
    assert unreadable == []
    assert alerts.open
    assert [day.day for day in comparison.days] == [FIRST, SECOND]
    assert [event.by for event in registry.events(NAME)] == ["ada"]
    for digest in registry.digests(NAME):
        registry.verify(NAME, digest)


def test_nights_go_on_from_it(kept: Project, instance: DagsterInstance) -> None:
    assert kept.run(NAME, keep.FOURTH, instance).success

    with Snapshot(kept.snapshots(NAME).folder) as snapshot:
        assert snapshot.manifest.day == keep.FOURTH
        assert "overrides" not in snapshot.get(1).to_dict()


READS: dict[str, tuple[Callable[[Project], object], type[BatchAssetsError]]] = {
    "approval": (lambda kept: kept.registry.events(NAME), TamperedReleaseError),
    "comparison": (
        lambda kept: [
            compared.find(digest)
            for compared in [kept.registry.comparisons(NAME)]
            for digest in compared.digests()
        ],
        TamperedReleaseError,
    ),
    "version of a snapshot": (
        lambda kept: Snapshot(kept.snapshots(NAME).folder),
        SnapshotError,
    ),
    "denylist": (lambda kept: kept.snapshots(NAME).denylist(), SnapshotError),
}


def later(name: str, kept: Project) -> None:
    """Let one thing in a tree be of the next version of its format."""
    (form,) = [form for form in FORMATS if form.name == name]
    PLACES[name].set(kept.root, form.version + 1)


@pytest.mark.parametrize("name", READS)
def test_what_a_newer_version_wrote_is_refused(kept: Project, name: str) -> None:
    later(name, kept)
    read, error = READS[name]

    with pytest.raises(error, match="a newer batch-assets wrote it"):
        read(kept)


def test_a_newer_release_is_refused_before_its_files_are_looked_at(
    kept: Project, tmp_path: Path
) -> None:
    later("release", kept)
    newest = sorted(kept.root.glob(PLACES["release"].glob))[-1].parent
    shutil.copytree(newest, tmp_path / "newer")

    with pytest.raises(ReleaseError, match="reads 1: a newer batch-assets wrote it"):
        kept.registry.add(tmp_path / "newer")


def test_newer_lines_open_no_gate_and_let_nothing_be_published(
    kept: Project, caplog: pytest.LogCaptureFixture
) -> None:
    later("override", kept)
    assert Overrides(kept.lake(NAME).folder).entries() == []
    assert "line 1 can't be read, and opens nothing" in caplog.text

    later("history of a snapshot", kept)
    with pytest.raises(SnapshotError, match=r"lines \[4\] can't be read"):
        kept.snapshots(NAME).withdrawn()

    later("record of alerts", kept)
    _, unreadable = AlertRecord(kept.root, NAME).read()
    assert len(unreadable) == 1


def test_a_newer_receipt_is_no_damage_that_is_healed(kept: Project) -> None:
    part = kept.lake(NAME).predictions.paths(FIRST)[0]
    body = json.loads(pq.ParquetFile(part).metadata.metadata[RECEIPT])["body"]
    (form,) = [each for each in FORMATS if each.name == "receipt"]
    body["format"] = form.version + 1
    text = json.dumps(body, sort_keys=True)
    data = {"body": body, "digest": hashlib.sha256(text.encode()).hexdigest()}

    with pytest.raises(LakeError, match="a newer batch-assets wrote it") as refused:
        read_receipt(json.dumps(data).encode())
    assert not isinstance(refused.value, CorruptPartError)


def test_a_newer_commit_is_not_taken_for_another_day(
    kept: Project, instance: DagsterInstance
) -> None:
    log = kept.root / "lake" / NAME / "predictions" / "_delta_log"
    # Of a day whose gates are open, whatever time it is.
    begins = r'"batch_assets":"{\"'
    day = rf"{begins}day\": \"{SECOND}"
    (path,) = [one for one in log.glob("*.json") if day in one.read_text("utf-8")]
    changed = path.read_text("utf-8").replace(begins, rf"{begins}format\": 9, \"")
    path.write_text(changed, encoding="utf-8")

    night = kept.run(NAME, SECOND, instance)

    assert not night.success
    assert "a newer batch-assets wrote it" in errors_of(night)


def test_an_older_snapshot_says_what_makes_it_anew(
    kept: Project, instance: DagsterInstance
) -> None:
    PLACES["version of a snapshot"].set(kept.root, 1)

    again = f"run its day again: batch-assets run {NAME} --day {THIRD}"
    with pytest.raises(SnapshotError, match=again):
        Snapshot(kept.snapshots(NAME).folder)

    # What the sentence says, of the night before, whose gates are open.
    store = kept.snapshots(NAME)
    _, second, third = store.version_names()
    shutil.rmtree(store.folder / f"v={third}")
    store.overwrite(CURRENT, second)
    PLACES["version of a snapshot"].set(kept.root, 1)
    assert kept.run(NAME, SECOND, instance).success
    with Snapshot(store.folder) as snapshot:
        assert snapshot.manifest.day == SECOND


def test_a_newer_version_in_a_remote_store_is_refused() -> None:
    with pytest.raises(ValueError, match="reads 1: a newer batch-assets wrote it"):
        SinkVersion.model_validate({"format": 2, "manifest": None, "types": ()})


@pytest.mark.parametrize("found", [0, -1, True, "2", 1.5, [1]])
def test_what_is_no_version_is_named(found: object) -> None:
    for form in FORMATS:
        assert repr(found) in str(form.refusal(found))
    assert {form.refusal(None if form.oldest == 1 else 2) for form in FORMATS} == {None}
