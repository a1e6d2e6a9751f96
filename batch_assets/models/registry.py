"""Who allowed which release to be used, and which one a night uses.

    <root>/models/<name>/<sha256>/          a release
    <root>/models/<name>/approvals.jsonl    append-only, one act a line

The release of a channel is the one approved last. If that approval is revoked or has
run out, there is none: the night refuses, rather than falling back on an older release
that nobody asked for. It knows nothing of pipelines, and never calls torch.
"""

import fcntl
import getpass
import json
import os
import shutil
import tempfile
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
from batch_assets.models.contract import Strict
from batch_assets.models.release import Release, open_release

APPROVALS = "approvals.jsonl"
Channel = Literal["batch", "online"]


class Act(Strict):
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

    def __init__(self, root: Path) -> None:
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
            p.name for p in folder.iterdir() if p.is_dir() and len(p.name) == 64
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
    ) -> Act:
        """Record that a release may be used in a channel, from now on, as its newest.

        Raises:
            UnknownReleaseError: there is no such release.
            TamperedReleaseError: its bytes are not those that were added.
        """
        if until is not None and (until.tzinfo is None or until <= datetime.now(UTC)):
            msg = f"an approval runs out later than now, with a timezone; got {until}"
            raise ReleaseError(msg)
        full = self.full_digest(name, digest)
        open_release(self.folder / name / full, full)
        return self._append(name, "approve", full, channel, by, why, until)

    def revoke(
        self,
        name: str,
        digest: str,
        *,
        why: str,
        channel: Channel = "batch",
        by: str | None = None,
    ) -> Act:
        """Record that a release may no longer be used in a channel."""
        full = self.full_digest(name, digest)
        return self._append(name, "revoke", full, channel, by, why, None)

    def acts(self, name: str) -> list[Act]:
        """Every approval and revocation of a model, oldest first.

        Raises:
            TamperedReleaseError: a line can't be read.
        """
        path = self.folder / name / APPROVALS
        if not path.is_file():
            return []
        acts = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                acts.append(Act.model_validate_json(line))
            except ValidationError as error:
                msg = (
                    f"{path} line {number} can't be read, so no release of '{name}' "
                    f"can be trusted: {error}"
                )
                raise TamperedReleaseError(msg) from error
        return acts

    def verify(self, name: str, digest: str) -> Release:
        """Re-hash a release's files, approved or not."""
        full = self.full_digest(name, digest)
        return open_release(self.folder / name / full, full)

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
            a for a in self.acts(name) if a.act == "approve" and a.channel == channel
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
        full = self.must_be_approved(name, digest, channel)
        return open_release(self.folder / name / full, full)

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
        acts = [a for a in self.acts(name) if (a.digest, a.channel) == (full, channel)]
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
    ) -> Act:
        if not why.strip():
            msg = f"to {act} a release takes a reason: say why"
            raise ReleaseError(msg)
        record = Act(
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
        with path.open("a+", encoding="utf-8") as file:
            # One writer at a time: a torn line would make every release untrusted.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if (there := file.read()) and not there.endswith("\n"):
                msg = (
                    f"the last line of {path} is torn, so nothing was added to it. "
                    "Remove that line, or complete it, and say it again"
                )
                raise TamperedReleaseError(msg)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return record

    def _unknown_name(self, name: str) -> UnknownReleaseError:
        known = ", ".join(self.names()) or "none"
        return UnknownReleaseError(
            f"no model is named '{name}' under {self.folder}; registered: {known}. "
            f"Add a release: batch-assets release add {name} FOLDER"
        )
