"""Items that no ranking may show any more, from the moment they are denied.

    <root>/snapshots/<pipeline>/denylist.json

It is not of a night: readers apply it to whatever they serve, and so do the clients of
the remote stores. It knows neither where it is kept nor who reads it.
"""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, ValidationError

from batch_assets import formats
from batch_assets.errors import SnapshotError
from batch_assets.snapshots.forms import Denied, Form, rankings_of
from batch_assets.strict import StrictModel

DENYLIST = "denylist.json"
# Each reader holds it, and looks at it every second.
MOST = 100_000
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)


class DeniedItem(StrictModel):
    """One item, as text, who denied it, when and why."""

    item: str
    at: AwareDatetime
    by: str
    why: str


class Denylist(StrictModel):
    """All of them, in the order in which they were denied."""

    format: Annotated[int, AfterValidator(formats.DENYLIST.checked)] = (
        formats.DENYLIST.version
    )
    items: tuple[DeniedItem, ...] = ()

    @classmethod
    def loads(cls, data: bytes | None, where: str) -> Self:
        """Read it; what is not there denies nothing.

        Raises:
            SnapshotError: it can't be read, so that what is denied is not certain.
        """
        if data is None:
            return cls()
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"])) or "it"
            msg = (
                f"{where} can't be read, so which items are denied is not certain: {at}: "
                f"{first['msg']}. Mend it, or write it anew with `batch-assets denylist "
                "replace`"
            )
            raise SnapshotError(msg) from error

    @property
    def names(self) -> list[str]:
        """The items alone."""
        return [one.item for one in self.items]

    @cached_property
    def texts(self) -> frozenset[str]:
        """The same, to ask whether one is among them."""
        return frozenset(self.names)

    def denied(self, forms: Iterable[Form]) -> Denied:
        """Return the positions of its items in each ranking that has any of them."""
        words: set[int | str] = set(self.names)
        words |= {int(name) for name in self.names if _WHOLE.fullmatch(name)}
        found = {}
        for form in rankings_of(forms) if words else ():
            if gone := frozenset(
                at for at, word in enumerate(form.items) if word in words
            ):
                found[form.name] = gone
        return found

    def unknown(self, forms: Iterable[Form]) -> list[str]:
        """Return the items that no ranking has."""
        known = {str(word) for form in rankings_of(forms) for word in form.items}
        return [name for name in self.names if name not in known]
