"""Write the tree that this version leaves on disk, for the tests of all later ones.

    python -m batch_assets_tests.trees.keep

One pipeline with histories in and rankings out: two good nights, and one whose gate is
shut, which is told of, overridden and served; two releases, one signed, compared; an
item that is denied. What it answers lies beside it. Done once for each version that is
released, and never again: a tree is what that version wrote.
"""

import gzip
import json
import sys
import tarfile
import tempfile
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from batch_assets.models.release import Release
from batch_assets_tests.commands import batch_assets
from batch_assets_tests.histories import ITEMS, NAME, Histories, make_rows
from batch_assets_tests.projects import FIRST, FLIGHTS, SECOND, THIRD, write_project
from batch_assets_tests.rankings import NOBODY, SOURCE, popular, write_with_spare

FOLDER = Path(__file__).parent
FOURTH = "2026-01-08"
ROWS, BAD = 120, 12
KEYS = (1, 2, ROWS, NOBODY)
GATE = "quarantine_share_is_within_limit"
PIPELINE = {
    "name": NAME,
    "start_day": "2026-01-01",
    "end_day": "2026-01-31",
    "source": {"kind": "parquet", "glob": "days/{{ day }}.parquet"},
    "side_tables": {"popular": SOURCE.model_dump(exclude_none=True)},
    "serving": {"fallback": {"table": "popular", "by": "shop"}},
    "model": {"name": NAME},
    "gates": {"min_coverage": 0.8},
    "alerts": {"receivers": [{"kind": "log"}]},
    "shards": 2,
}


def write_days(project: Path) -> None:
    """Write the source of four days; the third has rows that are out of range."""
    (project / "days").mkdir(parents=True, exist_ok=True)
    for number, day in enumerate((FIRST, SECOND, THIRD, FOURTH)):
        rows = make_rows(ROWS, seed=number)
        if day == THIRD:
            ages = [999] * BAD + rows["age"].to_pylist()[BAD:]
            at = rows.schema.get_field_index("age")
            rows = rows.set_column(at, "age", pa.array(ages, rows["age"].type))
        pq.write_table(rows, project / "days" / f"{day}.parquet")
        pq.write_table(pa.table(popular()), project / f"popular-{day}.parquet")


def write_releases(folder: Path) -> tuple[Release, Release]:
    """Write a release and one that is a little other."""
    first = write_with_spare(folder / "first")
    module = Histories()
    with torch.no_grad():
        module.of_item *= 1.01
    return first, write_with_spare(folder / "second", module=module)


def new_key() -> str:
    """Make a key to sign with; nobody keeps it."""
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        .decode()
    )


def make_tree(home: Path) -> dict[str, object]:
    """Run the nights under `home`, by the commands; what is served in the end, by key."""
    write_project(home / "p", "kept_project", [PIPELINE])
    write_days(home / "p")
    first, second = write_releases(home / "releases")
    sign = ("release", "sign", str(first.folder))
    batch_assets(home, *sign, BATCH_ASSETS_SIGNING_KEY=new_key())
    for release in (first, second):
        batch_assets(home, "release", "add", NAME, str(release.folder))
    ok = ("--why", "the tests need it", "--by", "ada")
    batch_assets(home, "release", "approve", NAME, first.digest, *ok)
    for day in (FIRST, SECOND):
        batch_assets(home, "run", NAME, "--day", day)
    pair = (first.digest, second.digest)
    batch_assets(home, "release", "compare", *pair, "--days", f"{FIRST}..{SECOND}")
    batch_assets(home, "run", NAME, "--day", THIRD, code=1)
    until = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"
    passed = ("--override", GATE, "--until", until, *ok)
    batch_assets(home, "publish", NAME, THIRD, *passed)
    batch_assets(home, "denylist", "add", NAME, str(ITEMS[0]), *ok)
    return {
        str(key): json.loads(
            batch_assets(home, "lookup", NAME, str(key), "--json").stdout
        )
        for key in KEYS
    }


def keep(path: Path) -> None:
    """Write the tree into an archive of one root, without times and owners."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        served = make_tree(home)
        (home / "root" / "served.json").write_text(
            json.dumps(served, indent=1), encoding="utf-8"
        )
        with (
            gzip.GzipFile(path, "wb", mtime=0) as data,
            tarfile.open(fileobj=data, mode="w") as tree,
        ):
            for file in sorted((home / "root").rglob("*")):
                if not {".dagster", "reports"} & set(file.parts):
                    tree.add(file, file.relative_to(home), recursive=False)


if __name__ == "__main__":
    project = tomllib.loads((FLIGHTS / "pyproject.toml").read_text("utf-8"))["project"]
    target = FOLDER / f"{project['version']}.tar.gz"
    if target.exists():
        sys.exit(f"{target} is there: it is what that version wrote, and stays")
    keep(target)
