"""Which versions of each format on disk this program writes and reads.

A file, line, receipt or commit that names no version is of version 1. What an older
program wrote is read, or refused with what makes it anew; what a newer one wrote is
refused, because it may say what this one does not know. It knows no file.
"""

from dataclasses import dataclass

FIRST = 1


@dataclass(frozen=True)
class Format:
    """One format: the version that is written, and the oldest that is read.

    `holds` says where it lies, for readers of the docs, and `remake` what to do about
    an older version than `oldest`.
    """

    name: str
    holds: str
    version: int = FIRST
    oldest: int = FIRST
    remake: str | None = None

    @property
    def reads(self) -> str:
        """The versions that are read, in words."""
        if self.oldest == self.version:
            return str(self.version)
        return f"{self.oldest} to {self.version}"

    def checked(self, found: int) -> int:
        """Return a version that is read, as the validator of a field.

        Raises:
            ValueError: it is not read; why, and what to do.
        """
        if why := self.refusal(found):
            raise ValueError(why)
        return found

    def refusal(self, found: object, remake: str | None = None) -> str | None:
        """Say why a version is not read, and what to do; None if it is read.

        Args:
            found: the version that is named; None if none is.
            remake: what to do about this very file, where it is old.
        """
        number = FIRST if found is None else found
        if not isinstance(number, int) or number is True or number < FIRST:
            return f"it is of format {found!r}, which is no version of a {self.name}"
        said = f"it is of format {number}, this program reads {self.reads}: "
        if number > self.version:
            return said + "a newer batch-assets wrote it. Upgrade this one"
        if number < self.oldest:
            return said + (remake or self.remake or f"write the {self.name} again")
        return None


RELEASE = Format("release", "`release.json`")
SIGNATURES = Format("signatures", "`release.sig`, beside `release.json`")
APPROVAL = Format("approval", "a line of a model's `approvals.jsonl`")
COMPARISON = Format("comparison", "a file of a model's `comparisons`")
COMMIT = Format("commit", "`batch_assets` in the log of a Delta table of rows")
# Of 2 are those alone whose part tells which of its texts were not UTF-8.
RECEIPT = Format("receipt", "the footer of a part", version=2)
OVERRIDE = Format("override", "a line of `overrides.jsonl`")
SNAPSHOT = Format(
    "version of a snapshot",
    "its `manifest.json`",
    version=2,
    oldest=2,
    remake="run its day again: batch-assets run PIPELINE --day DAY",
)
HISTORY = Format("history of a snapshot", "a line of its `history.jsonl`")
DENYLIST = Format("denylist", "`denylist.json`, and the same in remote stores")
SINK = Format("version in a remote store", "beside its rows")
ALERT = Format("record of alerts", "a line of `alerts.jsonl`")

FORMATS = (
    RELEASE,
    SIGNATURES,
    APPROVAL,
    COMPARISON,
    COMMIT,
    RECEIPT,
    OVERRIDE,
    SNAPSHOT,
    HISTORY,
    DENYLIST,
    SINK,
    ALERT,
)


def is_first(version: int) -> bool:
    """Tell whether a version goes without saying."""
    return version == FIRST
