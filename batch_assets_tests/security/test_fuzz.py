"""Foreign bytes end in an error of ours, or are what they say: nothing else comes of them.

What hypothesis has found is an `@example` from then on. `make fuzz` looks for an hour.
"""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch_assets.errors import LakeError, ReleaseError, SnapshotError
from batch_assets.lake.parts import RECEIPT, open_part
from batch_assets.lake.receipts import (
    KINDS,
    DeadLettersReceipt,
    LayoutHint,
    OutputSummary,
    Pin,
    PredictionsReceipt,
    QuarantineReceipt,
    RawReceipt,
    Receipt,
    ValidatedReceipt,
)
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.seal import SHA256
from batch_assets.models.release import MANIFEST, Release, open_release
from batch_assets.online.access import Access
from batch_assets.online.http import Online
from batch_assets.online.metrics import Metrics
from batch_assets.online.pipelines import Served
from batch_assets.online.scoring import BadRequestError, Limits, LiveRelease
from batch_assets.scoring.device import find_device
from batch_assets.snapshots.manifest import DIGEST, SnapshotManifest, read_manifest
from batch_assets.snapshots.manifest import MANIFEST as SNAPSHOT_MANIFEST
from batch_assets.snapshots.manifest import _digest as digest_of
from batch_assets.snapshots.reader import Snapshot
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.security.fuzzing import DEEP, foreign, fuzzed, nearly
from batch_assets_tests.served import serve
from batch_assets_tests.services import GOOD
from batch_assets_tests.toys import DAY, NAME

# release.json


@pytest.fixture(scope="module")
def folder(toy_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("fuzzed") / "release"
    return Path(shutil.copytree(toy_release.folder, copy))


@pytest.fixture(scope="module")
def opened(folder: Path) -> Callable[[bytes], None]:
    """Opens the release with another manifest, unknown and as the one of its digest."""

    def opens(data: bytes) -> None:
        (folder / MANIFEST).write_bytes(data)
        for digest in (None, hashlib.sha256(data).hexdigest()):
            try:
                release = open_release(folder, digest)
            except ReleaseError:
                continue
            # What opens is usable as far as it goes without its model.
            assert release.contract.digest
            assert release.contract.raw_schema()
            assert set(release.manifest.model.files) <= set(release.manifest.files)
            assert release.read(release.manifest.golden.file)

    return opens


@fuzzed
@given(data=st.data())
def test_release_json(
    opened: Callable[[bytes], None], toy_release: Release, data: st.DataObject
) -> None:
    document = json.loads((toy_release.folder / MANIFEST).read_bytes())
    opened(data.draw(foreign(document)))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"{}", DEEP, b'{"a":' * 50_000, b'{"version": "x"}']
)
def test_release_json_of_no_sense(opened: Callable[[bytes], None], data: bytes) -> None:
    opened(data)


# The manifest of a served version


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    snapshots = tmp_path_factory.mktemp("fuzzed") / NAME
    manifest = serve(snapshots, 1, np.arange(1, 101))
    folder = SnapshotStore.at(snapshots).version_folder(manifest.version)
    assert isinstance(folder, Path)
    shutil.copy(folder / SNAPSHOT_MANIFEST, folder / "whole.json")
    return folder


def resealed(body: Any) -> bytes:
    """A manifest with a digest that fits, as one has who wants it to be read."""
    if isinstance(body, dict):
        body = {**body, DIGEST: digest_of(body)}
    return json.dumps(body).encode()


def read_manifest_of(folder: Path, data: bytes) -> SnapshotManifest:
    (folder / SNAPSHOT_MANIFEST).write_bytes(data)
    return read_manifest(folder, folder.name.removeprefix("v="))


def whole_manifest(folder: Path) -> bytes:
    """The manifest as it was before the first of these tests."""
    return (folder / "whole.json").read_bytes()


def reads(folder: Path, data: bytes) -> None:
    try:
        manifest = read_manifest_of(folder, data)
    except SnapshotError:
        return
    assert manifest.coverage >= 0
    assert len(manifest.by_shard) == len(manifest.files)
    assert isinstance(manifest.is_stale, bool)


