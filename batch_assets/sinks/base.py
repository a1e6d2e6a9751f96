"""What every remote store does with a version, and what it must say of it.

A sink holds versions of one pipeline, whole or half loaded, and names the one that is
served. It knows no other store, not how a version is followed, and no Dagster.
"""

import operator
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator

from batch_assets.errors import SinkError, SnapshotError
from batch_assets.formats import SINK
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.shards import WORD_MASK, content, hash_keys, shard_of
from batch_assets.snapshots.denylist import Denylist
from batch_assets.snapshots.manifest import SnapshotManifest
from batch_assets.snapshots.version import Answer, Version
from batch_assets.strict import StrictModel

STAYS = "what this store serves, it still serves"


class SinkVersion(StrictModel):
    """A version in a store: its manifest, and NumPy's name of each output's type.

    Each store keeps it as JSON beside the rows.
    """

    format: Annotated[int, AfterValidator(SINK.checked)] = SINK.version
    manifest: SnapshotManifest
    types: tuple[Literal["float32", "float64", "int32", "int64"], ...]

    @classmethod
    def of(cls, version: Version) -> Self:
        """Describe a version on disk as a store is told of it."""
        columns = version.shard(0).columns
        types = [columns[name].dtype.name for name in version.manifest.outputs]
        return cls.model_validate({"manifest": version.manifest, "types": types})

    @property
    def name(self) -> str:
        return self.manifest.version

    @property
    def key(self) -> str:
        return self.manifest.key

    @property
    def strings(self) -> bool:
        """Whether keys are strings, and not integers."""
        return self.manifest.key_dtype == "string"

    @property
    def outputs(self) -> list[tuple[str, str]]:
        """Names and types of the outputs, in the order of the packed bytes."""
        return list(zip(self.manifest.outputs, self.types, strict=True))

    @property
    def shards(self) -> int:
        return len(self.manifest.files)

    @property
    def rows(self) -> int:
        return self.manifest.rows

    @property
    def order(self) -> tuple[str, datetime]:
        """What newer means: the day, then when the version was made."""
        return self.manifest.day, self.manifest.created_at

    def is_alike(self, other: "SinkVersion") -> bool:
        """Return whether both have the same rows, whenever they were made."""
        return self._content() == other._content()

    def key_of(self, key: int | str) -> int | str | None:
        """Return a key as it is looked up; None if no version can have it.

        Raises:
            SnapshotError: it is of the wrong type.
        """
        if self.strings:
            if not isinstance(key, str):
                msg = f"the key '{self.key}' is a string, got {key!r}"
                raise SnapshotError(msg)
            # PostgreSQL knows no text with a NUL in it, UTF-8 no half of a pair.
            fits = "\0" not in key and not re.search("[\ud800-\udfff]", key)
            return key if fits else None
        try:
            number = int(key) if isinstance(key, str) else operator.index(key)
        except (TypeError, ValueError):
            msg = f"the key '{self.key}' is an integer, got {key!r}"
            raise SnapshotError(msg) from None
        return number if -(2**63) <= number < 2**63 else None

    def _content(self) -> tuple[Any, ...]:
        manifest = self.manifest
        files = [(file.rows, file.keys, file.content) for file in manifest.files]
        return (
            self.name,
            self.key,
            manifest.key_dtype,
            self.outputs,
            manifest.release,
            files,
        )


@dataclass(frozen=True)
class RowChecksums:
    """What some rows add up to: the total of their keys, and `shards.content`."""

    total: ControlTotal = ControlTotal()
    content: int = 0

    @classmethod
    def of(cls, keys: pa.Array, outputs: list[np.ndarray]) -> Self:
        """Sum up n keys with their outputs, n values each."""
        hashes = hash_keys(keys)
        return cls(ControlTotal.of_hashes(hashes), content(hashes, outputs))

    def __add__(self, other: "RowChecksums") -> "RowChecksums":
        whole = (self.content + other.content) & WORD_MASK
        return RowChecksums(self.total + other.total, whole)

    def __str__(self) -> str:
        return f"{self.total.rows} {self.total.keys} {self.content}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the evidence that `str` wrote."""
        rows, keys, whole = (int(word) for word in text.split())
        return cls(ControlTotal(rows, keys), whole)


