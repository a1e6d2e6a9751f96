"""A night of each kind of source, killed, resumed and replayed, is that of any other kind.

The rows are the same, and so must be what is left of them, to the byte.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batch_assets.lake.sources import SOURCES
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets_tests import crash
from batch_assets_tests.crash import Zygote, crash_rows, seen
from batch_assets_tests.replays import replay
from batch_assets_tests.servers import Server
from batch_assets_tests.source_kinds import DSN, HOLDERS, KINDS, Holder, put_postgres
from batch_assets_tests.toys import DAY, NAME

# Of pinned rows, `raw_features` holds the keys alone.
TABLES = ("validated_features", "quarantined_rows", "predictions", "dead_letters")
# The guard is asked once before each commit.
TAKEN = "before guard 1"
SCORED = "before guard 4"


@dataclass(frozen=True)
class Nights:
    """What nights of every kind are made with, and how they must end."""

    zygote: Zygote
    release: Release
    server: Server
    whole: dict[str, pa.Table | None]

    def holder(self, kind: str) -> Holder:
        if kind == "postgres":
            return Holder(partial(put_postgres, self.server), by_content=False)
        return HOLDERS[kind]


@pytest.fixture(scope="module")
def nights(
    tmp_path_factory: pytest.TempPathFactory, postgres_here: Server
) -> Iterator[Nights]:
    folder = tmp_path_factory.mktemp("sources")
    project, root = folder / "parquet", folder / "undisturbed"
    crash.KINDS["features"].write_source(project)
    release = crash.write_fussy_release(folder / "release")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DSN, postgres_here.url)
        # Where the children find the function of the source in Python.
        (folder / "python").mkdir()
        patch.setenv("PYTHONPATH", str(folder / "python"), prepend=":")
        with Zygote(project, release.folder) as zygote:
            ended = zygote.night(root)
            assert ended.well, ended
            yield Nights(zygote, release, postgres_here, left_of(root))


def left_of(root: Path) -> dict[str, pa.Table | None]:
    return {table: seen(root, table) for table in TABLES}


def must_be_near(some: pa.Table | None, others: pa.Table | None) -> None:
    """The same keys, and outputs that differ by a bit or two."""
    assert some is not None
    assert others is not None
    assert some["user_id"].equals(others["user_id"])
    bits = [table["risk"].to_numpy().astype("int64") for table in (some, others)]
    assert abs(bits[0] - bits[1]).max() <= 2


def taken(root: Path) -> Any:
    """What the committed rows of the day are known by."""
    commit = Lake(root, NAME).raw_features.last_commit(DAY)
    assert commit is not None
    return commit.facts


@pytest.mark.parametrize("kind", KINDS)
def test_a_night_of_each_kind_is_killed_resumed_and_replayed(
    nights, kind, tmp_path, monkeypatch
):
    project = nights.zygote.project.parent / kind
    holder, root = nights.holder(kind), tmp_path
    source = holder.put(project, crash_rows())
    how = {"project": project, "source": source}

    first = nights.zygote.night(root, die_at=TAKEN, **how)
    assert first.killed == signal.SIGKILL, first
    assert seen(root, "raw_features") is None
    second = nights.zygote.night(root, die_at=SCORED, **how)
    assert second.killed == signal.SIGKILL, second
    facts = taken(root)
    third = nights.zygote.night(root, **how)

    assert third.well, third
    assert taken(root) == facts
    whole = nights.whole
    if SOURCES[kind].pins:
        # Its rows stand elsewhere in their batches, which moves the last bit of some.
        undisturbed = nights.zygote.night(tmp_path / "undisturbed", **how)
        assert undisturbed.well, undisturbed
        pinned = left_of(tmp_path / "undisturbed")
        must_be_near(whole["predictions"], pinned["predictions"])
        whole = whole | {"predictions": pinned["predictions"]}
    for table, rows in left_of(root).items():
        assert rows is not None
        assert rows.equals(whole[table]), table
    # Other rows are another job, where anything but a second reading tells them apart.
    holder.put(project, crash_rows(seed=1))
    fourth = nights.zygote.night(root, **how)
    assert fourth.well, fourth
    assert (taken(root) != facts) == holder.by_content
    lake = Lake(root, NAME)
    dead = lake.books(DAY).total.dead.rows
    assert dead
    monkeypatch.setattr(crash, "POISON", -1)

    replayed = replay(lake, nights.release)

    assert replayed.rescued.rows == dead
    books = lake.books(DAY)
    assert books.total.dead.rows == 0
    assert not books.open_after_scoring()
