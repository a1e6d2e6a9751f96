"""Outputs that are more than a number: how they lie in a version, and are put together.

A version holds numbers alone, each in a column of its own: so they are proved, packed and
sent. A form says which of them are one output, and what it is for whoever asks.

    label    <name>                                   the position of its class
    vector   <name>.0, <name>.1, …                    its numbers
    ranking  <name>.0, …, <name>_scores.0, …          positions of its items, and scores;
                                                      -1 where there is no more item

A ranking may hold more items than are shown: the next best move up for those that are
denied by now. It knows no file.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import itemgetter, not_
from typing import Annotated, Any, Literal

from pydantic import Field

from batch_assets.strict import StrictModel

NO_ITEM = -1

# The items of a ranking with their scores, the best first.
Ranked = list[tuple[int | str, float]]


class _Form(StrictModel):
    """Which columns of a version are one output."""

    name: str

    @property
    def parts(self) -> list[list[str]]:
        """The columns that it is made of, in their order, in pieces of one type."""
        return [[self.name]]

    @property
    def columns(self) -> list[str]:
        """The same, one after the other."""
        return [column for part in self.parts for column in part]


class LabelForm(_Form):
    """The name of a class."""

    kind: Literal["label"] = "label"
    classes: tuple[str, ...]

    def of(self, values: Sequence[Any]) -> str:
        """Return it for a row, from the values of each piece."""
        name: str = self.classes[values[0]]
        return name


class VectorForm(_Form):
    """A list of numbers."""

    kind: Literal["vector"] = "vector"
    size: int
    dtype: Literal["float32", "float64"] = "float32"

    @property
    def parts(self) -> list[list[str]]:
        return [[f"{self.name}.{at}" for at in range(self.size)]]

    def of(self, values: Sequence[Any]) -> list[float]:
        return list(values)


class RankingForm(_Form):
    """A list of items with their scores, the best first: k of k + spare that are held."""

    kind: Literal["ranking"] = "ranking"
    k: int
    spare: int = Field(default=0, exclude_if=not_)
    items: tuple[int, ...] | tuple[str, ...]

    @property
    def parts(self) -> list[list[str]]:
        names, width = (self.name, f"{self.name}_scores"), self.k + self.spare
        return [[f"{name}.{at}" for at in range(width)] for name in names]

    def teller(
        self, denied: AbstractSet[int] = frozenset()
    ) -> Callable[[Sequence[int], Sequence[float]], Ranked]:
        """Return what tells a row's items and scores, but for the positions denied.

        If none is denied it is given no more than it shows.
        It has at hand what would be looked up again for each row.
        """
        k, words = self.k, self.items

        def told(items: Sequence[int], scores: Sequence[float]) -> Ranked:
            if items[-1] == NO_ITEM:
                items = items[: items.index(NO_ITEM)]
            if denied and not denied.isdisjoint(items):
                held = zip(items, scores, strict=False)
                return [(words[at], one) for at, one in held if at not in denied][:k]
            # In half of the time that `map` takes for twenty; of one it tells no tuple.
            some = items[:k]
            named = (
                itemgetter(*some)(words)
                if len(some) > 1
                else map(words.__getitem__, some)
            )
            return list(zip(named, scores))  # noqa: B905

        return told


Form = Annotated[LabelForm | VectorForm | RankingForm, Field(discriminator="kind")]


def rankings_of(forms: Iterable[Form]) -> list[RankingForm]:
    """Return those that are rankings."""
    return [form for form in forms if isinstance(form, RankingForm)]


class Assembly:
    """Puts a row's outputs together from the values of its columns."""

    def __init__(
        self,
        outputs: Iterable[str],
        forms: Iterable[Form],
        groups: Sequence[Sequence[str]],
        denied: "Denied | None" = None,
    ) -> None:
        """Find each column once.

        Args:
            outputs: all columns of a row, in their order.
            forms: of those that are no output by themselves.
            groups: the columns of each group of values that `row` is given.
            denied: what no ranking shows.
        """
        denied = denied or {}
        places = {
            name: (number, at)
            for number, names in enumerate(groups)
            for at, name in enumerate(names)
        }
        formed = {form.columns[0]: form for form in forms}
        inside = {name for form in formed.values() for name in form.columns}
        self._steps: list[tuple[str, Callable[..., Any] | None, list[_Run]]] = []
        for name in outputs:
            if form := formed.get(name):
                parts, made = form.parts, _maker(form, denied)
                if isinstance(form, RankingForm) and not denied.get(form.name):
                    # What is not shown is not read.
                    parts = [part[: form.k] for part in parts]
                runs = [_run([places[one] for one in part]) for part in parts]
                self._steps.append((form.name, made, runs))
            elif name not in inside:
                number, at = places[name]
                self._steps.append((name, None, [(number, at)]))

    def row(self, groups: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Return the outputs by name, from a row's values of each group."""
        outputs: dict[str, Any] = {}
        for name, made, runs in self._steps:
            number, at = runs[0]
            if made is None:
                outputs[name] = groups[number][at]
            elif len(runs) == 1:
                outputs[name] = made(groups[number][at])
            else:
                other, there = runs[1]
                outputs[name] = made(groups[number][at], groups[other][there])
        return outputs


# Of each ranking, by its name, the positions of the items that are not shown.
Denied = Mapping[str, frozenset[int]]
# A group, and which of its columns.
_Run = tuple[int, int | slice]


def _maker(form: Form, denied: Denied) -> Callable[..., Any]:
    """Return what makes an output of a row's values of each piece."""
    if isinstance(form, RankingForm):
        return form.teller(denied.get(form.name, frozenset()))
    return form.of


def _run(places: Sequence[tuple[int, int]]) -> _Run:
    """Columns that lie beside each other; those of one type do, as they are grouped."""
    (number, first), (_, last) = places[0], places[-1]
    if list(places) != [(number, at) for at in range(first, last + 1)]:
        msg = f"the columns of one output do not lie beside each other: {places}"
        raise ValueError(msg)
    return number, slice(first, last + 1)


def plain(outputs: dict[str, Any], forms: Iterable[Form]) -> dict[str, Any]:
    """Return outputs as JSON has them: of a ranking, `item` and `score` of each place."""
    rankings = [form.name for form in rankings_of(forms)]
    return outputs | {
        name: [{"item": item, "score": score} for item, score in outputs[name]]
        for name in rankings
    }
