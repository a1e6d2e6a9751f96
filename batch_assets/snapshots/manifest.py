"""What a version is, in the words of its manifest.

    <root>/snapshots/<pipeline>/v=<version>/shard=NN.arrow    sorted, one batch each
    <root>/snapshots/<pipeline>/v=<version>/manifest.json     sizes, sha256, lineage

A manifest bears a digest of itself, so that a bit that flips in it is noticed too. It
knows neither which version is served nor how a key is found in one.
"""

import hashlib
import json
import operator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from batch_assets.errors import SnapshotError
from batch_assets.formats import SNAPSHOT
from batch_assets.lake.overrides import Override
from batch_assets.lake.shards import hash_key
from batch_assets.snapshots.fallback import Fallback
from batch_assets.snapshots.forms import Form
from batch_assets.storage import StoragePath
from batch_assets.strict import StrictModel

MANIFEST = "manifest.json"
DIGEST = "digest"
# A version's name begins with its day and a digest of its predictions: 10 + 1 + 12.
NAMED = 23
# A thousand years: what is later than 9999 is no date.
MOST_SECONDS = 1_000 * 366 * 86_400
# Of rows or bytes: more can't be in a file.
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class ReleaseName(NamedTuple):
    """Which release: the model's name, and the sha256 of what it is."""

    name: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name} {self.digest[:12]}"


class KeptShard(StrictModel):
    """Where the rows of a shard are from that could not be scored, and why not.

    `version` is the one that they were built for. `answered` of the shard's raw rows of
    the night have an answer there.
    """

    version: str
    day: str
    created_at: AwareDatetime
    model_name: str
    model_version: str
    why: str
    answered: Count


class ShardFile(StrictModel):
    """One file of a version.

    `size` in bytes; `keys` and `content` are checksums of its keys and of its rows
    (`lake.shards`), `content` None where the predictions' receipts don't tell it;
    `raw_rows` came in that night; `linked_from` is the version that the very file was
    built for, if it was not built for this one. `kept` is of a shard that could not be
    scored, and has the rows of an earlier night.
    """

    # No path: what a manifest names lies beside it.
    name: str = Field(pattern=r"^[\w=-]+\.arrow$")
    size: Count
    sha256: str
    rows: Count
    keys: NonNegativeInt
    content: NonNegativeInt | None
    raw_rows: Count
    linked_from: str | None = None
    kept: KeptShard | None = Field(default=None, exclude_if=operator.not_)

    @model_validator(mode="after")
    def _answers_are_of_raw_rows(self) -> Self:
        # None where nobody counted them.
        if self.raw_rows and self.answered > self.raw_rows:
            msg = f"{self.name} answers {self.answered:,} of {self.raw_rows:,} raw rows"
            raise ValueError(msg)
        return self

    @property
    def answered(self) -> int:
        """How many of the night's raw rows have an answer."""
        return self.kept.answered if self.kept else self.rows

    @property
    def coverage(self) -> float:
        """The share of the night's raw rows that have an answer."""
        return self.answered / self.raw_rows if self.raw_rows else 1.0


