"""A pool of Spark tasks: one task for each item, in the Python workers of executors.

The one file that knows Spark. A job's tasks get descriptors; what came of each is posted
in a folder beside the tables, because Spark hands results over only when the last one is
there. A posted outcome is believed only with the mark of the job's own key. Once the
file `open` is gone, tasks that have not begun do nothing: those of a killed driver too, as
soon as the next run of the day removes the folder.
"""

import gc
import hmac
import os
import pickle
import re
import secrets
import shutil
import subprocess
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import pyarrow as pa

from batch_assets.errors import ConfigError, EngineError, StorageError
from batch_assets.parallel import Report
from batch_assets.scoring.engines.workers import (
    Outcome,
    ScoreChunk,
    must_answer,
    outcome_of,
    own_signals,
)
from batch_assets.spec import Spark
from batch_assets.storage import (
    StoragePath,
    Versioned,
    read_versioned,
    remove_tree,
    replace_if_unchanged,
)

JAVA = 17
# Where a Spark Connect server listens if its address does not say.
PORT = 15002
# Where the master of a Spark of one's own listens if its address does not say.
MASTER_PORT = 7077
# For a session of our own, unless the YAML says otherwise.
DEFAULTS = {
    "spark.app.name": "batch-assets",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
# What says that somebody has set Spark up on this machine.
SET_UP = ("SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_GATEWAY_PORT")
GPUS = "spark.task.resource.gpu.amount"
OPEN, POSTED = "open", ".outcome"
MARK_BYTES = 32
TICK_SECONDS = 0.2
# What a cancelled job gets to end in.
CANCEL_SECONDS = 10.0


@contextmanager
def spark_pool(
    settings: Spark, folder: StoragePath, *, device: str, grace_seconds: float
) -> Iterator["SparkPool"]:
    """Open a pool on the Spark of the settings, or on one of its own on this machine.

    A session that is active already is used, and left running.

    Args:
        settings: of the YAML.
        folder: a place beside the tables, which every executor sees at the same path.
        device: `auto`, `cpu` or `cuda`.
        grace_seconds: how long items in flight may go on when the work ends early.

    Raises:
        EngineError: Spark or Java is not installed, or no session can be had.
        ConfigError: the device can't be had so.
    """
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    ours = SparkSession.getActiveSession() is None
    session = _session(SparkSession, settings)
    try:
        yield SparkPool(session, folder, device=device, grace_seconds=grace_seconds)
    finally:
        if ours:
            session.stop()


class SparkPool:
    """Jobs of one session, each of as many tasks as there are items."""

    def __init__(
        self, session: Any, folder: StoragePath, *, device: str, grace_seconds: float
    ) -> None:
        self._session, self._folder = session, folder
        self._grace_seconds = grace_seconds
        self.device = _device(device, float(session.conf.get(GPUS, "0") or 0))

    def do(
        self, work: Callable[[Any, Report], Any], items: Sequence[Any]
    ) -> Generator[Outcome, None, None]:
        """Yield what came of each item, as it is posted, in any order."""
        if not items:
            return
        # With the usual permissions: executors may be another user's.
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir(parents=True)
        replace_if_unchanged(folder / OPEN, b"", seen=Versioned(None))
        key = secrets.token_bytes(MARK_BYTES)
        job = _Job(self._session, _task(work, items, folder, key), len(items))
        seen: set[int] = set()
        over = False
        try:
            while not over:
                # Asked before the look: what is posted while it looks is not missed.
                over = job.wait(TICK_SECONDS)
                for outcome in _collected(folder, key):
                    seen.add(outcome.number)
                    yield outcome
            if missing := len(items) - len(seen):
                raise _incomplete(job, missing, folder) from job.error
        finally:
            (folder / OPEN).unlink(missing_ok=True)
            try:
                job.wait(self._grace_seconds)
            finally:
                job.cancel()
                # What stays, the next run of the day sweeps; or it has done so by now.
                with suppress(OSError, StorageError):
                    remove_tree(folder)
                    self._folder.rmdir()


def _incomplete(job: "_Job", missing: int, folder: StoragePath) -> EngineError:
    if job.error:
        return EngineError(
            f"Spark gave up with {missing} of {job.size} items left: "
            f"{_last_words(job.error)}. Nothing was committed. If it is memory, give "
            "executors more of it or smaller chunks (chunk_rows); then run the day again."
        )
    return EngineError(
        f"Spark reported success, but {missing} of {job.size} items left no outcome in "
        f"{folder}. Every executor must see <root> at the same path as the driver; see "
        "docs/engines.md. Nothing was committed."
    )


class _Job:
    """A Spark job in a thread of its own, so that the driver can answer signals."""

    def __init__(self, session: Any, task: Callable[..., Any], size: int) -> None:
        """Start it; a partition for each item, and so a task that is tried by itself."""
        self.size = size
        self.error: Exception | None = None
        self._session = session
        self._tag = f"batch-assets-{uuid.uuid4().hex}"
        self._over = threading.Event()
        with _quietly():
            self._rows = session.range(0, size, 1, size).mapInArrow(task, "id long")
        threading.Thread(target=self._run, name="spark", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait for the end; whether it is over."""
        return self._over.wait(seconds)

    def cancel(self) -> None:
        if self._over.is_set():
            return
        # A session on this machine has job tags, one over Connect has its own.
        if _is_connected(self._session):
            self._session.interruptTag(self._tag)
        else:
            self._session.sparkContext.cancelJobsWithTag(self._tag)
        self._over.wait(CANCEL_SECONDS)

    def _run(self) -> None:
        try:
            if _is_connected(self._session):
                self._session.addTag(self._tag)
            else:
                self._session.sparkContext.addJobTag(self._tag)
            self._rows.collect()
        # Whatever Spark, Py4J or gRPC raise: the one who waits judges it.
        except Exception as error:  # noqa: BLE001
            self.error = error
        finally:
            self._over.set()


def _task(
    work: Callable[[Any, Report], Any],
    items: Sequence[Any],
    folder: StoragePath,
    key: bytes,
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What a task does with its partition: one number of an item."""

    def do(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                if (folder / OPEN).exists():
                    outcome = outcome_of(_on_its_gpu(work), number, items[number])
                    _post(folder, outcome, key)
            yield batch
        _settle()

    return do


def _settle() -> None:
    """Keep what this worker has loaded out of the collections of garbage to come.

    After each task PySpark collects, and would look at a quarter of a million objects of
    torch and polars each time: a task took 0.36 s of a core more.
    """
    if not gc.get_freeze_count():
        gc.freeze()


def _on_its_gpu(work: Callable[[Any, Report], Any]) -> Callable[[Any, Report], Any]:
    """Score on the GPU that Spark has given to this task."""
    from pyspark import TaskContext

    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context else None
    if gpus and isinstance(work, ScoreChunk) and work.config.device == "cuda":
        return work.on(f"cuda:{gpus.addresses[0]}")
    return work


def _post(folder: StoragePath, outcome: Outcome, key: bytes) -> None:
    data = pickle.dumps(outcome)
    place = folder / f"{outcome.number}{POSTED}"
    # A folder that is gone is a driver that is.
    with suppress(FileNotFoundError):
        signed = hmac.digest(key, data, "sha256") + data
        replace_if_unchanged(place, signed, seen=read_versioned(place))


def _collected(folder: StoragePath, key: bytes) -> Iterator[Outcome]:
    with suppress(FileNotFoundError):  # Another run has the day now, and has swept.
        yield from _outcomes(folder, key)


def _outcomes(folder: StoragePath, key: bytes) -> Iterator[Outcome]:
    for path in sorted(path for path in folder.iterdir() if path.name.endswith(POSTED)):
        posted = path.read_bytes()
        path.unlink()
        mark, data = posted[:MARK_BYTES], posted[MARK_BYTES:]
        if not hmac.compare_digest(mark, hmac.digest(key, data, "sha256")):
            msg = (
                f"{path} was not written by a task of this job, so it was not read. "
                "Nothing was committed. See who else writes there, and run the day again."
            )
            raise EngineError(msg)
        yield pickle.loads(data)


def _session(builder_of: Any, settings: Spark) -> Any:
    asked = {name: _word(value) for name, value in settings.settings.items()}
    remote = asked.pop("spark.remote", None) or os.environ.get("SPARK_REMOTE")
    builder = builder_of.builder
    if remote:
        builder = builder.remote(remote)
        master = remote
    else:
        _must_have_java()
        asked = DEFAULTS | asked
        if not any(name in os.environ for name in SET_UP):
            # Spark's own `local[*]` would not try anything twice.
            asked.setdefault("spark.master", f"local[*,{settings.attempts}]")
        asked.setdefault("spark.task.maxFailures", str(settings.attempts))
        master = asked.get("spark.master", "the master that is set up here")
    if master.startswith("local"):
        # Workers on this machine; elsewhere, whoever sets Spark up says which Python.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    for name, value in asked.items():
        builder = builder.config(name, value)
    try:
        if remote and not remote.startswith("local"):
            must_answer(remote, port=PORT)
        # Of several masters, one is enough, and Spark finds it.
        elif master.startswith("spark://") and "," not in master:
            must_answer(master, port=MASTER_PORT)
        with own_signals(), _quietly():
            return builder.getOrCreate()
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    # A JVM that does not come up, a server that does not answer: each has its own.
    except Exception as error:
        msg = (
            f"no Spark session can be had at {master}: {_last_words(error)}. Nothing was "
            "begun. Mend `settings` under `engine`, or start what they name."
        )
        raise EngineError(msg) from error


def _must_have_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else shutil.which("java")
    output = ""
    with suppress(OSError):
        if java:
            output = subprocess.run(
                [java, "-version"], capture_output=True, text=True, check=False
            ).stderr
    version = re.search(r'version "(\d+)', output)
    if version and int(version[1]) >= JAVA:
        return
    found = f"Java {version[1]} at {java}" if version else f"none at {java or 'PATH'}"
    msg = (
        f"engine 'spark' needs Java {JAVA} or newer; found {found}. Install one and set "
        "JAVA_HOME, or name a server: settings: {spark.remote: 'sc://host:15002'}."
    )
    raise EngineError(msg)


def _device(device: str, gpus: float) -> Literal["cpu", "cuda"]:
    if device.startswith("cuda:"):
        msg = (
            f"device '{device}' names a GPU of this machine, but on Spark it is Spark "
            f"that hands them out: set device to 'cuda', and {GPUS} under `settings`"
        )
        raise ConfigError(msg)
    if device == "cuda" and not gpus:
        msg = (
            f"device is 'cuda', but {GPUS} is not set, so that tasks get no GPU: set it "
            "under `settings`, with spark.executor.resource.gpu.amount"
        )
        raise ConfigError(msg)
    return "cuda" if gpus and device != "cpu" else "cpu"


def _is_connected(session: Any) -> bool:
    """Whether a session talks to a server by Spark Connect."""
    return ".connect." in type(session).__module__


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what Spark says of a pandas that is newer; no row meets pandas here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
        yield


def _not_installed(error: ModuleNotFoundError) -> EngineError:
    return EngineError(
        f"engine 'spark' needs a package that is not installed: {error.name}. "
        "pip install 'batch-assets[spark]'"
    )


def _last_words(error: BaseException) -> str:
    """Spark writes its errors in many lines, with Java's stack in them."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("at ", "... "))]
    return " ".join(kept)[:500] or type(error).__name__


open_pool = spark_pool  # As the factory asks every engine for it.
