"""What one look found, and what all looks are given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from batch_assets.spec import PipelineSpec
from batch_assets.storage import StoragePath

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was found, and how it is mended if that is not well.

    A night can't do what it promises while something is `bad`; `warn` is what somebody
    may have meant.
    """

    name: str
    state: State
    found: str
    mend: str | None = None


@dataclass(frozen=True)
class Examined:
    """What is looked at; without definitions, only the machine and `<root>` are."""

    root: StoragePath
    definitions: dg.Definitions | None
    specs: Sequence[PipelineSpec] = ()
