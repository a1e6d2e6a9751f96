"""A night that is killed, starved, locked out or lied to ends as an undisturbed one.

Each disturbed night runs in a child process on a root of its own. Whatever happened to
it, a reader sees a whole day or none of it, and the next run leaves the rows of an
undisturbed run, to the byte.
"""

import functools
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.lake.parts import open_part
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import ChunkTask
from batch_assets.scoring.resume import completed_chunk
from batch_assets.spec import GateLimits
from batch_assets_tests.crash import (
    CHUNK_ROWS,
    KINDS,
    Ended,
    Kind,
    Zygote,
    doubled,
    kinds_of,
    seen,
)
from batch_assets_tests.faults.plan import DAY_SECONDS
from batch_assets_tests.nights import plan
from batch_assets_tests.toys import DAY, NAME

TABLES = (
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "predictions",
    "dead_letters",
)
Day = dict[str, pa.Table | None]
NOTHING: Day = dict.fromkeys(TABLES)
# In the order of the night; the guard is asked once before each commit, and once before
# the night's distributions are recorded.
SCORED = "before guard 4"  # every part is there, none of the scoring is committed
KILLS = 200
SEED = 20_260_105


@dataclass
class Stage:
    """What all nights start from, and how they must end."""

    folder: Path
    zygote: Zygote
    release: Release
    undisturbed: Ended
    whole: Day
    earlier: Path
    roots: Iterator[int]

    def root(self, start: Path | None = None) -> Path:
        root = self.folder / "roots" / str(next(self.roots))
        if start:
            shutil.copytree(start, root)
        else:
            root.mkdir(parents=True)
        return root

    def left_by(self, die_at: str) -> Path:
        """A root as a night left it that was killed at a step."""
        root = self.root()
        ended = self.zygote.night(root, die_at=die_at)
        assert ended.killed == signal.SIGKILL, ended
        return root

    def must_end_well(self, root: Path, **changes: Any) -> None:
        """The night, run again, is that of an undisturbed run; its books close."""
        ended = self.zygote.night(root, **changes)
        assert ended.well, ended
        self.must_be_whole(root)

    def must_be_whole(self, root: Path) -> None:
        for table, rows in day_of(root).items():
            assert rows is not None, table
            assert rows.equals(self.whole[table]), table
            assert not doubled(rows), table
        books = Lake(root, NAME).books(DAY)
        assert books.pages
        assert not books.open_after_validation()
        assert not books.open_after_scoring()

    def tasks(self, root: Path, chunk_rows: int = CHUNK_ROWS) -> list[ChunkTask]:
        return plan(
            Lake(root, NAME),
            self.release,
            DAY,
            chunk_rows=chunk_rows,
            gates=GateLimits(max_quarantine_share=1, max_dead_letter_share=0.5),
        ).tasks


def day_of(root: Path) -> Day:
    return {table: seen(root, table) for table in TABLES}


def states(root: Path, allowed: dict[str, Day]) -> Iterator[tuple[str, str]]:
    """Each table, and which of the allowed states its day is in; `torn` if in none."""
    for table in TABLES:
        rows = seen(root, table)
        yield table, which(rows, {name: day[table] for name, day in allowed.items()})


def which(rows: pa.Table | None, allowed: dict[str, pa.Table | None]) -> str:
    for name, expected in allowed.items():
        if rows is expected or (rows is not None and rows.equals(expected)):
            return name
    return "torn"