def evidence_by_shard(
    keys: pa.Array, outputs: list[np.ndarray], shards: int
) -> dict[int, RowChecksums]:
    """Sum up rows of any shards, by the shard that their keys belong to."""
    numbers = shard_of(hash_keys(keys), shards)
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(shards + 1))
    evidence = {}
    for shard in range(shards):
        rows = order[ends[shard] : ends[shard + 1]]
        if len(rows):
            picked = [values[rows] for values in outputs]
            evidence[shard] = RowChecksums.of(keys.take(pa.array(rows)), picked)
    return evidence


@dataclass(frozen=True)
class StoredVersion:
    """A version in a store; `served_at` is when it was swapped in last, if ever."""

    about: SinkVersion
    began_at: datetime
    served_at: datetime | None


class Sink(Protocol):
    """One pipeline's versions in a remote store.

    Every method raises `SinkError` where the store can't be reached, refuses, or holds
    what it should not.
    """

    address: str  # Where it is, without secrets.

    def begin(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        """Make room for a version; return the shards of it that are loaded already."""

    def load(
        self, about: SinkVersion, shard: int, rows: pa.Table, evidence: RowChecksums
    ) -> None:
        """Write a shard's rows, and after them the record that they are loaded."""

    def finish(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        """Make a loaded version ready, read every row of it back, and add them up."""

    def swap(self, about: SinkVersion, *, back: bool) -> None:
        """Serve a version, if its records are all there and it is not older than what
        is served; with `back`, if it is older, too. One atomic act."""

    def current(self) -> str | None:
        """Return the version that is served."""

    def stored_versions(self) -> list[StoredVersion]:
        """List the versions in the store, whole or half loaded, in any order."""

    def drop(self, version: str) -> None:
        """Remove a version; refuse that which is served."""

    def deny(self, denylist: Denylist) -> None:
        """Let no client show these items any more, and no others be held back."""

    def denied(self) -> Denylist:
        """Return the items that clients do not show now."""

    def get(self, key: int | str, segment: int | str | None = None) -> Answer | None:
        """Return the outputs of a key, or None if the night did not score it.

        The pointer and the row are of one version, whatever is swapped meanwhile. What
        is denied is asked for once a second.

        Args:
            key: of the pipeline's type.
            segment: whose fallback the key gets, if the pipeline has one.

        Raises:
            NotServedError: the store serves nothing.
            SnapshotError: the key is of the wrong type.
        """

    def close(self) -> None:
        """Give the connections back."""


def must_be_whole(about: SinkVersion, records: int) -> None:
    """Refuse to swap in a version of which a shard is not recorded as loaded.

    Every store asks in the act of its swap.

    Raises:
        SinkError: it is not.
    """
    if records != about.shards:
        msg = (
            f"{about.name} has {records} of {about.shards} shards loaded, so it was "
            f"not swapped in; {STAYS}. Load it again."
        )
        raise SinkError(msg)


def must_be_newer(
    about: SinkVersion, served: SinkVersion | None, *, back: bool
) -> None:
    """Refuse to swap in a version that is older than what is served.

    Every store asks in the act of its swap.

    Args:
        about: the version that shall be served.
        served: what is served.
        back: an operator wants an older one.

    Raises:
        SinkError: it is older than what is served.
    """
    if served and served.order > about.order and not back:
        msg = (
            f"{served.name} is served, which is newer than {about.name}; {STAYS}. To go "
            f"back on purpose: batch-assets sinks follow {about.manifest.pipeline}"
        )
        raise SinkError(msg)


def must_not_be_served(version: str, served: str | None) -> None:
    """Refuse to drop the version that is served.

    Raises:
        SinkError: it is served.
    """
    if version == served:
        msg = f"{version} is served, so it was not dropped; swap another one in first"
        raise SinkError(msg)


@contextmanager
def store_errors(address: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise the errors of a store's client library as `SinkError`, with its address."""
    try:
        yield
    except errors as error:
        msg = f"{address} can't be used: {str(error).strip()}; {STAYS}"
        raise SinkError(msg) from error
