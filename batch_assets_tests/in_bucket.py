"""Nights and versions of the toy pipeline under a `<root>` in a bucket."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import Night
from batch_assets.snapshots.publish import Published
from batch_assets.storage import ObjectPath, read_versioned, replace_if_unchanged
from batch_assets_tests import publishing
from batch_assets_tests.replays import GATES
from batch_assets_tests.steps import score_rows
from batch_assets_tests.toys import DAY, NAME, copy_rows, make_rows, validate

NEXT_DAY = "2026-01-06"
ROWS = 1_000
TABLES = (
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "predictions",
    "dead_letters",
)


def flip(place: ObjectPath, at: int = 100) -> None:
    """Change one bit of an object."""
    data = bytearray(place.read_bytes())
    data[at] ^= 1
    assert replace_if_unchanged(place, bytes(data), seen=read_versioned(place))


def prepared(lake: Lake, tmp_path: Path, *, day: str = DAY, **changes: Any) -> pa.Table:
    """A validated day; gives its raw rows."""
    rows = make_rows(ROWS, **changes)
    copy_rows(lake, rows, day=day, project=tmp_path / "project")
    validate(lake, day=day)
    return rows


def score(lake: Lake, release: Release, *, day: str = DAY, **changes: Any) -> Night:
    arguments = {"chunk_rows": 200, "gates": GATES} | changes
    engine = LocalEngine(find_device("cpu"), workers=2)
    return score_rows(lake, release, day, engine, **arguments)


def publish(root: ObjectPath, *, day: str = DAY, **changes: Any) -> Published:
    return publishing.publish(Lake(root, NAME), day, **changes)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