@dataclass
class Watcher:
    """A reader that looks at every root again and again while nights are made."""

    observed: Counter[str] = field(default_factory=Counter)
    torn: list[str] = field(default_factory=list)
    _roots: dict[Path, dict[str, Day]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watching(self, root: Path, allowed: dict[str, Day]) -> Iterator[None]:
        with self._lock:
            self._roots[root] = allowed
        try:
            yield
        finally:
            with self._lock:
                del self._roots[root]

    def _watch(self) -> None:
        # The pause is for the nights' sake: two cores have to do.
        while not self._over.wait(0.02):
            with self._lock:
                roots = dict(self._roots)
            for root, allowed in roots.items():
                self._look(root, allowed)

    def _look(self, root: Path, allowed: dict[str, Day]) -> None:
        for at, table in enumerate(TABLES):
            with self._lock:
                if root not in self._roots:
                    return
                try:
                    rows = seen(root, table)
                # Anything that a reader trips over is a finding; none may end the watch.
                except Exception as error:  # noqa: BLE001
                    self.torn.append(f"{root.name} {table}: {error!r}")
                    continue
            state = which(rows, {name: day[table] for name, day in allowed.items()})
            self.observed[state] += 1
            if state == "torn":
                self.torn.append(f"{root.name} {TABLES[at]}: {rows}")

    @contextmanager
    def running(self) -> Iterator["Watcher"]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()


@pytest.fixture(scope="module")
def stage_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Stage]]:
    """The stage of a kind of night, which is set when it is first asked for."""
    with ExitStack() as stack:

        @functools.cache
        def opened(kind: str) -> Stage:
            folder = tmp_path_factory.mktemp("crash")
            return stack.enter_context(staged(folder, KINDS[kind]))

        yield opened


# What one kind of night has shown in every run is shown of the others among the slow tests.
@pytest.fixture(params=kinds_of(KINDS, fast="features"))
def stage(request: pytest.FixtureRequest, stage_of: Callable[[str], Stage]) -> Stage:
    return stage_of(request.param)


@pytest.fixture(params=KINDS)
def any_stage(
    request: pytest.FixtureRequest, stage_of: Callable[[str], Stage]
) -> Stage:
    return stage_of(request.param)


@contextmanager
def staged(folder: Path, kind: Kind) -> Iterator[Stage]:
    project, other = folder / "project", folder / "other"
    kind.write_source(project)
    kind.write_source(other, seed=1)
    release = kind.write_release(folder / "release")
    undisturbed, earlier = folder / "undisturbed", folder / "earlier"
    with Zygote(project, release.folder) as zygote:
        before = zygote.start(earlier, project=other)
        ended = zygote.night(undisturbed)
        assert ended.well, ended
        assert before.result().well, before.result()
        whole = day_of(undisturbed)
        # Every table has something to lose.
        assert all(whole[table] for table in TABLES)
        yield Stage(
            folder, zygote, release, ended, whole, earlier, iter(range(1_000_000))
        )


@dataclass(frozen=True)
class Case:
    """A night, killed once or twice; `again` if the day was there, of other rows."""

    kills: tuple[dict[str, Any], ...]
    again: bool = False


def survive(stage: Stage, watcher: Watcher, case: Case) -> int:
    """Kill a night, look at what readers see, run it again; how often it was killed."""
    root = stage.root(stage.earlier if case.again else None)
    start = day_of(stage.earlier) if case.again else NOTHING
    allowed = {"before": start, "whole": stage.whole}
    killed = 0
    with watcher.watching(root, allowed):
        for kill in case.kills:
            ended = stage.zygote.night(root, **kill)
            # A night may have fewer steps or seconds than the undisturbed one.
            assert ended.killed == signal.SIGKILL or ended.well, (case, ended)
            killed += bool(ended.killed)
            for part in root.rglob("*.parquet"):
                open_part(part)  # under its name, it is whole
            for table, state in states(root, allowed):
                assert state != "torn", (case, table)
        stage.must_end_well(root)
    shutil.rmtree(root)
    return killed


def survive_all(stage: Stage, cases: Sequence[Case]) -> int:
    """How many kills there were; nothing that any reader saw was torn."""
    with Watcher().running() as watcher, ThreadPoolExecutor(2) as pool:
        kills = sum(pool.map(lambda case: survive(stage, watcher, case), cases))
    assert watcher.torn == []
    assert watcher.observed["before"] > len(cases)
    assert watcher.observed["whole"] > len(cases)
    return kills


