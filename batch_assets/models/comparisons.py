"""What came of comparing two releases of a model, kept where the model is.

    <root>/models/<name>/comparisons/<sha256>.json

A comparison is named by the sha256 of its bytes, so that an approval that names it as its
evidence names what it says. It compares nothing.
"""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, ValidationError

from batch_assets.errors import ReleaseError, TamperedReleaseError
from batch_assets.formats import COMPARISON
from batch_assets.storage import StoragePath, beside, put_new
from batch_assets.strict import StrictModel

FOLDER = "comparisons"


class Agreement(StrictModel):
    """How alike an output of two releases is, of the rows that both have scored.

    Attributes:
        output: its name.
        rows: how many were compared.
        equal: the share of the rows with the same label, the same first item, the same
            direction of a vector, or a number in the same tenth of the day.
        rank_correlation: of numbers, Spearman's.
        psi: of numbers, how far the challenger's distribution is from the champion's.
        overlap: of rankings, the mean share of the champion's items that the challenger
            ranks, too; of a row without items, 1 if the challenger ranks none either, or
            else 0.
    """

    output: str
    rows: int
    equal: float
    rank_correlation: float | None = None
    psi: float | None = None
    overlap: float | None = None


class ComparedDay(StrictModel):
    """Two releases on the same rows of one day.

    `champion` and `challenger` are the metrics of these rows, of `known_rows` whose outcome
    is known; there are none before. Rows per second are those of a release that was scored
    for the comparison.
    """

    day: str
    rows: int
    agreement: tuple[Agreement, ...]
    known_rows: int = 0
    champion: dict[str, float] = {}
    challenger: dict[str, float] = {}
    champion_rows_per_second: float | None = None
    challenger_rows_per_second: float | None = None


class Difference(StrictModel):
    """A metric of both, as means over the days, and which of them is better.

    `low` and `high` are the 95 % interval of the challenger's less the champion's, with the
    days drawn again and again; of few days there is none, and neither is better.
    """

    metric: str
    days: int
    champion: float
    challenger: float
    difference: float
    low: float | None = None
    high: float | None = None
    better: Literal["champion", "challenger", "neither"] = "neither"


class Comparison(StrictModel):
    """Two releases of a model on the same days of a pipeline."""

    version: Annotated[int, AfterValidator(COMPARISON.checked)] = COMPARISON.version
    at: AwareDatetime
    by: str
    pipeline: str
    model: str
    champion: str
    challenger: str
    days: tuple[ComparedDay, ...]
    differences: tuple[Difference, ...]

    @property
    def data(self) -> bytes:
        """Its bytes, the same for equal comparisons."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()

    @property
    def digest(self) -> str:
        """The sha256 that names it."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def finding(self) -> str:
        """What it found, in a line."""
        won = {
            who: [one.metric for one in self.differences if one.better == who]
            for who in ("challenger", "champion")
        }
        said = [f"{who} better in {', '.join(won[who])}" for who in won if won[who]]
        days = f"{len(self.days)} days"
        if not self.differences:
            return f"{days}; no outcome is known, so nobody can say which is better"
        return f"{days}; {'; '.join(said) or 'neither is better'}"


class Comparisons:
    """The comparisons of one model's releases."""

    def __init__(self, model_folder: StoragePath) -> None:
        self.folder = model_folder / FOLDER

    def keep(self, comparison: Comparison) -> str:
        """Write a comparison; return its digest."""
        path = self.folder / f"{comparison.digest}.json"
        made = beside(path)
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(comparison.data)
        put_new(made, path)
        made.unlink(missing_ok=True)
        return comparison.digest

    def find(self, digest: str) -> Comparison:
        """Return the comparison of a digest, or of an unambiguous beginning of it.

        Raises:
            ReleaseError: there is none, or more than one.
            TamperedReleaseError: its bytes are not those of its digest.
        """
        names = self.digests()
        found = [name for name in names if name.startswith(digest)] if digest else []
        if len(found) != 1:
            known = ", ".join(name[:12] for name in names) or "none"
            msg = (
                f"'{digest}' names {len(found)} comparisons under {self.folder}, expected 1; "
                f"there: {known}. Make one: batch-assets release compare CHAMPION CHALLENGER"
            )
            raise ReleaseError(msg)
        return self._read(found[0])

    def digests(self) -> list[str]:
        """Return the digests of all comparisons, sorted."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir())
        return sorted(n.removesuffix(".json") for n in names if n.endswith(".json"))

    def _read(self, digest: str) -> Comparison:
        path = self.folder / f"{digest}.json"
        data = path.read_bytes()
        try:
            found = Comparison.model_validate_json(data)
        except ValidationError as error:
            msg = f"the comparison {path} can't be read: {error}"
            raise TamperedReleaseError(msg) from error
        if hashlib.sha256(data).hexdigest() != digest:
            msg = f"the comparison {path} is not what it was when it was made"
            raise TamperedReleaseError(msg)
        return found


class Evidence(StrictModel):
    """The comparison that an approval rests on, and what it found."""

    comparison: str
    finding: str

    @classmethod
    def of(cls, comparison: Comparison, digest: str) -> Self:
        """Return a comparison as the evidence for a release.

        Raises:
            ReleaseError: the release was not the challenger in it.
        """
        if comparison.challenger != digest:
            msg = (
                f"the comparison {comparison.digest[:12]} is of the challenger "
                f"{comparison.challenger[:12]}, not of {digest[:12]}: it is no evidence for "
                "it. Compare that release, and name the comparison"
            )
            raise ReleaseError(msg)
        return cls(comparison=comparison.digest, finding=comparison.finding)
