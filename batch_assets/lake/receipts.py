"""What a chunk leaves behind: one frozen type for each table of the lake.

A receipt travels in the footer of its part, as JSON with a digest of itself. It says
whose part it is, how many rows with which keys it holds, and what its table's readers
need to know of them. It knows neither files nor how a part is written.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from pydantic import TypeAdapter

from batch_assets.errors import LakeError
from batch_assets.formats import FIRST, RECEIPT
from batch_assets.lake.profiles import Profile
from batch_assets.lake.reconciliation import ControlTotal

RAW, VALIDATED, QUARANTINED = "raw_features", "validated_features", "quarantined_rows"
PREDICTIONS, DEAD_LETTERS = "predictions", "dead_letters"
OUTCOMES = "outcomes"
# The version of a receipt whose part says which texts were replaced.
TELLS_OF_TEXTS = 2


@dataclass(frozen=True)
class Receipt:
    """Whose part it is: the table, the day, the shard, the chunk and the job."""

    table: ClassVar[str] = ""

    day: str
    shard: int
    chunk: int
    job: str
    total: ControlTotal

    @property
    def format(self) -> int:
        """The version of the format that it takes to read the part."""
        return FIRST

    def facts(self) -> dict[str, Any]:
        """Return what the receipt says beside that, as JSON has it on disk."""
        return {}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return this type's own fields from what lies on disk."""
        return {}

    @property
    def made_of(self) -> str | None:
        """The name of the part that the rows were made of, if they were of one."""
        return None

    def dumps(self) -> bytes:
        """Write the receipt as it lies on disk."""
        body = {
            "table": self.table,
            "day": self.day,
            "shard": self.shard,
            "chunk": self.chunk,
            "job": self.job,
            "tally": asdict(self.total),
            "facts": self.facts(),
        }
        if self.format != FIRST:
            body["format"] = self.format
        return json.dumps({"body": body, "digest": _digest(body)}).encode()


@dataclass(frozen=True)
class Pin:
    """The rows of a day in one version of a Delta table.

    `id` is the table's own, and `files` a digest of the files that may hold the rows,
    with their bytes: a table that was made anew under the old name has others. The day
    begins and ends in `timezone`.
    """

    table: str
    id: str
    version: int
    day: str
    day_column: str | None
    files: str
    timezone: str = "UTC"


@dataclass(frozen=True)
class RawReceipt(Receipt):
    """Of rows as the source gave them; of a `pinned` source, of their keys alone.

    Of `not_utf8` rows the part says which text was not UTF-8, and was replaced.
    """

    table: ClassVar[str] = RAW
    pinned: Pin | None = None
    not_utf8: int = 0

    @property
    def format(self) -> int:
        # A program that does not know of such rows would have them scored.
        return TELLS_OF_TEXTS if self.not_utf8 else FIRST

    def facts(self) -> dict[str, Any]:
        pinned = {"pinned": asdict(self.pinned)} if self.pinned else {}
        return pinned | ({"not_utf8": self.not_utf8} if self.not_utf8 else {})

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> dict[str, Any]:
        pinned = facts.get("pinned")
        return {
            "pinned": Pin(**pinned) if pinned else None,
            "not_utf8": facts.get("not_utf8", 0),
        }


@dataclass(frozen=True)
class OutcomesReceipt(RawReceipt):
    """Of what really happened, as the source of outcomes gave it."""

    table: ClassVar[str] = OUTCOMES


@dataclass(frozen=True)
class LayoutHint:
    """What a validated part says of the night before.

    Of its row groups, `groups` hold only rows that were in the validated day whose
    bytes `of` names, in its `parts`; none of the other row groups holds such a row.
    """

    of: str = ""
    groups: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ValidatedReceipt(Receipt):
    """Of rows that keep the contract, made of the part `raw`.

    `rules` counts the rows of the piece that broke each rule, and went to quarantine.
    With a `hint`, each row has a fingerprint of its features.
    """

    table: ClassVar[str] = VALIDATED
    raw: str = ""
    contract: str = ""
    rules: dict[str, int] = field(default_factory=dict)
    hint: LayoutHint | None = None

    @property
    def has_fingerprints(self) -> bool:
        return self.hint is not None

    @property
    def made_of(self) -> str | None:
        return self.raw

    def facts(self) -> dict[str, Any]:
        facts = {"raw": self.raw, "contract": self.contract, "rules": self.rules}
        if self.hint is None:
            return facts
        # Not "as_before", where receipts of before there were hints hold a boolean.
        return facts | {"fingerprint": True, "hint": asdict(self.hint)}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> dict[str, Any]:
        hint = LayoutHint(**facts.get("hint", {})) if facts.get("fingerprint") else None
        return {
            "raw": facts["raw"],
            "contract": facts["contract"],
            "rules": facts["rules"],
            "hint": hint,
        }


@dataclass(frozen=True)
class QuarantineReceipt(Receipt):
    """Of rows that break a rule of the contract, made of the part `raw`."""

    table: ClassVar[str] = QUARANTINED
    raw: str = ""
    contract: str = ""

    @property
    def made_of(self) -> str | None:
        return self.raw

    def facts(self) -> dict[str, Any]:
        return {"raw": self.raw, "contract": self.contract}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {"raw": facts["raw"], "contract": facts["contract"]}


