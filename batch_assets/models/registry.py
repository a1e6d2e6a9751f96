"""Who allowed which release to be used, and which one a night uses.

    <root>/models/<name>/<sha256>/          a release
    <root>/models/<name>/approvals.jsonl    append-only, one event a line
    <root>/models/<name>/comparisons/       what approvals rest on: see `comparisons`

The release of a channel is the one approved last. If that approval is revoked or has
run out, there is none: the night refuses, rather than falling back on an older release
that nobody asked for. From a bucket a release is copied down before it is opened, once
for a machine. It knows nothing of pipelines, and never calls torch: what proves a release
is a process of its own.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from batch_assets.errors import (
    ReleaseError,
    RevokedError,
    TamperedReleaseError,
    UnapprovedError,
    UnknownReleaseError,
)
from batch_assets.formats import APPROVAL, FIRST, is_first
from batch_assets.models.comparisons import Comparisons, Evidence
from batch_assets.models.input_specs import NAME_PATTERN
from batch_assets.models.proof import must_prove
from batch_assets.models.release import MANIFEST, Release, digest_of, open_release
from batch_assets.models.signatures import (
    in_folder,
    keep_signatures,
    must_be_signed,
    must_be_signed_if_asked,
    trusted_keys,
)
from batch_assets.storage import (
    JsonLog,
    StoragePath,
    exclusive,
    fetch,
    has_folder,
    is_local,
    local,
    put_folder,
    this_user,
)
from batch_assets.strict import StrictModel

APPROVALS = "approvals.jsonl"
# A name is a folder below `models`, and leads to no other place.
IS_NAME = re.compile(NAME_PATTERN).fullmatch
Channel = Literal["batch", "online"]


class ApprovalEvent(StrictModel):
    """One line of the approvals: a release is approved for a channel, or revoked."""

    format: Annotated[int, AfterValidator(APPROVAL.checked)] = Field(
        default=FIRST, exclude_if=is_first
    )
    at: AwareDatetime
    act: Literal["approve", "revoke"]
    digest: str
    channel: Channel
    by: str
    why: str
    until: AwareDatetime | None = None
    evidence: Evidence | None = None


class Registry:
    """The models under one root."""

    def __init__(self, root: StoragePath) -> None:
        self.folder = root / "models"

    def names(self) -> list[str]:
        """Return the names of all models, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir())

    def digests(self, name: str) -> list[str]:
        """Return the digests of a model's releases, sorted.

        Raises:
            UnknownReleaseError: there is no such model.
        """
        if not IS_NAME(name) or not (self.folder / name).is_dir():
            raise self._unknown_name(name)
        return sorted(
            path.name
            for path in (self.folder / name).iterdir()
            if len(path.name) == 64 and has_folder(path, last=MANIFEST)
        )

    def add(
        self, source: Path, name: str | None = None, *, prove: bool = False
    ) -> Release:
        """Copy a release folder under its digest; adding it again changes nothing.

        With `prove` it is proved first: see `proof`. Without, no model is loaded.

        Raises:
            UnknownReleaseError: there is no release in the folder.
            UnsignedError: no key that is trusted has signed it.
            TamperedReleaseError: it is not whole, or was changed while it was added.
            ReleaseError: it bears another name than the one given, or is not proved.
        """
        keys, signatures = trusted_keys(), in_folder(source)
        if keys:
            must_be_signed(digest_of(source), signatures, keys, str(source))
        release = open_release(source)
        if keys:  # It may be another by now.
            must_be_signed(release.digest, signatures, keys, str(source))
        if name is not None and name != release.name:
            msg = f"{source} holds a release of '{release.name}', not of '{name}'"
            raise ReleaseError(msg)
        if prove:
            must_prove(release, "added")
        target = self.folder / release.name / release.digest
        if not has_folder(target, last=MANIFEST):
            with _scratch(target.parent) as scratch:
                copy = scratch / release.digest
                shutil.copytree(source, copy)
                open_release(copy, release.digest)
                for path in copy.iterdir():
                    path.chmod(0o444)
                # Another process may have added the same bytes first.
                with suppress(FileExistsError):
                    put_folder(copy, target, last=MANIFEST)
        keep_signatures(target, signatures)
        return self.reread(release.name, release.digest)

    def approve(
        self,
        name: str,
        digest: str,
        *,
        why: str,
        channel: Channel = "batch",
        by: str | None = None,
        until: datetime | None = None,
        evidence: str | None = None,
    ) -> ApprovalEvent:
        """Record that a release may be used in a channel, from now on, as its newest.

        It is proved first, in a process of its own: see `proof`.

        Args:
            name: of the model.
            digest: of the release, or the beginning of it.
            why: the reason.
            channel: in which it may be used.
            by: who says so; the user of this machine if left out.
            until: when the approval runs out.
            evidence: the digest of a comparison that it was the challenger in.

        Raises:
            UnknownReleaseError: there is no such release.
            TamperedReleaseError: its bytes are not those that were added, or those of the
                comparison are not.
            ReleaseError: it can't be loaded, or does not say what it is recorded to say,
                or there is no such comparison of it.
        """
        if until is not None and (until.tzinfo is None or until <= datetime.now(UTC)):
            msg = f"an approval runs out later than now, with a timezone; got {until}"
            raise ReleaseError(msg)
        full = self.full_digest(name, digest)
        rests_on = (
            Evidence.of(self.comparisons(name).find(evidence), full)
            if evidence is not None
            else None
        )
        must_prove(self._open(name, full))
        return self._append(
            name,
            ApprovalEvent(
                at=datetime.now(UTC),
                act="approve",
                digest=full,
                channel=channel,
                by=by or this_user(),
                why=why,
                until=until,
                evidence=rests_on,
            ),
        )

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
        return self._append(
            name,
            ApprovalEvent(
                at=datetime.now(UTC),
                act="revoke",
                digest=full,
                channel=channel,
                by=by or this_user(),
                why=why,
            ),
        )

    def events(self, name: str) -> list[ApprovalEvent]:
        """Return every approval and revocation of a model, oldest first.

        Raises:
            UnknownReleaseError: no model can have that name.
            TamperedReleaseError: a line can't be read.
        """
        if not IS_NAME(name):
            raise self._unknown_name(name)
        approvals = self._approvals(name)
        events, unreadable = approvals.read()
        for number, error in unreadable.items():
            msg = (
                f"{approvals.path} line {number} can't be read, so no release of "
                f"'{name}' can be trusted: {error}"
            )
            raise TamperedReleaseError(msg) from error
        return events

    def comparisons(self, name: str) -> Comparisons:
        """Return the comparisons of a model's releases."""
        return Comparisons(self.folder / name)

    def verify(self, name: str, digest: str) -> Release:
        """Re-hash a release's files, approved or not."""
        return self._open(name, self.full_digest(name, digest))

    def reread(self, name: str, digest: str) -> Release:
        """Do the same; of a bucket, with what lies there now, and not a copy of it."""
        path = self.folder / name / self.full_digest(name, digest)
        must_be_signed_if_asked(path)
        if not is_local(path):
            with _scratch(path.parent) as scratch:
                _fetch(path, scratch)
        return self._open(name, path.name)

    def resolve(self, name: str, channel: Channel = "batch") -> Release:
        """Return the release that a channel uses now, with its bytes re-hashed.

        Raises:
            UnknownReleaseError: there is no such model.
            UnsignedError: no key that is trusted has signed it.
            UnapprovedError: no release of it was ever approved for the channel.
            RevokedError: the one approved last was revoked, or its approval ran out.
            TamperedReleaseError: its bytes are not those that were added.
        """
        digests = self.digests(name)
        approved = [
            event
            for event in self.events(name)
            if event.act == "approve" and event.channel == channel
        ]
        if not approved:
            msg = (
                f"no release of '{name}' is approved for {channel}; {len(digests)} are "
                f"registered. Approve one: batch-assets release approve {name} DIGEST"
            )
            raise UnapprovedError(msg)
        return self.require(name, approved[-1].digest, channel)

    def require(self, name: str, digest: str, channel: Channel = "batch") -> Release:
        """Return one given release, if it may be used in the channel now.

        Raises:
            UnknownReleaseError, UnapprovedError, RevokedError, TamperedReleaseError:
                as `resolve`.
        """
        return self._open(name, self.must_be_approved(name, digest, channel))

    def must_be_approved(
        self, name: str, digest: str, channel: Channel = "batch"
    ) -> str:
        """Return the whole digest of a release that may be used in the channel now.

        Not a byte of it is hashed.

        Raises:
            UnknownReleaseError, UnapprovedError, RevokedError: as `resolve`.
            TamperedReleaseError: the approvals can't be read.
        """
        full = self.full_digest(name, digest)
        events = [
            event
            for event in self.events(name)
            if (event.digest, event.channel) == (full, channel)
        ]
        on = "" if channel == "batch" else f" --channel {channel}"
        if not events:
            msg = (
                f"release {name} {full[:12]} is not approved for {channel}. Approve "
                f"it: batch-assets release approve {name} {full[:12]}{on} --why REASON"
            )
            raise UnapprovedError(msg)
        again = f"Approve a release: batch-assets release approve {name} DIGEST{on}"
        last = events[-1]
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
        """Return the whole digest for an unambiguous beginning of it.

        Raises:
            UnknownReleaseError: there is none, or more than one.
        """
        digests = self.digests(name)
        matching = [d for d in digests if d.startswith(digest)] if digest else []
        if len(matching) == 1:
            return matching[0]
        short = ", ".join(d[:12] for d in digests) or "none"
        msg = (
            f"'{digest}' names {len(matching)} releases of '{name}', expected 1; "
            f"registered: {short}"
        )
        raise UnknownReleaseError(msg)

    def _approvals(self, name: str) -> JsonLog[ApprovalEvent]:
        return JsonLog(self.folder / name / APPROVALS, ApprovalEvent)

    def _append(self, name: str, event: ApprovalEvent) -> ApprovalEvent:
        if not event.why.strip():
            msg = f"to {event.act} a release takes a reason: say why"
            raise ReleaseError(msg)
        approvals = self._approvals(name)
        with exclusive(approvals.path.parent):
            # What is left of a line that somebody cut may be a revocation.
            if approvals.is_torn():
                msg = (
                    f"the last line of {approvals.path} is torn, so nothing was added "
                    "to it. Remove that line, or complete it, and say it again"
                )
                raise TamperedReleaseError(msg)
            body = event.model_dump(mode="json", exclude_none=True)
            approvals.append(json.dumps(body).encode())
        return event

    def _open(self, name: str, digest: str) -> Release:
        """Open a release, its bytes re-hashed; of a bucket, a copy of it."""
        path = self.folder / name / digest
        must_be_signed_if_asked(path)
        if is_local(path):
            return open_release(local(path), digest)
        with exclusive(path.parent):
            with suppress(UnknownReleaseError, TamperedReleaseError):
                return open_release(local(path), digest)
            shutil.rmtree(local(path), ignore_errors=True)
            return _fetch(path, local(path))

    def _unknown_name(self, name: str) -> UnknownReleaseError:
        known = ", ".join(self.names()) or "none"
        return UnknownReleaseError(
            f"no model is named {name!r} under {self.folder}; registered: {known}. "
            f"Add a release: batch-assets release add {name} FOLDER"
        )


def _fetch(path: StoragePath, local_folder: Path) -> Release:
    """Copy a release to a folder of this machine, and open it."""
    for file in path.iterdir():
        fetch(file, local_folder / file.name)
    return open_release(local_folder, path.name)


@contextmanager
def _scratch(folder: StoragePath) -> Iterator[Path]:
    """Give an empty folder of this machine, in a folder or what stands for it."""
    local(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=local(folder), prefix=".adding-") as scratch:
        yield Path(scratch)
