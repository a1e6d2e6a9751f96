"""Nights in child processes, which can be killed at any step of the write and commit path.

A zygote imports everything once, reads one command per line and forks a child for each:
an import costs seconds, a fork milliseconds. It uses neither deltalake nor polars nor
torch itself, because their threads don't live on in a forked child. A child makes one
whole night: it copies, validates and scores a day.
"""

import ctypes
import functools
import json
import os
import random
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import DeltaTable
from deltalake.table import TableAlterer
from pydantic import TypeAdapter

from batch_assets.errors import BatchAssetsError
from batch_assets.lake.claims import claimed
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.sources import ReadContext, Source
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release, open_release
from batch_assets.snapshots.publish import publish_day
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import GateLimits, Serving
from batch_assets.storage import StoragePath, storage_path
from batch_assets_tests import histories, texts
from batch_assets_tests.engines import ENGINES, scoring_on
from batch_assets_tests.faults.delta import install_delta
from batch_assets_tests.faults.plan import FaultPlan, Faults, move_clock
from batch_assets_tests.faults.store import install_store
from batch_assets_tests.steps import score_rows, take
from batch_assets_tests.toys import (
    DAY,
    NAME,
    ToyRisk,
    features_of,
    make_contract,
    make_rows,
    validate,
    write_source,
    write_toy_release,
)

HOUSE = Path(__file__).parent.parent
ROWS = 520
SHARDS = 2
ROW_GROUP_ROWS = 100
CHUNK_ROWS = 100
POISON = 111
TOO_OLD = 130
POISONED_TASTE = 9.0
SOURCE = {"kind": "parquet", "glob": "days/{{ day }}.parquet"}
# A night takes well under a second, and on a busy machine a hundred times as long; one
# that hangs must not hold up the harness for ever.
ALARM_SECONDS = 600
# An engine may have to start first.
ENGINE_SECONDS = 500
# What comes after any other operation is the next one's "before": the disk is the same.
COMMIT_PATH = ("DeltaTable.", "TableAlterer.", "guard")
# What a night does to the disk and to the log, in the words of the code that does it.
OPERATIONS: list[tuple[Any, str]] = [
    (pq.ParquetWriter, "__init__"),
    (pq.ParquetWriter, "write_table"),
    (pq.ParquetWriter, "close"),
    (os, "fsync"),
    (Path, "mkdir"),
    (Path, "replace"),
    (Path, "rename"),
    (Path, "unlink"),
    (DeltaTable, "create"),
    (DeltaTable, "create_write_transaction"),
    (TableAlterer, "add_columns"),
]
# What a publisher does on top of these, in the order in which it first comes to it.
PUBLISHING: list[tuple[Any, str]] = [
    (pa.ipc, "new_file"),
    (Path, "chmod"),
    (Path, "hardlink_to"),
    (Path, "open"),
    (Path, "write_text"),
    (shutil, "rmtree"),
]
CAPABILITY_VERSION = 0x20080522
# From <linux/capability.h>: root reads and writes whatever the permissions say.
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2


