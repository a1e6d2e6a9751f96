"""Five stores that a key can be looked up in, behind one way to build and to ask.

Each builds from the same sorted arrays and answers with the outputs as Python numbers.
What a store is known to be fastest with is used: see its docstring. It measures nothing.
"""

import shutil
import socket
import sqlite3
import struct
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import lmdb
import numpy as np
import pyarrow as pa
import redis

from batch_assets import Snapshot
from batch_assets.snapshots.build import build_version
from batch_assets.snapshots.manifest import SnapshotManifest, version_folder
from batch_assets.snapshots.pointers import CURRENT, point

Get = Callable[[int], Any]


class Store(ABC):
    """One store in a folder. `lookups` is how many are timed: fewer where one is slow."""

    name: str
    lookups = 100_000

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def build(self, keys: np.ndarray, outputs: np.ndarray) -> None:
        """Keep rows: sorted int64 (rows,) and float32 (rows, outputs), synced to disk."""

    @abstractmethod
    def opened(self) -> Any:
        """A context manager that gives the lookup of one key: its outputs, or None."""

    def size(self) -> int:
        """Bytes that it takes."""
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())

    @property
    @abstractmethod
    def version(self) -> str: ...


class BatchAssets(Store):
    """This project: built from a night's predictions, proved, and read by its reader."""

    name = "batch_assets"

    def __init__(self, folder: Path, plan: SnapshotManifest, parts: list[Any]) -> None:
        super().__init__(folder)
        self._plan, self._parts = plan, parts

    def build(self, keys: np.ndarray, outputs: np.ndarray) -> None:
        self.folder.mkdir(parents=True)
        self.serve(self._plan.version)

    def serve(self, version: str) -> None:
        """Build the rows as a version of this name, prove them, and let readers follow."""
        plan = self._plan.model_copy(update={"version": version})
        building = self.folder / f".building-{version}"
        build_version(building, plan, self._parts, {}, [])
        building.rename(version_folder(self.folder, version))
        point(self.folder / CURRENT, version)

    @contextmanager
    def opened(self) -> Iterator[Get]:
        with Snapshot(self.folder) as snapshot:

            def get(key: int) -> Any:
                answer = snapshot.get(key)
                return answer and answer.outputs

            get(0)
            yield get

    @property
    def version(self) -> str:
        return f"pyarrow {pa.__version__}"


class DuckDb(Store):
    """A sorted table with a primary key, and a prepared query with a parameter."""

    name = "duckdb"
    lookups = 3_000

    def build(self, keys: np.ndarray, outputs: np.ndarray) -> None:
        self.folder.mkdir(parents=True)
        columns = {f"o{n}": outputs[:, n] for n in range(outputs.shape[1])}
        rows = pa.table({"k": keys, **columns})
        declared = ", ".join(f"{name} FLOAT" for name in columns)
        with duckdb.connect(str(self.folder / "rows.duckdb")) as connection:
            connection.execute(f"CREATE TABLE rows (k BIGINT PRIMARY KEY, {declared})")
            connection.register("given", rows)
            connection.execute("INSERT INTO rows FROM given")
            connection.execute("CHECKPOINT")

    @contextmanager
    def opened(self) -> Iterator[Get]:
        with duckdb.connect(str(self.folder / "rows.duckdb"), read_only=True) as on:
            query = "SELECT * EXCLUDE k FROM rows WHERE k = ?"
            yield lambda key: on.execute(query, [key]).fetchone()

    @property
    def version(self) -> str:
        return f"duckdb {duckdb.__version__}"


class Sqlite(Store):
    """A table without row ids, mapped and immutable; the outputs as one blob."""

    name = "sqlite"

    def build(self, keys: np.ndarray, outputs: np.ndarray) -> None:
        self.folder.mkdir(parents=True)
        on = sqlite3.connect(self.folder / "rows.sqlite")
        on.execute("PRAGMA synchronous = FULL")
        on.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB) WITHOUT ROWID")
        data, width = outputs.tobytes(), outputs.itemsize * outputs.shape[1]
        rows = (
            (key, data[at * width : (at + 1) * width])
            for at, key in enumerate(keys.tolist())
        )
        with on:
            on.executemany("INSERT INTO t VALUES (?, ?)", rows)
        on.close()

    @contextmanager
    def opened(self) -> Iterator[Get]:
        path = self.folder / "rows.sqlite"
        on = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        on.execute(f"PRAGMA mmap_size = {path.stat().st_size}")
        cursor = on.cursor()

        def get(key: int) -> Any:
            found = cursor.execute("SELECT v FROM t WHERE k = ?", (key,)).fetchone()
            return found and struct.unpack(f"={len(found[0]) // 4}f", found[0])

        yield get
        on.close()

    @property
    def version(self) -> str:
        return f"sqlite {sqlite3.sqlite_version}"


