"""Who allowed which release to be used, and which one a night uses.

    <root>/models/<name>/<sha256>/          a release
    <root>/models/<name>/approvals.jsonl    append-only, one act a line

The release of a channel is the one approved last. If that approval is revoked or has
run out, there is none: the night refuses, rather than falling back on an older release
that nobody asked for. From an object store a release is copied down before it is opened,
once for a machine. It knows nothing of pipelines, and never calls torch: what proves a
release before it is approved is a process of its own.
"""

import getpass
import json
import shutil
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from batch_assets.errors import (
    ReleaseError,
    RevokedError,
    TamperedReleaseError,
    UnapprovedError,
    UnknownReleaseError,
)
from batch_assets.models.proof import must_prove
from batch_assets.models.release import MANIFEST, Release, open_release
from batch_assets.storage import (
    ObjectPath,
    StoragePath,
    exclusive,
    fetch,
    local,
    put_file,
    read_seen,
    replace,
)
from batch_assets.strict import StrictModel

APPROVALS = "approvals.jsonl"
Channel = Literal["batch", "online"]


class ApprovalEvent(StrictModel):
    """One line of the approvals: a release is approved for a channel, or revoked."""

    at: AwareDatetime
    act: Literal["approve", "revoke"]
    digest: str
    channel: Channel
    by: str
    why: str
    until: AwareDatetime | None = None


