"""What can't be proved is not served: yesterday's version stays, byte for byte."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import (
    BatchAssetsError,
    CorruptPartError,
    GateError,
    LakeError,
    SnapshotError,
)
from batch_assets.lake.parts import open_part
from batch_assets.lake.seal import seal_of
from batch_assets.lake.shards import hash_keys
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.snapshots.version import Version
from batch_assets_tests.crash import kinds_of
from batch_assets_tests.parts_by_hand import rewritten
from batch_assets_tests.publishing import (
    KINDS,
    NEXT,
    OPEN,
    ROWS,
    Kind,
    approved,
    publish,
    revoke,
    root_of,
    score,
    served,
    snapshots_of,
)
from batch_assets_tests.toys import (
    DAY,
    NAME,
    SHARDS,
    copy_rows,
    expected_risk,
    make_rows,
    read_day,
    validate,
)


@pytest.mark.parametrize(
    ("gate", "limits"),
    [
        ("quarantine_share_is_within_limit", {"max_quarantine_share": 0}),
        ("dead_letter_share_is_within_limit", {"max_dead_letter_share": 0}),
        ("coverage_is_within_limit", {"min_coverage": 1}),
    ],
)
def test_a_limit_that_is_not_kept_keeps_yesterday(
    ready: Lake, gate: str, limits: dict[str, float]
) -> None:
    publish(ready, DAY)
    before = served(ready)

    with pytest.raises(GateError, match=rf"^1 of 14 gates of {NEXT}(?s:.*){gate}"):
        publish(ready, NEXT, gates=OPEN.model_copy(update=limits))

    assert served(ready) == before


@pytest.fixture(params=kinds_of(KINDS, fast="numbers"))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def kind_of(release: Release) -> Kind:
    """What a release is of."""
    return KINDS["rankings" if release.contract.inputs else "numbers"]


def drift(lake: Lake, release: Release, tmp_path: Path) -> None:
    """Score it again by a release that was approved on other scores."""
    values = expected_risk(make_rows(2_000)) / 100
    write_release = kind_of(release).write_release
    other = write_release(tmp_path / "other", reference={"risk": values})
    score(lake, approved(root_of(lake), other), NEXT)


def unapproved(lake: Lake, release: Release, tmp_path: Path) -> None:
    write_release = kind_of(release).write_release
    other = write_release(tmp_path / "other", about={"author": "nobody asked"})
    Registry(root_of(lake)).add(other.folder)
    score(lake, other, NEXT)


def tamper_with_the_release(lake: Lake, release: Release, tmp_path: Path) -> None:
    folder = root_of(lake) / "models" / NAME / release.digest
    path = folder / release.manifest.model.file
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")


def truncate(lake: Lake, release: Release, tmp_path: Path) -> None:
    path = lake.predictions.paths(NEXT)[0]
    path.write_bytes(path.read_bytes()[:-1])


def unlink(lake: Lake, release: Release, tmp_path: Path) -> None:
    lake.predictions.paths(NEXT)[0].unlink()


def flip_a_bit(lake: Lake, release: Release, tmp_path: Path, column: int = 1) -> None:
    path = lake.predictions.paths(NEXT)[0]
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(column)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


def flip_a_bit_of_a_key(lake: Lake, release: Release, tmp_path: Path) -> None:
    flip_a_bit(lake, release, tmp_path, column=0)


def double_a_key(lake: Lake, release: Release, tmp_path: Path) -> None:
    """As many rows as the receipt says, but one twice and one not at all."""
    path = lake.predictions.paths(NEXT)[0]
    table = pq.read_table(path, partitioning=None)
    rewritten(path, pa.concat_tables([table[:1], table[:-1]]))


def leave_the_range(lake: Lake, release: Release, tmp_path: Path) -> None:
    path = lake.predictions.paths(NEXT)[0]
    table = pq.read_table(path, partitioning=None)
    risk = pa.array([1.5] * len(table), pa.float32())
    rewritten(path, table.set_column(1, "risk", risk))


def mix_releases(lake: Lake, release: Release, tmp_path: Path) -> None:
    path = lake.predictions.paths(NEXT)[0]
    table = pq.read_table(path, partitioning=None)
    stamps = pa.array(["0" * 64] * len(table), pa.string())
    at = table.schema.get_field_index("model_version")
    rewritten(path, table.set_column(at, "model_version", stamps))


def lose_a_shard(lake: Lake, release: Release, tmp_path: Path) -> None:
    parts = [p for p in lake.predictions.parts(NEXT) if p.receipt.shard != 2]
    commit = lake.predictions.last_commit(NEXT)
    assert commit is not None
    schema = release.contract.prediction_schema()
    lake.predictions.commit_day(NEXT, parts, schema, commit.facts)


def validate_again(lake: Lake, release: Release, tmp_path: Path) -> None:
    """New raw rows, validated but not scored: the predictions are of the old ones."""
    contract, rows = release.contract, kind_of(release).rows(NEXT)
    copy_rows(lake, rows.slice(0, ROWS - 1), day=NEXT, contract=contract)
    validate(lake, day=NEXT, contract=contract)


@pytest.mark.parametrize(
    "harm",
    [
        drift,
        revoke,
        unapproved,
        tamper_with_the_release,
        truncate,
        unlink,
        flip_a_bit,
        flip_a_bit_of_a_key,
        double_a_key,
        leave_the_range,
        mix_releases,
        lose_a_shard,
        validate_again,
    ],
)
def test_a_day_that_can_not_be_proved_keeps_yesterday_byte_for_byte(
    ready: Lake,
    narrow_release: Release,
    tmp_path: Path,
    harm: Callable[[Lake, Release, Path], None],
) -> None:
    publish(ready, DAY)
    before = served(ready)
    harm(ready, narrow_release, tmp_path)

    with pytest.raises(BatchAssetsError):
        publish(ready, NEXT)

    assert served(ready) == before
    key = read_day(ready, "predictions")["user_id"][0].as_py()
    assert Version.current(snapshots_of(ready)).get(key) is not None


def test_a_day_without_predictions_is_not_published(ready: Lake) -> None:
    with pytest.raises(LakeError, match="predictions has no 2026-02-01"):
        publish(ready, "2026-02-01")


@pytest.mark.parametrize("lost", [0, 2, SHARDS - 1], ids=["first", "inner", "last"])
def test_a_shard_that_is_missing_is_refused_even_if_it_had_no_rows(
    root: Path, kind: str, narrow_release: Release, lost: int
) -> None:
    lake, contract = Lake(root, NAME), narrow_release.contract
    approved(root, narrow_release)
    rows = KINDS[kind].rows(DAY)[2:]
    kept = hash_keys(rows["user_id"]) % np.uint64(SHARDS) != lost
    copy_rows(lake, rows.filter(pa.array(kept)), contract=contract)
    validate(lake, contract=contract)
    score(lake, narrow_release, DAY)
    parts = lake.predictions.parts(DAY)
    commit = lake.predictions.last_commit(DAY)
    assert commit is not None
    lake.predictions.commit_day(
        DAY,
        [part for part in parts if part.receipt.shard != lost],
        narrow_release.contract.prediction_schema(),
        commit.facts,
    )

    with pytest.raises(SnapshotError, match="shards"):
        publish(lake)

    assert snapshots_of(lake).current() is None


def test_a_rewritten_predictions_file_is_not_taken_for_what_was_committed(
    ready: Lake,
) -> None:
    path = ready.predictions.paths(DAY)[0]
    table = pq.read_table(path, partitioning=None)
    risk = pc.multiply(table["risk"], pa.scalar(0.5, pa.float32()))
    rewritten(path, table.set_column(1, "risk", risk))

    with pytest.raises(CorruptPartError, match="bytes, .* were committed"):
        publish(ready)


@pytest.mark.parametrize(
    ("sealed_again", "said"), [(False, "hashes to"), (True, "not the bytes that were")]
)
def test_bytes_that_no_reader_would_miss_are_missed_by_the_publisher(
    ready: Lake, sealed_again: bool, said: str
) -> None:
    """A statistic of the footer, say: the rows still read as they were."""
    path = ready.predictions.paths(DAY)[0]
    part, rows = open_part(path)[0], pq.read_table(path, partitioning=None)
    change_unseen(path, rows)
    if sealed_again:
        with path.open("r+b") as file:
            digest, at = seal_of(file)
            file.seek(at)
            file.write(digest.encode())
    found = open_part(path)[0]
    assert (found.size, found.receipt) == (part.size, part.receipt)

    with pytest.raises(CorruptPartError, match=said):
        publish(ready)

    assert snapshots_of(ready).current() is None


def change_unseen(path: Path, rows: pa.Table) -> None:
    """Flip a bit of the footer after which the part opens and reads as before."""
    whole = path.read_bytes()
    for at in range(len(whole) - 9, 0, -1):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        try:
            same = pq.read_table(path, partitioning=None).equals(rows)
            if same and open_part(path)[0].sha256.encode() in whole:
                return
        except (CorruptPartError, OSError, ValueError, pa.ArrowException):
            continue
    raise AssertionError