class FussyRisk(ToyRisk):
    """The toy model, which raises on whoever has the poisoned age."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if (features[:, 0] == POISON).any():
            msg = "this age is poison"
            raise ValueError(msg)
        return super().forward(features)


def write_fussy_release(folder: Path) -> Release:
    golden = features_of(crash_rows(seed=7).slice(0, 16), make_contract())
    golden[:, 0].clamp_(0, POISON - 1)
    return write_toy_release(
        folder,
        module=FussyRisk(),
        golden_inputs=golden,
        model_format="safetensors",
        import_path="batch_assets_tests.crash:FussyRisk",
    )


def crash_rows(*, seed: int = 0) -> pa.Table:
    """Rows of which a few break a rule, and a few are poison to the model."""
    rows = make_rows(ROWS, seed=seed)
    ages = np.minimum(rows["age"].to_numpy(), POISON - 1)
    ages[::97] = TOO_OLD
    ages[5::120] = POISON
    return rows.set_column(1, rows.schema.field("age"), pa.array(ages, pa.int16()))


class FussyHistories(histories.Histories):
    """The toy recommender, which raises on whoever has the poisoned taste."""

    def forward(self, **tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if (tensors["taste"][:, 0] == POISONED_TASTE).any():
            msg = "this taste is poison"
            raise ValueError(msg)
        return super().forward(**tensors)


def write_fussy_histories(folder: Path) -> Release:
    return histories.write_histories(
        folder,
        name=NAME,
        module=FussyHistories(),
        model_format="safetensors",
        import_path="batch_assets_tests.crash:FussyHistories",
    )


def crash_histories(*, seed: int = 0) -> pa.Table:
    """Histories of which a few break a rule, and a few are poison to the model."""
    rows = histories.make_rows(ROWS, seed=seed).to_pylist()
    for row in rows[::97]:
        row["device"] = -1
    for row in rows[5::120]:
        row["taste"][0] = POISONED_TASTE
    return pa.Table.from_pylist(rows, histories.make_contract().raw_schema())


@dataclass(frozen=True)
class Kind:
    """What a night is of: how its release and its rows are made."""

    write_release: Callable[[Path], Release]
    rows: Callable[..., pa.Table]

    def write_source(self, project: Path, *, seed: int = 0) -> None:
        write_source(project, self.rows(seed=seed))


class FussyMoods(texts.Moods):
    """The toy model of texts, which raises on whoever has the poisoned age."""

    def forward(
        self, features: torch.Tensor, **tensors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if (features[:, 0] == POISON).any():
            msg = "this age is poison"
            raise ValueError(msg)
        return super().forward(features, **tensors)


def write_fussy_texts(folder: Path) -> Release:
    golden = texts.golden()
    golden["features"].clamp_(0, POISON - 1)
    return texts.write_texts(
        folder,
        name=NAME,
        module=FussyMoods(),
        golden_inputs=golden,
        model_format="safetensors",
        import_path="batch_assets_tests.crash:FussyMoods",
    )


def crash_texts(*, seed: int = 0) -> pa.Table:
    """Texts of people of whom a few break a rule, and a few are poison to the model."""
    rows = texts.make_rows(ROWS, seed=seed)
    ages = np.minimum(rows["age"].to_numpy(), POISON - 1)
    ages[::97] = TOO_OLD
    ages[5::120] = POISON
    age = rows.schema.field("age")
    at = rows.schema.get_field_index("age")
    return rows.set_column(at, age, pa.array(ages, age.type))


KINDS = {
    "features": Kind(write_fussy_release, crash_rows),
    "histories": Kind(write_fussy_histories, crash_histories),
}
# The campaign kills nights of texts, too.
EVERY_KIND = KINDS | {"texts": Kind(write_fussy_texts, crash_texts)}


def kinds_of(kinds: Iterable[str], *, fast: str) -> list[Any]:
    """Parameters of a fixture: of all kinds but one the tests are among the slow ones."""
    return [
        kind if kind == fast else pytest.param(kind, marks=pytest.mark.slow)
        for kind in kinds
    ]


def run_night(
    root: StoragePath,
    project: Path,
    release: Release,
    *,
    day: str = DAY,
    engine: str = "local",
    chunk_rows: int = CHUNK_ROWS,
    only_validate: bool = False,
    source: dict[str, Any] | None = None,
    guard: Callable[[], None] = lambda: None,
) -> None:
    """One whole night on a root; what the source reads is there already."""
    lake, contract = Lake(root, NAME), release.contract
    take(
        lake,
        TypeAdapter(Source).validate_python(source or SOURCE),
        ReadContext(day, "UTC", contract.key.name, base=project, project=project),
        newest=day,
        schema=contract.raw_schema(),
        check=lambda schema: contract.check_schema(schema, "the source"),
        shards=SHARDS,
        row_group_rows=ROW_GROUP_ROWS,
        guard=guard,
    )
    validate(
        lake, day=day, contract=contract, row_group_rows=ROW_GROUP_ROWS, guard=guard
    )
    if only_validate:
        return
    with scoring_on(ENGINES[engine], root) as scoring:
        score_rows(
            lake,
            release,
            day,
            scoring,
            chunk_rows=chunk_rows,
            gates=GateLimits(max_quarantine_share=1, max_dead_letter_share=0.5),
            guard=guard,
        )


def publish(root: StoragePath, day: str, *, guard: Callable[[], None]) -> None:
    """Publish a scored day, and keep as little as may be kept."""
    publish_day(
        DayRun(Lake(root, NAME), day, guard),
        Registry(root),
        SnapshotStore(root, NAME),
        gates=GateLimits(
            max_quarantine_share=1, max_dead_letter_share=1, min_coverage=0
        ),
        serving=Serving(keep=2, keep_minutes=0),
    )


class Steps:
    """Numbers what a night does, before it does it, and after a commit; dies at one.

    `die_at` is a number over the whole run, or a label such as `before guard 4`: the
    same place in every run, however the threads took their turns.
    """

    def __init__(self, die_at: int | str | None) -> None:
        self.labels: list[str] = []
        self._die_at = die_at
        self._lock = threading.Lock()
        self._times: Counter[str] = Counter()

    def step(self, label: str) -> None:
        with self._lock:
            self._times[label] += 1
            self.labels.append(f"{label} {self._times[label]}")
            if self._die_at in (len(self.labels), self.labels[-1]):
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, label: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def numbered(*args: Any, **kwargs: Any) -> Any:
            # Most folders are asked for many times, and made once.
            if label == "Path.mkdir" and args[0].exists():
                return call(*args, **kwargs)
            self.step(f"before {label}")
            result = call(*args, **kwargs)
            if label.startswith(COMMIT_PATH):
                self.step(f"after {label}")
            return result

        return numbered

    def install(self, operations: list[tuple[Any, str]]) -> None:
        """Only ever in a child: it is not taken back."""
        for owner, name in operations:
            label = f"{owner.__name__}.{name}"
            setattr(owner, name, self.around(label, getattr(owner, name)))


def drop_powers() -> None:
    """Let permission bits hold for root too."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    class Data(ctypes.Structure):
        _fields_ = tuple(
            (name, ctypes.c_uint32) for name in ("effective", "permitted", "inherited")
        )

    libc = ctypes.CDLL(None, use_errno=True)
    header, data = Header(CAPABILITY_VERSION, 0), (Data * 2)()
    if libc.capget(ctypes.byref(header), data):
        raise OSError(ctypes.get_errno(), "capget")
    data[0].effective &= ~(DAC_OVERRIDE | DAC_READ_SEARCH)
    if libc.capset(ctypes.byref(header), data):
        raise OSError(ctypes.get_errno(), "capset")