class Registry:
    """The models under one root."""

    def __init__(self, root: StoragePath) -> None:
        self.folder = root / "models"

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir())

    def digests(self, name: str) -> list[str]:
        """The digests of a model's releases, sorted."""
        folder = self.folder / name
        if not folder.is_dir():
            raise self._unknown_name(name)
        return sorted(
            p.name for p in folder.iterdir() if len(p.name) == 64 and self._is_added(p)
        )

    @staticmethod
    def _is_added(place: StoragePath) -> bool:
        # Into a store a release is put file by file, and its manifest last.
        return (
            place.is_dir() if isinstance(place, Path) else (place / MANIFEST).exists()
        )

    def add(self, source: Path, name: str | None = None) -> Release:
        """Copy a release folder under its digest; adding it again changes nothing.

        Raises:
            UnknownReleaseError: there is no release in the folder.
            TamperedReleaseError: it is not whole.
            ReleaseError: it bears another name than the one given.
        """
        release = open_release(source)
        if name is not None and name != release.name:
            msg = f"{source} holds a release of '{release.name}', not of '{name}'"
            raise ReleaseError(msg)
        target = self.folder / release.name / release.digest
        if isinstance(target, ObjectPath):
            return self._put(release, target)
        if target.is_dir():
            return open_release(target, release.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".adding-") as tmp:
            copy = Path(tmp) / release.digest
            shutil.copytree(source, copy)
            open_release(copy, release.digest)
            for path in copy.iterdir():
                path.chmod(0o444)
            try:
                copy.rename(target)
            except OSError:
                # Another process added the same bytes first.
                if not target.is_dir():
                    raise
        return open_release(target, release.digest)

    def approve(
        self,
        name: str,
        digest: str,
        *,
        why: str,
        channel: Channel = "batch",
        by: str | None = None,
        until: datetime | None = None,
    ) -> ApprovalEvent:
        """Record that a release may be used in a channel, from now on, as its newest.

        It is proved first, in a process of its own: see `proof`.

        Raises:
            UnknownReleaseError: there is no such release.
            TamperedReleaseError: its bytes are not those that were added.
            ReleaseError: it can't be loaded, or does not say what it is recorded to say.
        """
        if until is not None and (until.tzinfo is None or until <= datetime.now(UTC)):
            msg = f"an approval runs out later than now, with a timezone; got {until}"
            raise ReleaseError(msg)
        full = self.full_digest(name, digest)
        must_prove(self._open(name, full))
        return self._append(name, "approve", full, channel, by, why, until)

    def revoke(
        self,
        name: str,
        digest: str,
        *,
        why: str,
        channel: Channel = "batch",
        by: str | None = None,
    ) -> ApprovalEvent:
        """Record that a release may no longer be used in a channel."""
        full = self.full_digest(name, digest)
        return self._append(name, "revoke", full, channel, by, why, None)

    def events(self, name: str) -> list[ApprovalEvent]:
        """Every approval and revocation of a model, oldest first.

        Raises:
            TamperedReleaseError: a line can't be read.
        """
        path = self.folder / name / APPROVALS
        text = (read_seen(path).data or b"").decode()
        acts = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                acts.append(ApprovalEvent.model_validate_json(line))
            except ValidationError as error:
                msg = (
                    f"{path} line {number} can't be read, so no release of '{name}' "
                    f"can be trusted: {error}"
                )
                raise TamperedReleaseError(msg) from error
        return acts

    def verify(self, name: str, digest: str) -> Release:
        """Re-hash a release's files, approved or not."""
        return self._open(name, self.full_digest(name, digest))

    def reread(self, name: str, digest: str) -> Release:
        """The same; of an object store, what lies there now, and not a copy of it."""
        place = self.folder / name / self.full_digest(name, digest)
        if isinstance(place, ObjectPath):
            with self._scratch() as folder:
                _copied(place, Path(folder))
        return self._open(name, place.name)

    def resolve(self, name: str, channel: Channel = "batch") -> Release:
        """The release that a channel uses now, with its bytes re-hashed.

        Raises:
            UnknownReleaseError: there is no such model.
            UnapprovedError: no release of it was ever approved for the channel.
            RevokedError: the one approved last was revoked, or its approval ran out.
            TamperedReleaseError: its bytes are not those that were added.
        """
        digests = self.digests(name)
        approved = [
            a for a in self.events(name) if a.act == "approve" and a.channel == channel
        ]
        if not approved:
            msg = (
                f"no release of '{name}' is approved for {channel}; {len(digests)} are "
                f"registered. Approve one: batch-assets release approve {name} DIGEST"
            )
            raise UnapprovedError(msg)
        return self.require(name, approved[-1].digest, channel)

    def require(self, name: str, digest: str, channel: Channel = "batch") -> Release:
        """One given release, if it may be used in the channel now.

        Raises:
            UnknownReleaseError, UnapprovedError, RevokedError, TamperedReleaseError:
                as `resolve`.
        """
        return self._open(name, self.must_be_approved(name, digest, channel))

    def must_be_approved(
        self, name: str, digest: str, channel: Channel = "batch"
    ) -> str:
        """The whole digest of a release that may be used in the channel now.

        Not a byte of it is hashed.

        Raises:
            UnknownReleaseError, UnapprovedError, RevokedError: as `resolve`.
            TamperedReleaseError: the approvals can't be read.
        """
        full = self.full_digest(name, digest)
        acts = [
            a for a in self.events(name) if (a.digest, a.channel) == (full, channel)
        ]
        on = "" if channel == "batch" else f" --channel {channel}"
        if not acts:
            msg = (
                f"release {name} {full[:12]} is not approved for {channel}. Approve "
                f"it: batch-assets release approve {name} {full[:12]}{on} --why REASON"
            )
            raise UnapprovedError(msg)
        again = f"Approve a release: batch-assets release approve {name} DIGEST{on}"
        last = acts[-1]
        if last.act == "revoke":
            msg = (
                f"release {name} {full[:12]} was revoked for {channel} by {last.by} at "
                f"{last.at:%Y-%m-%d %H:%M} UTC: {last.why}. {again}"
            )
            raise RevokedError(msg)
        if last.until is not None and last.until <= datetime.now(UTC):
            msg = (
                f"the approval of {name} {full[:12]} for {channel} by {last.by} ran "
                f"out at {last.until:%Y-%m-%d %H:%M %Z}. {again}"
            )
            raise RevokedError(msg)
        return full

    def full_digest(self, name: str, digest: str) -> str:
        """The whole digest for an unambiguous beginning of it."""
        digests = self.digests(name)
        found = [d for d in digests if d.startswith(digest)] if digest else []
        if len(found) == 1:
            return found[0]
        short = ", ".join(d[:12] for d in digests) or "none"
        msg = (
            f"'{digest}' names {len(found)} releases of '{name}', expected 1; "
            f"registered: {short}"
        )
        raise UnknownReleaseError(msg)

    def _append(
        self,
        name: str,
        act: Literal["approve", "revoke"],
        digest: str,
        channel: Channel,
        by: str | None,
        why: str,
        until: datetime | None,
    ) -> ApprovalEvent:
        if not why.strip():
            msg = f"to {act} a release takes a reason: say why"
            raise ReleaseError(msg)
        record = ApprovalEvent(
            at=datetime.now(UTC),
            act=act,
            digest=digest,
            channel=channel,
            by=by or getpass.getuser(),
            why=why,
            until=until,
        )
        line = json.dumps(record.model_dump(mode="json", exclude_none=True)) + "\n"
        path = self.folder / name / APPROVALS
        # One writer at a time, and whole lines only: a torn one would make every
        # release untrusted.
        with exclusive(path.parent):
            while True:
                seen = read_seen(path)
                there = seen.data or b""
                if there and not there.endswith(b"\n"):
                    msg = (
                        f"the last line of {path} is torn, so nothing was added to it. "
                        "Remove that line, or complete it, and say it again"
                    )
                    raise TamperedReleaseError(msg)
                if replace(path, there + line.encode(), seen=seen):
                    return record

    def _open(self, name: str, digest: str) -> Release:
        """A release, its bytes re-hashed; copied down before that, if it has to be."""
        place = self.folder / name / digest
        if isinstance(place, Path):
            return open_release(place, digest)
        with exclusive(place.parent):
            with suppress(UnknownReleaseError, TamperedReleaseError):
                return open_release(local(place), digest)
            shutil.rmtree(local(place), ignore_errors=True)
            return _copied(place, local(place))

    def _put(self, release: Release, target: ObjectPath) -> Release:
        """Copy a release into a store. Its manifest comes last: it makes the release."""
        if not (target / MANIFEST).exists():
            with self._scratch() as tmp:
                for name in [*release.manifest.files, MANIFEST]:
                    shutil.copyfile(release.folder / name, Path(tmp) / name)
                open_release(Path(tmp), release.digest)
                for name in [*release.manifest.files, MANIFEST]:
                    put_file(Path(tmp) / name, target / name)
        return self.reread(release.name, release.digest)

    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        here = local(self.folder)
        here.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=here, prefix=".copying-")

    def _unknown_name(self, name: str) -> UnknownReleaseError:
        known = ", ".join(self.names()) or "none"
        return UnknownReleaseError(
            f"no model is named '{name}' under {self.folder}; registered: {known}. "
            f"Add a release: batch-assets release add {name} FOLDER"
        )


def _copied(place: ObjectPath, here: Path) -> Release:
    """A release, copied down and opened."""
    for path in place.iterdir():
        fetch(path, here / path.name)
    return open_release(here, place.name)