class Lmdb(Store):
    """Sorted keys are appended; one long read transaction, values in place."""

    name = "lmdb"

    def build(self, keys: np.ndarray, outputs: np.ndarray) -> None:
        self.folder.mkdir(parents=True)
        size = 4 * (outputs.nbytes + keys.nbytes) + (64 << 20)
        # Its keys are compared as bytes: most significant first, no sign.
        names = (keys.astype(np.uint64) ^ np.uint64(1 << 63)).astype(">u8").tobytes()
        data, width = outputs.tobytes(), outputs.itemsize * outputs.shape[1]
        rows = (
            (names[8 * at : 8 * at + 8], data[at * width : (at + 1) * width])
            for at in range(len(keys))
        )
        environment = lmdb.open(str(self.folder), map_size=size)
        with environment.begin(write=True) as writing:
            writing.cursor().putmulti(rows, append=True)
        environment.sync(True)
        # The file is as large as the map may grow: keep what is used.
        environment.copy(str(self._compact()), compact=True)
        environment.close()

    def _compact(self) -> Path:
        folder = self.folder / "compact"
        folder.mkdir()
        return folder

    def size(self) -> int:
        return (self.folder / "compact" / "data.mdb").stat().st_size

    @contextmanager
    def opened(self) -> Iterator[Get]:
        path = str(self.folder / "compact")
        with (
            lmdb.open(path, readonly=True, lock=False) as environment,
            environment.begin(buffers=True) as reading,
        ):

            def get(key: int) -> Any:
                found = reading.get(((key ^ (1 << 63)) % (1 << 64)).to_bytes(8))
                return found and struct.unpack(f"={len(found) // 4}f", found)

            yield get

    @property
    def version(self) -> str:
        return f"lmdb {'.'.join(map(str, lmdb.version()))}"


class Redis(Store):
    """A server on loopback; values of bytes, set in pipelines, asked one by one."""

    name = "redis"
    lookups = 30_000

    def build(self, keys: np.ndarray, outputs: np.ndarray) -> None:
        data, width = outputs.tobytes(), outputs.itemsize * outputs.shape[1]
        whole = keys.tolist()
        for start in range(0, len(whole), 10_000):
            pipeline = self._client.pipeline(transaction=False)
            for at in range(start, min(start + 10_000, len(whole))):
                pipeline.set(whole[at], data[at * width : (at + 1) * width])
            pipeline.execute()
        self._client.save()

    @contextmanager
    def running(self) -> Iterator[None]:
        """The server, on a free port, gone afterwards."""
        self.folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = ["--save", "", "--bind", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(
            [
                "redis-server",
                *flags,
                "--dir",
                str(self.folder),
                "--loglevel",
                "warning",
            ],
            stdout=subprocess.DEVNULL,
        )
        self._client = redis.Redis(port=port)
        try:
            _until_it_answers(self._client)
            yield
        finally:
            self._client.close()
            server.terminate()
            server.wait()

    @contextmanager
    def opened(self) -> Iterator[Get]:
        client = self._client

        def get(key: int) -> Any:
            found = client.get(key)
            return found and struct.unpack(f"={len(found) // 4}f", found)

        yield get

    def size(self) -> int:
        return self._client.info("memory")["used_memory"]

    @property
    def version(self) -> str:
        return f"redis {self._client.info('server')['redis_version']}"


def missing() -> str | None:
    """What has to be installed before this can run, if anything."""
    if shutil.which("redis-server"):
        return None
    return "redis-server is not there: apt-get install redis-server"


def _until_it_answers(client: redis.Redis, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return