def _claim(root: StoragePath, run: str) -> AbstractContextManager[Callable[[], None]]:
    return claimed(Lake(root, NAME).folder, DAY, run, lambda _: False)


def child(command: dict[str, Any], answer: int) -> None:
    """Make the night of a command; say on a pipe how it ended."""
    begin = time.perf_counter()
    signal.alarm(ALARM_SECONDS if command["engine"] == "local" else ENGINE_SECONDS)
    random.seed()
    steps = Steps(command["die_at"])
    outcome: dict[str, Any] = {"error": None, "message": "", "known": True}
    faults = Faults(FaultPlan.loads(command["faults"])) if command["faults"] else None
    if command["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (command["file_limit"],) * 2)
    if command["unprivileged"]:
        drop_powers()
    move_clock(command["clock"])
    steps.install(OPERATIONS + PUBLISHING * (command["publish"] is not None))
    if faults:
        install_store(faults)
        install_delta(faults)
    root, run = storage_path(command["root"]), command["claim"]
    try:
        with _claim(root, run) if run else nullcontext(lambda: None) as guard:
            watched = steps.around("guard", guard)
            if command["publish"] is None or command["both"]:
                run_night(
                    root,
                    Path(command["project"]),
                    open_release(Path(command["release"])),
                    day=command["day"],
                    engine=command["engine"],
                    chunk_rows=command["chunk_rows"],
                    only_validate=command["only_validate"],
                    source=command["source"],
                    guard=watched,
                )
            if command["publish"]:
                publish(root, command["publish"], guard=watched)
    # Whatever it is, the test must get to see it; Rust's panics are no Exceptions.
    except BaseException as error:  # noqa: BLE001
        outcome = {
            "error": type(error).__name__,
            "message": str(error),
            "known": isinstance(error, BatchAssetsError),
        }
    seconds = time.perf_counter() - begin
    outcome |= {"steps": steps.labels, "seconds": seconds}
    if faults:
        outcome |= {"faults": faults.met, "operations": faults.labels}
    text = json.dumps(outcome)
    with os.fdopen(answer, "w", encoding="utf-8") as pipe:
        pipe.write(text)


@dataclass(frozen=True)
class Ended:
    """How a child ended: `killed` by a signal, or with what it said."""

    killed: int
    error: str | None = None
    message: str = ""
    known: bool = True
    steps: list[str] = field(default_factory=list)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not self.killed and self.error is None


class Zygote:
    """The test's side: starts nights, and hands out how they ended."""

    def __init__(
        self, project: Path, release: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.project, self.release = project, release
        self._pending: dict[int, Future[Ended]] = {}
        self._lock = threading.Lock()
        self._next = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HOUSE,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            | (environment or {}),
        )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def start(self, root: StoragePath, **changes: Any) -> Future[Ended]:
        """Start a night on a root.

        Args:
            root: where.
            changes: `die_at` a step, by its number or label, or `die_after` seconds; `file_limit` in bytes;
                `unprivileged`; `clock`, by how many seconds it is off; `chunk_rows`;
                `only_validate`; `project`, with another source; `source`, as in a YAML; `engine`; `claim`, the name of
                a run, which then asks for the day before it begins; `publish`, a day
                that is published in place of a night, or with `both` after it; `faults`,
                a plan of those that its storage meets.
        """
        command = {
            "root": str(root),
            "project": str(self.project),
            "release": str(self.release),
            "day": DAY,
            "engine": "local",
            "chunk_rows": CHUNK_ROWS,
            "only_validate": False,
            "source": None,
            "die_at": None,
            "die_after": None,
            "file_limit": None,
            "unprivileged": False,
            "clock": 0.0,
            "claim": None,
            "publish": None,
            "both": False,
            "faults": None,
        }
        if unknown := changes.keys() - command.keys():
            raise TypeError(unknown)
        ended: Future[Ended] = Future()
        with self._lock:
            self._next += 1
            self._pending[self._next] = ended
            line = json.dumps({"id": self._next, **command, **changes}, default=str)
            assert self._process.stdin is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return ended

    def night(self, root: StoragePath, **changes: Any) -> Ended:
        """A night on a root, and how it ended; see `start`."""
        return self.start(root, **changes).result(
            timeout=ENGINE_SECONDS + ALARM_SECONDS
        )

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                ended = self._pending.pop(answer.pop("id"))
            ended.set_result(Ended(**answer))
        with self._lock:
            for ended in self._pending.values():
                ended.set_exception(RuntimeError("the zygote is gone"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=2 * ALARM_SECONDS)
        self._reader.join()
        self._process.stdout.close()


@dataclass
class _Child:
    number: int
    pid: int
    deadline: float
    output: bytes = b""


def serve() -> None:
    """The zygote: fork a child per line of stdin, report on stdout, kill in time.

    One thread does it all, so that a fork has no locks of others to inherit.
    """
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    children: dict[int, _Child] = {}
    unread = b""
    open_for_more = True
    while open_for_more or children:
        now = time.monotonic()
        for forked in children.values():
            if forked.deadline <= now:
                # Not waited for yet, so the number is still its own.
                os.kill(forked.pid, signal.SIGKILL)
                forked.deadline = float("inf")
        nearest = min((c.deadline for c in children.values()), default=float("inf"))
        timeout = None if nearest == float("inf") else max(nearest - now, 0)
        for key, _ in selector.select(timeout):
            data = os.read(key.fd, 1 << 16)
            if key.fd == 0:
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    fd, forked = _fork(json.loads(line))
                    children[fd] = forked
                    selector.register(fd, selectors.EVENT_READ)
                if not data:
                    open_for_more = False
                    selector.unregister(0)
            elif data:
                children[key.fd].output += data
            else:
                # The pipe ends when the child does, however it ends.
                selector.unregister(key.fd)
                os.close(key.fd)
                _report(children.pop(key.fd))


def _fork(command: dict[str, Any]) -> tuple[int, _Child]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(2, 1)
        code = 1
        try:
            child(command, writing)
            code = 0
        finally:
            # Neither the zygote's buffers nor its exit handlers are the child's.
            os._exit(code)
    os.close(writing)
    after = command["die_after"]
    deadline = float("inf") if after is None else time.monotonic() + after
    return reading, _Child(command["id"], pid, deadline)


def _report(ended: _Child) -> None:
    _, status = os.waitpid(ended.pid, 0)
    if os.WIFSIGNALED(status):
        answer: dict[str, Any] = {"killed": os.WTERMSIG(status)}
    else:
        answer = {"killed": 0, **json.loads(ended.output)}
    print(json.dumps({"id": ended.number, **answer}), flush=True)  # noqa: T201


def seen(root: Path, table: str) -> pa.Table | None:
    """A day of a table as any Delta reader sees it, by key; None if it is not there.

    Floats come as their bits: 0.0 and -0.0 are not the same to the byte.
    """
    path = root / "lake" / NAME / table
    if not (path / "_delta_log").exists() or not DeltaTable.is_deltatable(str(path)):
        return None
    files = DeltaTable(path).file_uris(file_pruning_predicate=[("day", "=", DAY)])
    if not files:
        return None
    rows = pa.concat_tables(pq.read_table(f, partitioning=None) for f in files)
    rows = rows.sort_by("user_id").combine_chunks().replace_schema_metadata()
    for at, column in enumerate(rows.schema):
        if pa.types.is_float32(column.type):
            bits = pa.chunked_array([c.view(pa.uint32()) for c in rows[at].chunks])
            rows = rows.set_column(at, column.name, bits)
    return rows


def doubled(rows: pa.Table) -> list[Any]:
    """The keys that a table has more than once."""
    counts = Counter(rows["user_id"].to_pylist())
    return [key for key, count in counts.items() if count > 1]