@fuzzed
@given(data=st.data())
def test_manifest(version: Path, data: st.DataObject) -> None:
    body = json.loads(whole_manifest(version))
    del body[DIGEST]
    reads(version, data.draw(st.one_of(nearly(body).map(resealed), foreign(body))))


@pytest.mark.parametrize("count", ["size", "rows", "keys", "content", "raw_rows"])
def test_manifest_with_a_count_below_zero(version: Path, count: str) -> None:
    body = json.loads(whole_manifest(version))
    del body[DIGEST]
    body["files"][0][count] = -1
    with pytest.raises(SnapshotError, match=count):
        read_manifest_of(version, resealed(body))


@pytest.mark.parametrize(("rows", "why"), [(10**400, "less than"), (10**6, "raw rows")])
def test_manifest_that_answers_more_rows_than_came(
    version: Path, rows: int, why: str
) -> None:
    body = json.loads(whole_manifest(version))
    del body[DIGEST]
    body["files"][0]["rows"] = rows
    with pytest.raises(SnapshotError, match=why):
        read_manifest_of(version, resealed(body))


@pytest.mark.parametrize("seconds", [1e300, -1.0, float("inf"), float("nan")])
def test_manifest_that_is_stale_at_no_time(version: Path, seconds: float) -> None:
    body = json.loads(whole_manifest(version))
    del body[DIGEST]
    body["stale_after_seconds"] = seconds
    with pytest.raises(SnapshotError, match="stale_after_seconds"):
        read_manifest_of(version, resealed(body))


@pytest.mark.parametrize("data", [b"", DEEP, b'{"a":' * 50_000, b"[]", b"\xff", b"7"])
def test_manifest_of_no_sense(version: Path, data: bytes) -> None:
    with pytest.raises(SnapshotError, match="has no readable"):
        read_manifest_of(version, data)


@pytest.mark.parametrize("name", ["../../outside.arrow", "/etc/x.arrow", "a/b.arrow"])
def test_manifest_that_names_a_path(version: Path, name: str) -> None:
    body = json.loads(whole_manifest(version))
    del body[DIGEST]
    body["files"][0]["name"] = name
    with pytest.raises(SnapshotError, match=r"files\.0\.name"):
        read_manifest_of(version, resealed(body))


# The receipt in the footer of a part


OF = {"day": DAY, "shard": 1, "chunk": 0, "job": "a" * 64, "total": ControlTotal(2, 3)}
SUMMARY = OutputSummary(2, 1.0, 0.25, 0.75, [0, 1, 1], 1)
WHOLE: list[Receipt] = [
    RawReceipt(**OF, pinned=Pin("t", "id", 3, DAY, "day", "b" * 64)),
    ValidatedReceipt(
        **OF, raw="r", contract="c", rules={"x": 1}, hint=LayoutHint("o", [0], ["p"])
    ),
    QuarantineReceipt(**OF, raw="r", contract="c"),
    PredictionsReceipt(
        **OF,
        model=NAME,
        release="d",
        contract="c",
        validated="v",
        row_groups=(0, 1),
        dead="e",
        carried=ControlTotal(1, 1),
        content=7,
        outputs={"risk": SUMMARY},
        side={"s": "f"},
    ),
    DeadLettersReceipt(**OF, release="d", validated="v"),
]


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed") / "part.parquet"