def parallel_map(numbers: Sequence[int], count: int) -> list[int]:
    """So many of them, evenly; the last is one."""
    return [numbers[(i + 1) * len(numbers) // count - 1] for i in range(count)]


@pytest.mark.crash
@pytest.mark.timeout(14_400)
def test_killed_anywhere_a_night_ends_as_an_undisturbed_one(
    any_stage: Stage, record_property: Callable[[str, object], None]
) -> None:
    stage = any_stage
    labels, seconds = stage.undisturbed.steps, stage.undisturbed.seconds
    draw = random.Random(SEED)
    steps = range(1, len(labels) + 1)
    asked = sum(label.startswith("before guard") for label in labels)
    assert asked == len(TABLES) + 1  # the last is before the night is recorded
    cases = [Case(({"die_at": n},), again=n % 4 == 0) for n in steps]
    cases += [
        Case(({"die_after": draw.uniform(0, seconds)},), again=n % 2 == 0)
        for n in range(48)
    ]
    cases += [
        Case(
            (
                {"die_at": draw.randrange(1, len(labels))},
                {"die_at": draw.randrange(1, 60)},
            ),
            again=n % 2 == 0,
        )
        for n in range(24)
    ]

    kills = survive_all(stage, cases)

    told = f"{kills} kills, at each of {len(labels)} steps and at random times"
    record_property("kills", told)
    print(f"\n{told}")  # noqa: T201
    assert kills >= KILLS


def test_killed_a_dozen_times_a_night_ends_as_an_undisturbed_one(
    any_stage: Stage,
) -> None:
    stage = any_stage
    labels, seconds = stage.undisturbed.steps, stage.undisturbed.seconds
    steps = [labels.index(f"before guard {n}") + 1 for n in (1, 3, 5)]
    steps += parallel_map(range(1, len(labels) - 5), 7)
    cases = [Case(({"die_at": n},)) for n in steps]
    cases.append(Case(({"die_after": seconds / 2}, {"die_at": 15}), again=True))

    assert survive_all(stage, cases) >= 10


@pytest.mark.parametrize(
    ("left_by", "limit"),
    [
        (None, 0),
        (None, 500),
        (None, 4_000),
        ("before guard 1", 200),
        ("after DeltaTable.create_write_transaction 1", 2_000),
        ("after DeltaTable.create_write_transaction 3", 1_000),
        (SCORED, 200),
        ("before guard 5", 200),
    ],
)
def test_on_a_full_disk_nothing_is_committed_in_part(
    stage: Stage, left_by: str | None, limit: int
) -> None:
    root = stage.left_by(left_by) if left_by else stage.root()
    before = day_of(root)

    ended = stage.zygote.night(root, file_limit=limit)

    assert not ended.killed
    assert ended.error
    assert ended.known, ended
    assert "File too large" in ended.message
    assert "Make room" in ended.message
    assert "\x1b" not in ended.message
    assert day_of(root) == before
    stage.must_end_well(root)


@pytest.mark.parametrize(
    "locked", ["", f"lake/{NAME}/predictions", f"lake/{NAME}/predictions/_delta_log"]
)
def test_in_a_read_only_directory_a_night_stops_and_goes_on_later(
    stage: Stage, locked: str
) -> None:
    root = stage.left_by("after DeltaTable.create 5") if locked else stage.root()
    before = day_of(root)
    if locked and not locked.endswith("_delta_log"):
        for path in (root / locked).glob("day=*"):
            shutil.rmtree(path)
    folder = root / locked
    folder.chmod(0o555)

    ended = stage.zygote.night(root, unprivileged=True)

    folder.chmod(0o755)
    assert not ended.killed
    assert ended.error
    assert ended.known or not locked, ended  # Nothing can even be claimed there.
    assert "Permission denied" in ended.message
    after = day_of(root)
    assert after["predictions"] is before["predictions"] is None
    stage.must_end_well(root)


def parts_of(root: Path, table: str) -> list[Path]:
    return sorted((root / "lake" / NAME / table).glob("day=*/*/*.parquet"))


LENGTHS: list[Callable[[int], int]] = [
    lambda size: 0,
    lambda size: 4,
    lambda size: size // 2,
    lambda size: size - 200,
    lambda size: size - 8,
    lambda size: size - 1,
]


@pytest.mark.parametrize(
    ("die_at", "tables"),
    [
        ("before guard 1", ["raw_features"]),
        ("before guard 2", ["validated_features", "quarantined_rows"]),
        (SCORED, ["predictions", "dead_letters"]),
    ],
)
def test_torn_parts_are_made_again(
    any_stage: Stage, die_at: str, tables: list[str]
) -> None:
    stage = any_stage
    root = stage.left_by(die_at)
    parts = [path for table in tables for path in parts_of(root, table)]
    assert parts
    assert all(seen(root, table) is None for table in tables)
    for path, length in zip(parts, LENGTHS * len(parts), strict=False):
        os.truncate(path, length(path.stat().st_size))

    stage.must_end_well(root)


def regions(path: Path) -> dict[str, tuple[int, int]]:
    """Where the regions of a part begin and end."""
    data = path.read_bytes()
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(0).column(1)
    page, size = column.data_page_offset, column.total_compressed_size
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    receipt = data.index(b"batch_assets.receipt")
    return {
        "magic": (0, 4),
        "page header": (page, page + 20),
        "page": (page + size // 2, page + size),
        "footer": (footer, receipt),
        "receipt": (receipt, data.index(b"parquet-cpp", receipt)),
        "end": (len(data) - 8, len(data)),
    }


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


@pytest.mark.parametrize("table", ["predictions", "dead_letters"])
def test_a_part_with_a_flipped_bit_is_made_again(any_stage: Stage, table: str) -> None:
    stage = any_stage
    root = stage.left_by(SCORED)
    draw = random.Random(SEED)
    checked = ("page", "receipt", "page header", "end")
    for path, region in zip(parts_of(root, table), checked, strict=False):
        flip(path, regions(path)[region][0] + 1, draw.randrange(8))

    stage.must_end_well(root)


def reads_as(path: Path, rows: pa.Table) -> bool:
    """Whether two readers that share no code find these rows, under these names."""
    try:
        with duckdb.connect() as connection:
            other = connection.read_parquet(str(path)).to_arrow_table()
        found = pq.read_table(path, partitioning=None)
    except (duckdb.Error, pa.ArrowException, OSError):
        return False
    return found.equals(rows) and other.to_pydict() == rows.to_pydict()


@pytest.mark.parametrize("table", ["predictions", "dead_letters"])
@pytest.mark.parametrize(
    "region",
    [
        "page header",
        "page",
        "receipt",
        "end",
        "magic",
        "footer",
    ],
)
def test_a_part_with_a_flipped_bit_is_refused_or_reads_as_before(
    any_stage: Stage, table: str, region: str
) -> None:
    stage = any_stage
    root = stage.left_by(SCORED)
    task = next(t for t in stage.tasks(root) if t.dead_letters.exists())
    path = getattr(task, table)
    data, rows = path.read_bytes(), pq.read_table(path, partitioning=None)
    begin, end = regions(path)[region]
    draw = random.Random(SEED)
    refused = 0
    for at in range(begin, end, max((end - begin) // 150, 1)):
        bit = draw.randrange(8)
        flip(path, at, bit)
        if completed_chunk(task, stage.release) is None:
            refused += 1
        else:
            assert reads_as(path, rows), (at, bit)
        path.write_bytes(data)

    assert refused


# The first gives the same chunks, so that nothing but the job tells the parts apart.
@pytest.mark.parametrize("other_rows", [CHUNK_ROWS + 1, 2 * CHUNK_ROWS])
def test_a_part_of_another_job_under_this_jobs_name_is_made_again(
    stage: Stage, other_rows: int
) -> None:
    root = stage.left_by(SCORED)
    other = stage.root()
    assert stage.zygote.night(other, chunk_rows=other_rows).well
    theirs = {(t.shard, t.chunk): t for t in stage.tasks(other, other_rows)}
    laid = 0
    for task in stage.tasks(root):
        if their := theirs.get((task.shard, task.chunk)):
            for table in ("predictions", "dead_letters"):
                mine, path = getattr(task, table), getattr(their, table)
                if mine.exists() and path.exists():
                    assert mine.name != path.name
                    shutil.copy(path, mine)
                    laid += 1
    assert laid >= 3

    stage.must_end_well(root)


@pytest.mark.parametrize(
    "table",
    [
        "predictions",
        "dead_letters",
    ],
)
@pytest.mark.parametrize("same_shard", [True, False])
def test_a_part_of_another_chunk_under_this_ones_name_is_made_again(
    stage: Stage, table: str, same_shard: bool
) -> None:
    root = stage.left_by(SCORED)
    parts = parts_of(root, table)
    one, other = next(
        (one, other)
        for one in parts
        for other in parts
        if one != other and (one.parent == other.parent) == same_shard
    )
    shutil.copy(other, one)

    stage.must_end_well(root)


def test_a_part_of_another_table_under_this_ones_name_is_made_again(
    stage: Stage,
) -> None:
    root = stage.left_by(SCORED)
    task = next(t for t in stage.tasks(root) if t.dead_letters.exists())
    shutil.copy(task.dead_letters, task.predictions)

    stage.must_end_well(root)


def test_two_runs_of_a_night_at_once_leave_one_whole_night(any_stage: Stage) -> None:
    stage = any_stage
    root = stage.root()
    allowed = {"before": NOTHING, "whole": stage.whole}

    with Watcher().running() as watcher, watcher.watching(root, allowed):
        running = [stage.zygote.start(root) for _ in range(2)]
        ended = [run.result() for run in running]

    assert watcher.torn == []
    assert all(not e.killed and e.known for e in ended), ended
    assert any(e.well for e in ended), ended
    stage.must_be_whole(root)
    stage.must_end_well(root)


def test_two_runs_of_different_jobs_at_once_leave_the_whole_night_of_one(
    stage: Stage,
) -> None:
    root = stage.root()
    assert stage.zygote.night(root, only_validate=True).well
    allowed = {"before": NOTHING, "whole": stage.whole}

    with Watcher().running() as watcher, watcher.watching(root, allowed):
        running = [
            stage.zygote.start(root, chunk_rows=n * CHUNK_ROWS, claim=f"run-{turn}")
            for turn, n in enumerate((1, 2) * 2)
        ]
        ended = [run.result() for run in running]

    assert watcher.torn == []
    assert all(e.well or e.error == "ClaimedError" for e in ended), ended
    assert any(e.well for e in ended), ended
    assert any(e.error for e in ended), ended
    stage.must_be_whole(root)
    lake = Lake(root, NAME)
    jobs = {part.receipt.job for part in lake.predictions.parts(DAY)}
    jobs |= {part.receipt.job for part in lake.dead_letters.parts(DAY)}
    assert len(jobs) == 1
    stage.must_end_well(root)


@pytest.mark.parametrize("die_at", ["before guard 2", SCORED, "before guard 5"])
def test_a_clock_that_jumps_back_changes_nothing(stage: Stage, die_at: str) -> None:
    root = stage.left_by(die_at)
    tomorrow = time.time() + DAY_SECONDS
    for path in root.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))

    stage.must_end_well(root, clock=-DAY_SECONDS)