class SnapshotManifest(StrictModel):
    """What one version is: of which day, release and predictions, in which files.

    `predictions` is the digest of the very bytes that it was built from, and `parent`
    the version that was served when it was built. `outputs` are columns of numbers, and
    `forms` say which of them are one output that is more. `forced_at` is when the day's rows were
    taken, if that was when the day was over, from a source that keeps no history.
    `fallback` is what a key gets that is in none of the files, and `overrides` are of
    the gates that the day passed though they were shut: it is stale when the first ends.
    """

    format: Annotated[int, AfterValidator(SNAPSHOT.checked)] = SNAPSHOT.version
    pipeline: str
    version: str
    day: str
    created_at: AwareDatetime
    stale_after_seconds: float = Field(ge=0, le=MOST_SECONDS)
    key: str
    key_dtype: Literal["int64", "string"]
    outputs: tuple[str, ...]
    model_name: str
    model_version: str
    job: str
    predictions: str
    files: tuple[ShardFile, ...]
    parent: str | None = None
    forced_at: AwareDatetime | None = None
    forms: tuple[Form, ...] = ()
    fallback: Fallback | None = None
    overrides: tuple[Override, ...] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def release(self) -> ReleaseName:
        return ReleaseName(self.model_name, self.model_version)

    @property
    def stale_after(self) -> timedelta:
        return timedelta(seconds=self.stale_after_seconds)

    @property
    def stale_at(self) -> datetime:
        """When it is too old, or when an override ends that it was published by."""
        ends = [one.until for one in self.overrides]
        return min([self.created_at + self.stale_after, *ends])

    @property
    def is_stale(self) -> bool:
        return datetime.now(UTC) > self.stale_at

    @property
    def coverage(self) -> float:
        """The share of the night's raw rows that have an answer, in 0..1."""
        raw = sum(file.raw_rows for file in self.files)
        return sum(file.answered for file in self.files) / raw if raw else 1.0

    @property
    def kept_shards(self) -> dict[int, KeptShard]:
        """The shards that have the rows of an earlier night."""
        return {at: file.kept for at, file in enumerate(self.files) if file.kept}

    @cached_property
    def by_shard(self) -> tuple["SnapshotManifest", ...]:
        """What the manifest says of each shard's rows: of a kept one, whose they are."""
        alike = ("day", "created_at", "model_name", "model_version")
        return tuple(
            self.model_copy(update=file.kept.model_dump(include=set(alike)))
            if file.kept
            else self
            for file in self.files
        )

    def of_key(self, key: int | str) -> "SnapshotManifest":
        """Return what it says of the rows of the key's shard."""
        if not self.kept_shards:
            return self
        return self.by_shard[hash_key(key) % len(self.files)]

    def dumps(self) -> str:
        """Return the text of manifest.json."""
        # Left out of every other version, so that older readers can read those.
        later = "forced_at", "forms", "fallback", "overrides"
        out = {name for name in later if not getattr(self, name)}
        body = self.model_dump(mode="json", exclude=out)
        return json.dumps({**body, DIGEST: _digest(body)}, indent=2) + "\n"

    @classmethod
    def loads(cls, data: bytes) -> "SnapshotManifest":
        """Read a manifest.

        Raises:
            ValueError: it is not whole, or of another format.
        """
        try:
            body = json.loads(data)
        except RecursionError as error:
            msg = "its brackets are nested without end"
            raise ValueError(msg) from error
        if not isinstance(body, dict):
            msg = f"expected an object, got {type(body).__name__}"
            raise ValueError(msg)
        digest = body.pop(DIGEST, None)
        remake = None
        if {"pipeline", "day"} <= body.keys():
            again = "batch-assets run {pipeline} --day {day}"
            remake = f"run its day again: {again.format_map(body)}"
        if why := SNAPSHOT.refusal(body.get("format"), remake):
            raise ValueError(why)
        if digest != _digest(body):
            msg = "its digest is not that of its content"
            raise ValueError(msg)
        return cls.model_validate(body)


def read_manifest(folder: StoragePath, version: str) -> SnapshotManifest:
    """Return the manifest of a version.

    Args:
        folder: of the version.
        version: its name.

    Raises:
        SnapshotError: it is not there, not whole, or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = SnapshotManifest.loads(path.read_bytes())
    # ValidationError and JSON's own errors are ValueErrors.
    except (OSError, ValueError) as error:
        reason = _first_line(error)
        msg = f"version {version} has no readable {path}: {reason}"
        raise SnapshotError(msg) from error
    if manifest.version != version:
        msg = f"{path} is the manifest of {manifest.version}, not of {version}"
        raise SnapshotError(msg)
    return manifest


def day_of(version: str) -> str:
    """Return the day that a version is of; its name begins with it."""
    return version[:10]


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
