"""What every remote store does with a version, and what it must say of it.

A sink holds versions of one pipeline, whole or half loaded, and names the one that is
served. It knows no other store, not how a version is followed, and no Dagster.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, Self

import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict

from batch_assets.errors import SinkError, SnapshotError
from batch_assets.lake.books import Tally
from batch_assets.lake.shards import WORD_MASK, content, hash_keys, shard_of
from batch_assets.serving.snapshot import Answer, Snapshot

STAYS = "what this store serves, it still serves"


class SinkVersion(BaseModel):
    """What a version in a store is of; each store keeps it as JSON beside the rows.

    `outputs` are names and NumPy's names of types, in the order of the packed bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    version: str
    day: str
    created_at: AwareDatetime
    key: str
    key_dtype: Literal["int64", "string"]
    outputs: tuple[tuple[str, Literal["float32", "float64", "int32", "int64"]], ...]
    shards: int
    rows: int
    model_name: str
    model_version: str

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """A version of the snapshot, as a store is told of it."""
        manifest = snapshot.manifest
        schema = snapshot.shard(0).table.schema
        types = [(n, schema.field(n).type.to_pandas_dtype()) for n in manifest.outputs]
        return cls.model_validate(
            {
                **manifest.model_dump(
                    include={"version", "day", "created_at", "key", "key_dtype"}
                    | {"model_name", "model_version"}
                ),
                "outputs": [(name, np.dtype(dtype).name) for name, dtype in types],
                "shards": len(manifest.files),
                "rows": manifest.rows,
            }
        )

    @property
    def order(self) -> tuple[str, datetime]:
        """What newer means: the day, then when the version was made."""
        return self.day, self.created_at

    def is_alike(self, other: "SinkVersion") -> bool:
        """Whether both are the same rows, whenever they were made."""
        return self == other.model_copy(update={"created_at": self.created_at})

    def key_of(self, key: int | str) -> int | str:
        """A key as it is looked up.

        Raises:
            SnapshotError: it is of the wrong type.
        """
        if self.key_dtype == "string":
            if not isinstance(key, str):
                msg = f"the key '{self.key}' is a string, got {key!r}"
                raise SnapshotError(msg)
            return key
        try:
            return int(key) if isinstance(key, str) else operator.index(key)
        except (TypeError, ValueError):
            msg = f"the key '{self.key}' is an integer, got {key!r}"
            raise SnapshotError(msg) from None

    def answer(self, key: int | str, outputs: Iterable[Any]) -> Answer:
        """What a lookup found, as the local reader says it."""
        names = [name for name, _ in self.outputs]
        return Answer(
            key=key,
            outputs=dict(zip(names, outputs, strict=True)),
            version=self.version,
            day=self.day,
            model_name=self.model_name,
            model_version=self.model_version,
            age=datetime.now(UTC) - self.created_at,
        )


@dataclass(frozen=True)
class Evidence:
    """What some rows add up to: the tally of their keys, and `shards.content`."""

    tally: Tally = Tally()
    content: int = 0

    @classmethod
    def of(cls, keys: pa.Array, outputs: list[np.ndarray]) -> Self:
        """The evidence of n keys with their outputs, n values each."""
        hashes = hash_keys(keys)
        return cls(Tally.of_hashes(hashes), content(hashes, outputs))

    def __add__(self, other: "Evidence") -> "Evidence":
        whole = (self.content + other.content) & WORD_MASK
        return Evidence(self.tally + other.tally, whole)

    def __str__(self) -> str:
        return f"{self.tally.rows} {self.tally.keys} {self.content}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The evidence that `str` wrote."""
        rows, keys, whole = (int(word) for word in text.split())
        return cls(Tally(rows, keys), whole)


def evidence_by_shard(
    keys: pa.Array, outputs: list[np.ndarray], shards: int
) -> dict[int, Evidence]:
    """The evidence of rows of any shards, by the shard that their keys belong to."""
    numbers = shard_of(hash_keys(keys), shards)
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(shards + 1))
    found = {}
    for shard in range(shards):
        mine = order[ends[shard] : ends[shard + 1]]
        if len(mine):
            picked = [values[mine] for values in outputs]
            found[shard] = Evidence.of(keys.take(pa.array(mine)), picked)
    return found


@dataclass(frozen=True)
class Held:
    """A version in a store; `served_at` is when it was swapped in last, if ever."""

    about: SinkVersion
    began_at: datetime
    served_at: datetime | None


class Sink(Protocol):
    """One pipeline's versions in a remote store.

    Every method raises `SinkError` where the store can't be reached, refuses, or holds
    what it should not.
    """

    place: str  # Where it is, without secrets.

    def begin(self, about: SinkVersion) -> Mapping[int, Evidence]:
        """Make room for a version; the shards of it that are loaded already."""

    def load(
        self, about: SinkVersion, shard: int, rows: pa.Table, evidence: Evidence
    ) -> None:
        """Write a shard's rows, and after them the record that they are loaded."""

    def finish(self, about: SinkVersion) -> Mapping[int, Evidence]:
        """Make a loaded version ready, read every row of it back, and add them up."""

    def swap(self, about: SinkVersion, *, back: bool) -> None:
        """Serve a version, if its records are all there and it is not older than what
        is served; with `back`, if it is older, too. One atomic act."""

    def current(self) -> str | None:
        """The version that is served."""

    def held(self) -> list[Held]:
        """The versions in the store, whole or half loaded, in any order."""

    def drop(self, version: str) -> None:
        """Remove a version; that which is served is refused."""

    def get(self, key: int | str) -> Answer | None:
        """The outputs of a key, or None if the night did not score it.

        The pointer and the row are of one version, whatever is swapped meanwhile.

        Raises:
            NotServedError: the store serves nothing.
            SnapshotError: the key is of the wrong type.
        """

    def close(self) -> None:
        """Give the connections back."""


def must_be_whole(about: SinkVersion, records: int) -> None:
    """What each store asks in the act of a swap: every shard is recorded as loaded.

    Raises:
        SinkError: it is not.
    """
    if records != about.shards:
        msg = (
            f"{about.version} has {records} of {about.shards} shards loaded, so it was "
            f"not swapped in; {STAYS}. Load it again."
        )
        raise SinkError(msg)


def must_be_newer(
    about: SinkVersion, served: SinkVersion | None, *, back: bool
) -> None:
    """What each store asks in the act of a swap: it goes forward only.

    Args:
        about: the version that shall be served.
        served: what is served.
        back: an operator wants an older one.

    Raises:
        SinkError: it is older than what is served.
    """
    if served and served.order > about.order and not back:
        msg = (
            f"{served.version} is served, which is newer than {about.version}; {STAYS}. "
            "To go back on purpose, roll the snapshot back."
        )
        raise SinkError(msg)


def must_not_be_served(version: str, served: str | None) -> None:
    """What each store asks before it drops a version.

    Raises:
        SinkError: it is served.
    """
    if version == served:
        msg = f"{version} is served, so it was not dropped; swap another one in first"
        raise SinkError(msg)
