"""Snapshots without a night: versions of any rows, as the publisher writes them."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batch_assets.lake.books import Tally
from batch_assets.lake.shards import content, hash_keys, shard_of
from batch_assets.serving.manifest import (
    MANIFEST,
    ShardFile,
    SnapshotManifest,
    version_folder,
)
from batch_assets.serving.pointers import CURRENT, point
from batch_assets.serving.version import KEY_HASH

DAYS = ["2026-01-05", "2026-01-06", "2026-01-07", "2026-01-08"]
HUGE = [2**62 + 1, 2**53 + 1, 2**53 + 2, 2**63 - 1, -(2**63), 0, -1]
WORDS = ["", "0", "-1", "naïve", "a" * 300, "with space", "quote'\"\\", "tab\tline\r\n"]
TYPES = {"risk": "f4", "value": "f8", "band": "i4", "visits": "i8"}


def make_keys(count: int, key_dtype: str = "int64") -> pa.Array:
    """Distinct keys, the odd ones first."""
    if key_dtype == "string":
        return pa.array([*WORDS, *(f"user-{n}" for n in range(count - len(WORDS)))])
    return pa.array([*HUGE, *range(1_000, 1_000 + count - len(HUGE))], pa.int64())


def make_outputs(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Outputs of every type, with any bits: tiny, huge, negative, minus zero."""
    random = np.random.default_rng(seed)
    outputs = {}
    for name, dtype in TYPES.items():
        bits = random.integers(0, 256, count * int(dtype[1]), dtype=np.uint8)
        values = bits.view(dtype)
        outputs[name] = np.where(np.isfinite(values), values, -0.0).astype(dtype)
    return outputs


def publish_rows(
    snapshots: Path,
    day: str,
    keys: pa.Array,
    outputs: dict[str, np.ndarray],
    *,
    shards: int = 4,
    serve: bool = True,
) -> str:
    """Write a version of these rows, and serve it: its name."""
    hashes = hash_keys(keys)
    strings = pa.types.is_string(keys.type)
    digest = hashlib.sha256(hashes.tobytes())
    for values in outputs.values():
        digest.update(values.tobytes())
    version = f"{day}-{digest.hexdigest()[:12]}"
    folder = version_folder(snapshots, version)
    folder.mkdir(parents=True)
    numbers = shard_of(hashes, shards)
    files = []
    for shard in range(shards):
        mine = np.flatnonzero(numbers == shard)
        order = hashes[mine] if strings else keys.take(pa.array(mine)).to_numpy()
        mine = mine[np.argsort(order, kind="stable")]
        columns: dict[str, Any] = {"user_id": keys.take(pa.array(mine))}
        if strings:
            columns["user_id"] = columns["user_id"].cast(pa.large_string())
        columns |= {name: pa.array(values[mine]) for name, values in outputs.items()}
        if strings:
            columns[KEY_HASH] = pa.array(hashes[mine])
        rows = pa.table(columns)
        path = folder / f"shard={shard:02d}.arrow"
        with (
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_file(sink, rows.schema) as out,
        ):
            out.write_table(rows, max_chunksize=max(len(rows), 1))
        data = path.read_bytes()
        tally = Tally.of_hashes(hashes[mine])
        sha = hashlib.sha256(data).hexdigest()
        files.append(
            ShardFile(
                name=path.name,
                size=len(data),
                sha256=sha,
                rows=tally.rows,
                keys=tally.keys,
                content=content(hashes[mine], [v[mine] for v in outputs.values()]),
                raw_rows=tally.rows,
            )
        )
    manifest = SnapshotManifest(
        pipeline=snapshots.name,
        version=version,
        day=day,
        created_at=datetime.now(UTC),
        stale_after_seconds=3600,
        key="user_id",
        key_dtype="string" if strings else "int64",
        outputs=tuple(outputs),
        model_name="toy",
        model_version="d" * 64,
        job="j" * 16,
        predictions="p" * 64,
        files=tuple(files),
    )
    (folder / MANIFEST).write_text(manifest.dumps(), encoding="utf-8")
    if serve:
        serve_version(snapshots, version)
    return version


def serve_version(snapshots: Path, version: str) -> None:
    """What a publish, or an operator who goes back, ends in."""
    point(snapshots, CURRENT, version)
