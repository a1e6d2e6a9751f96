"""What every source of files is: a glob for each day, known by the bytes of its files.

It knows no kind of file.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from batch_assets.lake.source_files import Signature, digests, matching, signature
from batch_assets.lake.sources.base import (
    DAY,
    HISTORY,
    BaseSource,
    History,
    ReadContext,
    SourceTable,
)


class FilesSource(BaseSource):
    """Files whose glob may hold `{{ day }}`, relative to the project."""

    kind: str
    glob: str
    history: History | None = HISTORY

    @model_validator(mode="after")
    def _history_is_of_days(self) -> Self:
        if self.history == "days" and not DAY.search(self.glob):
            msg = (
                f"the glob '{self.glob}' has no {{{{ day }}}}, so it gives every day "
                "the same rows: declare `history: none`, or leave it out"
            )
            raise ValueError(msg)
        return self

    def read_from(self) -> list[SourceTable]:
        """Return the files of all days as one table."""
        return [SourceTable("", self.glob, self.shown_as)]

    def keeps_history(self, base: Path) -> bool:
        """Return whether there are files for each day."""
        return self.history != "none" and bool(DAY.search(self.glob))

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return each file's sha256."""
        return {
            "kind": self.kind,
            "day": context.day,
            "files": digests(self.files(context), context.project),
        }

    def signature(self, context: ReadContext) -> Signature:
        return signature(self.files(context))

    def files(self, context: ReadContext) -> list[Path]:
        """Return the files of a day, sorted.

        Raises:
            SourceError: there is none.
        """
        return matching(DAY.sub(context.day, self.glob), context.project)