@dataclass(frozen=True)
class OutputSummary:
    """What a day's distribution is summed from: exact, and mergeable in any order.

    `counts` is over the bins of the release's reference, empty bins included. `short` are
    the rows of a ranking that have fewer items than it may have.
    """

    rows: int
    sum: float
    min: float | None
    max: float | None
    counts: list[int]
    short: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return it as it lies on disk."""
        facts = asdict(self)
        if self.short is None:
            del facts["short"]
        return facts


@dataclass(frozen=True)
class PredictionsReceipt(Receipt):
    """Of rows with their outputs, made of `row_groups` of the part `validated`.

    `replayed` names the part of dead letters that they come from, if they were scored
    again; `dead` is the digest of the part of dead letters that the chunk left beside
    them. `carried` of the rows took over the prediction of the night before, `rescored`
    of these were scored all the same. `content` is the checksum of the rows with their
    outputs (`shards.content`); None in parts that an earlier version wrote. `side` are the
    digests of the side tables that items were left out by. `profile` counts a sample of
    the rows, of a release that has bins for them.
    """

    table: ClassVar[str] = PREDICTIONS
    model: str = ""
    release: str = ""
    contract: str = ""
    validated: str = ""
    replayed: str | None = None
    row_groups: tuple[int, int] = (0, 0)
    dead: str | None = None
    arithmetic: str | None = None
    carried: ControlTotal | None = None
    rescored: int = 0
    content: int | None = None
    outputs: dict[str, OutputSummary] = field(default_factory=dict)
    profile: Profile | None = None
    side: dict[str, str] = field(default_factory=dict)

    @property
    def made_of(self) -> str | None:
        return self.validated

    @property
    def carried_total(self) -> ControlTotal:
        """The rows that were taken over, none of them included."""
        return self.carried or ControlTotal()

    def facts(self) -> dict[str, Any]:
        carried = (
            {"carried": asdict(self.carried), "rescored": self.rescored}
            if self.carried is not None
            else {}
        )
        return {
            "model": self.model,
            "release": self.release,
            "contract": self.contract,
            "validated": self.validated,
            "replayed": self.replayed,
            "row_groups": list(self.row_groups),
            # By digest: of two attempts of a chunk, each has its own pair of parts.
            "dead": self.dead,
            "arithmetic": self.arithmetic,
            **carried,
            **({"side": self.side} if self.side else {}),
            **({"profile": self.profile.facts()} if self.profile else {}),
            "content": self.content,
            "outputs": {name: one.facts() for name, one in self.outputs.items()},
        }

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> dict[str, Any]:
        carried, outputs = facts.get("carried"), facts["outputs"]
        first, past_last = facts["row_groups"]
        return {
            "model": facts["model"],
            "release": facts["release"],
            "contract": facts["contract"],
            "validated": facts["validated"],
            "replayed": facts.get("replayed"),
            "row_groups": (first, past_last),
            "dead": facts["dead"],
            "arithmetic": facts.get("arithmetic"),
            "carried": ControlTotal(**carried) if carried else None,
            "rescored": facts.get("rescored", 0),
            "content": facts.get("content"),
            "side": facts.get("side", {}),
            "profile": Profile.of_facts(facts["profile"])
            if "profile" in facts
            else None,
            "outputs": {name: OutputSummary(**one) for name, one in outputs.items()},
        }


@dataclass(frozen=True)
class DeadLettersReceipt(Receipt):
    """Of rows that the model could not score, made of the part `validated`."""

    table: ClassVar[str] = DEAD_LETTERS
    release: str = ""
    validated: str = ""

    @property
    def made_of(self) -> str | None:
        return self.validated

    def facts(self) -> dict[str, Any]:
        return {"release": self.release, "validated": self.validated}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {"release": facts["release"], "validated": facts["validated"]}


KINDS: dict[str, type[Receipt]] = {
    kind.table: kind
    for kind in (
        RawReceipt,
        ValidatedReceipt,
        QuarantineReceipt,
        PredictionsReceipt,
        DeadLettersReceipt,
        OutcomesReceipt,
    )
}
# What checks the types of their fields.
TYPED: dict[str, TypeAdapter[Receipt]] = {
    table: TypeAdapter(kind) for table, kind in KINDS.items()
}


def read_receipt(data: bytes) -> Receipt:
    """Read a receipt, as the type of its table.

    Raises:
        ValueError: it is not whole, or a field is of another type.
        LakeError: it is of a version that is not read.
        KeyError: it is of no table that is known, or a field is not there.
        TypeError: there is a field too many, or something else in its place.
    """
    try:
        record = json.loads(data)
        body = record["body"]
        # No damage: a part that can't be read is made again, and this one may be right.
        if why := RECEIPT.refusal(body.get("format")):
            msg = f"a receipt can't be read: {why}"
            raise LakeError(msg)
        if record["digest"] != _digest(body):
            msg = "the receipt's digest is not that of its content"
            raise ValueError(msg)
        kind = KINDS[body["table"]]
        found = kind(
            day=body["day"],
            shard=body["shard"],
            chunk=body["chunk"],
            job=body["job"],
            total=ControlTotal(**body["tally"]),
            **kind.of_facts(body["facts"]),
        )
    except (AttributeError, RecursionError) as error:
        msg = f"something else is in the place of what a receipt says: {error}"
        raise ValueError(msg) from error
    # Its digest says that it is whole, and not that it was written here.
    return TYPED[kind.table].validate_python(asdict(found))


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