def sealed(body: Any) -> bytes:
    text = json.dumps(body, sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest()
    return json.dumps({"body": body, "digest": digest}).encode()


def opens_part(path: Path, footer: bytes) -> None:
    notes = {RECEIPT: footer, SHA256: b"0" * 64}
    schema = pa.schema([("user_id", pa.int64())], notes)
    pq.write_table(pa.table({"user_id": [1, 2]}, schema=schema), path)
    try:
        found, file = open_part(path)
    except LakeError:  # Of a newer version it is not corrupt.
        return
    file.close()
    assert found.rows == 2
    must_be_typed(found.receipt)
    assert type(found.receipt) is KINDS[found.receipt.table]
    assert found.receipt.dumps()
    assert str(found.receipt.total)


def must_be_typed(thing: Any) -> None:
    """Its plain fields are of the types that their classes declare."""
    plain = {"str": str, "int": int, "float": float, "bool": bool}
    for field in fields(thing):
        value = getattr(thing, field.name)
        wanted = plain.get(getattr(field.type, "__name__", str(field.type)))
        assert wanted is None or isinstance(value, wanted), (field.name, value)
        if is_dataclass(value):
            must_be_typed(value)


@fuzzed
@given(data=st.data(), which=st.sampled_from(range(len(WHOLE))))
def test_receipt(part: Path, data: st.DataObject, which: int) -> None:
    record = json.loads(WHOLE[which].dumps())
    changed = nearly(record["body"]).map(sealed)
    opens_part(part, data.draw(st.one_of(changed, foreign(record))))


@pytest.mark.parametrize("whole", WHOLE, ids=lambda one: one.table)
def test_what_is_spoilt_here_was_whole(part: Path, whole: Receipt) -> None:
    notes = {RECEIPT: whole.dumps(), SHA256: b"0" * 64}
    schema = pa.schema([("user_id", pa.int64())], notes)
    pq.write_table(pa.table({"user_id": [1, 2]}, schema=schema), part)
    found, file = open_part(part)
    file.close()
    assert found.receipt == whole


@pytest.mark.parametrize("footer", [b"", DEEP, b"[]", b"7", b'{"body":[],"digest":""}'])
def test_receipt_of_no_sense(part: Path, footer: bytes) -> None:
    opens_part(part, footer)


# The bodies of requests


@pytest.fixture(scope="module")
def live(toy_release: Release) -> LiveRelease:
    """Reads and judges rows; its model's process is not started."""
    return LiveRelease(toy_release, find_device("cpu"), Limits(max_queue=100))


@pytest.fixture(scope="module")
def ask(
    version: Path, live: LiveRelease
) -> Iterator[Callable[[str, bytes], httpx.Response]]:
    """Asks the app itself, of the version that is served."""
    root = version.parents[1]
    served = Served(root, NAME, find_device("cpu"), Limits())
    shutil.copytree(version.parents[0], root / "snapshots" / NAME)
    target = root / "snapshots" / NAME / version.name
    shutil.move(target / "whole.json", target / SNAPSHOT_MANIFEST)
    with asyncio.Runner() as runner:
        served.snapshot = Snapshot(SnapshotStore(root, NAME))
        transport = httpx.ASGITransport(Online([served], Metrics(), Access()).app())
        client = httpx.AsyncClient(transport=transport, base_url="http://x")

        def asks(path: str, body: bytes) -> httpx.Response:
            return runner.run(client.post(path, content=body))

        yield asks
        runner.run(client.aclose())
        served.snapshot.close()


LOOKUP = {"keys": [1, 2, 10**9], "segments": ["a", None, 3]}


@fuzzed
@given(body=foreign(LOOKUP))
@example(body=DEEP)
@example(body=b'{"keys":[' + b"1," * 2_000 + b"1]}")
def test_body_of_a_lookup(
    ask: Callable[[str, bytes], httpx.Response], body: bytes
) -> None:
    answer = ask(f"/v1/{NAME}/lookup", body)
    assert answer.status_code in (200, 400, 413, 422)
    said = answer.json()
    assert ("answers" in said) == (answer.status_code == 200)
    assert ("error" in said) == (answer.status_code != 200)


@fuzzed
@given(body=foreign({"rows": [GOOD, GOOD]}))
@example(body=DEEP)
def test_body_of_a_score(live: LiveRelease, body: bytes) -> None:
    try:
        rows = live.rows(body)
    except BadRequestError:
        return
    # What is read can be judged: no row of it stops the others.
    split = live._rules.split(pl.DataFrame(live._table(rows)), live._nobody)
    assert len(split.good) + len(split.bad) == len(rows)


def test_the_manifest_that_is_spoilt_was_whole(version: Path) -> None:
    found = SnapshotManifest.loads(whole_manifest(version))
    assert version.name == f"v={found.version}"
