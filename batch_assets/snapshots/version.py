"""One version, opened to look keys up. It never changes under its reader.

Files are memory-mapped and searched in place. Each is hashed before it is first used,
because Arrow serves a flipped bit without a word. It knows neither Dagster nor torch,
nor which version is served.
"""

import copy
import itertools
import operator
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from batch_assets.errors import SnapshotError
from batch_assets.lake.overrides import Override
from batch_assets.lake.shards import hash_key, hash_keys
from batch_assets.snapshots.denylist import Denylist
from batch_assets.snapshots.fallback import Fallbacks
from batch_assets.snapshots.fetch import fetched
from batch_assets.snapshots.forms import plain
from batch_assets.snapshots.manifest import (
    KeptShard,
    ReleaseName,
    ShardFile,
    SnapshotManifest,
    read_manifest,
)
from batch_assets.snapshots.shard import Shard
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.storage import StoragePath, is_local

# Not what int() takes: `1_0`, `+1`, ` 1` and digits of other scripts are no keys.
AN_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
# So much of a key is shown in an error.
SHOWN = 80


class Answer(NamedTuple):
    """What a lookup found: the outputs, and of which version they are.

    An output is a number; of a label the name of its class, of a vector a list of numbers,
    of a ranking a list of (item, score), the best first.

    `is_fallback`: the night does not cover the key, and these are the outputs of its
    `segment`, or of all others.

    A tuple, because it is made in half the time of a frozen dataclass.
    """

    key: int | str
    outputs: dict[str, Any]
    manifest: SnapshotManifest
    is_fallback: bool = False
    segment: int | str | None = None

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def day(self) -> str:
        return self.manifest.day

    @property
    def release(self) -> ReleaseName:
        return self.manifest.release

    @property
    def age(self) -> timedelta:
        """How long ago the version was made."""
        return age_of(self.manifest)

    @property
    def is_stale(self) -> bool:
        """Whether it is older than the pipeline, or an override, allows."""
        return self.manifest.is_stale

    @property
    def kept(self) -> KeptShard | None:
        """Why the key's shard has the rows of an earlier night, if it has."""
        return None if self.is_fallback else self._file.kept

    @property
    def coverage(self) -> float:
        """The share of the night's raw rows that have an answer, of the key's shard.

        Of a key that has none, and gets the fallback, of all shards.
        """
        return self.manifest.coverage if self.is_fallback else self._file.coverage

    @property
    def _file(self) -> ShardFile:
        files = self.manifest.files
        return files[hash_key(self.key) % len(files)]

    @property
    def overrides(self) -> tuple[Override, ...]:
        """By whom, why and until when it was published though gates were shut."""
        return self.manifest.overrides

    @property
    def plain_outputs(self) -> dict[str, Any]:
        """The outputs as JSON has them."""
        forms = self.manifest.forms
        return plain(self.outputs, forms) if forms else self.outputs

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON; `age` in seconds."""
        fallback = {"segment": self.segment} if self.is_fallback else {}
        return {
            "key": self.key,
            "outputs": self.plain_outputs,
            "is_fallback": self.is_fallback,
            **fallback,
            "version": self.version,
            "day": self.day,
            "model_name": self.release.name,
            "model_version": self.release.digest,
            "age": self.age.total_seconds(),
            "is_stale": self.is_stale,
            "coverage": self.coverage,
            **kept_of(self),
            **overrides_of(self.manifest),
        }


class Version:
    """One version, opened for lookups."""

    def __init__(
        self,
        folder: Path,
        manifest: SnapshotManifest,
        *,
        denylist: Denylist,
        hashed: bool = False,
    ) -> None:
        """A version in a folder of this machine; hashed, if its files have been."""
        self.folder = folder
        self._hashed = hashed
        self.manifest = manifest
        self.denylist = denylist
        self._denied = denylist.denied(manifest.forms)
        self._fallbacks = self._fallen_back()
        self._strings = manifest.key_dtype == "string"
        self._count = len(manifest.files)
        self._manifests = manifest.by_shard
        self._shards: dict[int, Shard] = {}

    @classmethod
    def current(cls, snapshots: SnapshotStore | StoragePath | str) -> "Version":
        """Open the version that readers take now: the pinned or the current one.

        Args:
            snapshots: `<root>/snapshots/<pipeline>`.

        Raises:
            NotServedError: nothing is published.
            SnapshotError: the version can't be trusted.
        """
        store = SnapshotStore.at(snapshots)
        return cls.open(store, store.must_serve())

    @classmethod
    def open(
        cls, snapshots: SnapshotStore | StoragePath | str, version: str
    ) -> "Version":
        """Open one version; its files are hashed when they are first used.

        From a bucket all of them are copied down and hashed first.

        Raises:
            SnapshotError: it is not there, its manifest is not whole, or what is denied
                can't be read.
        """
        store = SnapshotStore.at(snapshots)
        folder = fetched(store, version)
        return cls(
            folder,
            read_manifest(folder, version),
            denylist=store.denylist(),
            hashed=not is_local(store.folder),
        )

    def denying(self, denylist: Denylist) -> "Version":
        """Return the same version without other items; what is mapped is shared."""
        other = copy.copy(self)
        other.denylist = denylist
        other._denied = denied = denylist.denied(self.manifest.forms)
        other._fallbacks = other._fallen_back()
        other._shards = {n: one.denying(denied) for n, one in self._shards.items()}
        return other

    @property
    def name(self) -> str:
        return self.manifest.version

    def get(self, key: int | str, segment: int | str | None = None) -> Answer | None:
        """Return the outputs of a key, or None if the night has no prediction for it.

        If the pipeline has a fallback, a key without a prediction gets that of its
        segment, marked as one.

        Raises:
            SnapshotError: the key is of the wrong type, or the file is not whole.
        """
        key = self._checked(key)
        try:
            hashed = hash_key(key)
        except UnicodeEncodeError:  # Half of a surrogate pair: no file can hold it.
            return self._fall_back(key, segment)
        number = hashed % self._count
        shard = self._shards.get(number) or self.shard(number)
        row = shard.find(key, hashed)
        if row is None:
            return self._fall_back(key, segment)
        return Answer(key, shard.row(row), self._manifests[number])

    def get_many(
        self,
        keys: Iterable[int | str],
        segments: Iterable[int | str | None] | None = None,
    ) -> list[Answer | None]:
        """Do the same for many keys, in their order; cheaper than one by one.

        Args:
            keys: n keys.
            segments: of each of them; of none if left out.

        Raises:
            SnapshotError: as `get`, or there are more keys than segments, or fewer.
        """
        wanted = list(keys)
        answers = self._found(wanted)
        if segments is None:
            segments = [None] * len(wanted)
        elif len(segments := list(segments)) != len(wanted):
            msg = f"got {len(segments)} segments of {len(wanted)} keys"
            raise SnapshotError(msg)
        if self.manifest.fallback:
            for at, answer in enumerate(answers):
                if answer is None:
                    key = self._checked(wanted[at])
                    answers[at] = self._fall_back(key, segments[at])
        return answers

    def _found(self, keys: list[int | str]) -> list[Answer | None]:
        """The outputs of many keys, or None where the night has none."""
        checked = keys
        # Mostly they are what they should be: asked of all at once, in a tenth of the time.
        if self._strings or set(map(type, checked)) != {int}:
            checked = [self._checked(key) for key in checked]
        answers: list[Answer | None] = [None] * len(checked)
        dtype = pa.large_string() if self._strings else pa.int64()
        asked: Sequence[int] = range(len(checked))
        try:
            column = pa.array(checked, dtype)
        except (OverflowError, UnicodeEncodeError):
            asked = [at for at in asked if self._can_be_there(checked[at])]
            column = pa.array([checked[at] for at in asked], dtype)
        hashes = hash_keys(column)
        numbers = (hashes % np.uint64(self._count)).astype(np.int64)
        by_shard = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[by_shard], np.arange(self._count + 1)).tolist()
        wanted = (hashes if self._strings else column.to_numpy())[by_shard]
        places = np.array(asked)[by_shard].tolist()
        for number, (start, stop) in enumerate(itertools.pairwise(ends)):
            if start == stop:
                continue
            manifest = self._manifests[number]
            shard, at = self.shard(number), places[start:stop]
            rows = shard.find_many([checked[n] for n in at], wanted[start:stop])
            if (rows < 0).any():
                here = rows >= 0
                at, rows = list(itertools.compress(at, here)), rows[here]
            for place, outputs in zip(at, shard.rows(rows), strict=True):
                answers[place] = Answer(checked[place], outputs, manifest)
        return answers

    def _fall_back(self, key: int | str, segment: int | str | None) -> Answer | None:
        outputs = self._fallbacks.of(segment)
        if outputs is None:
            return None
        return Answer(key, outputs, self.manifest, True, segment)

    def _fallen_back(self) -> Fallbacks:
        manifest = self.manifest
        return Fallbacks(
            manifest.fallback, manifest.outputs, manifest.forms, self._denied
        )

    def shard(self, number: int) -> "Shard":
        """Return one shard's columns, hashed before their first use.

        Raises:
            SnapshotError: the file is missing, truncated or altered.
        """
        if number not in self._shards:
            file = self.manifest.files[number]
            self._shards[number] = Shard(
                self.folder, file, self.manifest, self._denied, hashed=self._hashed
            )
        return self._shards[number]

    def verify(self) -> None:
        """Hash every file of the version, and map it.

        Raises:
            SnapshotError: a file is missing, truncated or altered.
        """
        for number in range(self._count):
            self.shard(number)

    def _checked(self, key: int | str) -> int | str:
        """Return a key of the right type; an integer may be written as text."""
        if self._strings:
            if isinstance(key, str):
                return key
            msg = f"the key '{self.manifest.key}' is a string, got {key!r}"
            raise SnapshotError(msg)
        try:
            # Not int() alone: it would answer for 1 where it was asked for 1.5.
            number = integer_of(key) if isinstance(key, str) else operator.index(key)
        except TypeError:
            number = None
        if number is None:
            got = repr(key) if len(repr(key)) <= SHOWN else f"{repr(key)[:SHOWN]}…"
            msg = (
                f"the key '{self.manifest.key}' is an integer, got {got}; expected an "
                "int64 in the digits 0 to 9, such as 42 or -42"
            )
            raise SnapshotError(msg)
        return number

    def _can_be_there(self, key: int | str) -> bool:
        if isinstance(key, int):
            return -(2**63) <= key < 2**63
        try:
            key.encode()
        except UnicodeEncodeError:
            return False
        return True


def integer_of(text: str) -> int | None:
    """Return the int64 that a text writes in ASCII digits; None if it writes none."""
    if not AN_INTEGER.fullmatch(text):
        return None
    digits = text.lstrip("-0") or "0"
    # Python reads no integer of thousands of digits, and no key has more than these.
    number = int(digits) if len(digits) < 20 else 2**63
    number = -number if text[0] == "-" else number
    return number if -(2**63) <= number < 2**63 else None


def kept_of(answer: Answer) -> dict[str, Any]:
    """Return what an answer says of a shard that could not be scored: nothing, mostly."""
    kept = answer.kept
    return {"kept": {"why": kept.why, "day": kept.day}} if kept else {}


def overrides_of(manifest: SnapshotManifest) -> dict[str, Any]:
    """Return what an answer says of the gates that were overridden: nothing, mostly."""
    said = [
        one.model_dump(mode="json", include={"gate", "by", "why", "until"})
        for one in manifest.overrides
    ]
    return {"overrides": said} if said else {}


def age_of(manifest: SnapshotManifest) -> timedelta:
    """Return how long ago a version was made."""
    return datetime.now(UTC) - manifest.created_at
