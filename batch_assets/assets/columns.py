"""What each column of a pipeline's tables is, in the words of its contract.

They are what the catalog shows beside a column. It reads no table, and no row.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import dagster as dg
import pyarrow as pa

from batch_assets.models.columns import word
from batch_assets.models.contract import Contract, Feature
from batch_assets.models.input_specs import Ids, Input, Sequence, Text, Values
from batch_assets.models.output_specs import AnyOutput, Label, Ranking, VectorOutput

# So many words of a list are shown.
SHOWN = 8
# Of more, names and types alone: the event of every night would be megabytes.
MOST_COLUMNS = 2_000
LABEL = "role"


@dataclass(frozen=True)
class Note:
    """What is said of a column: in a sentence, what it is for, and what it may hold."""

    text: str
    role: str
    limits: tuple[str, ...] = ()
    nullable: bool = True


Notes = Mapping[str, Note]

# What is added to the tables beside the columns of the contract.
ADDED: Notes = {
    "day": Note("The daily partition.", "partition", nullable=False),
    "shard": Note(
        "A stable hash of the key, modulo the number of shards.",
        "partition",
        nullable=False,
    ),
    "model_name": Note("The model that this row was scored by.", "stamp"),
    "model_version": Note(
        "The release that this row was scored by: the sha256 of its content.", "stamp"
    ),
    "rules": Note("The rules of the contract that the row breaks.", "reason"),
    "stage": Note("Where the row failed.", "reason"),
    "reason": Note("Why the model could not score the row.", "reason"),
    "fingerprint": Note(
        "A hash of the row, by which it is found unchanged the next night.", "stamp"
    ),
}
# Delta writes the partition columns beside those of the files.
PARTITION = (pa.field("day", pa.string()), pa.field("shard", pa.int32()))


def column_schema(
    schema: pa.Schema, notes: Notes, *, partitioned: bool = True
) -> dg.TableSchema:
    """Return the columns of a table as the catalog shows them.

    Args:
        schema: of its files.
        notes: of the columns that the contract knows.
        partitioned: whether the table has the columns of its partitions, too.
    """
    fields = [*schema, *(PARTITION if partitioned else ())]
    if len(fields) > MOST_COLUMNS:
        notes = {}
    return dg.TableSchema([_column(field, notes) for field in fields])


def raw_notes(contract: Contract) -> Notes:
    """Return what the columns of the source are."""
    notes = {contract.key.name: _key(contract)}
    for at, feature in enumerate(contract.features, 1):
        notes[feature.name] = _feature(feature, at, len(contract.features))
    for one in contract.inputs:
        notes |= dict(_input(one, contract))
    return notes


def validated_notes(contract: Contract) -> Notes:
    """Return what the same columns are as the model gets them."""
    notes = {contract.key.name: _key(contract)}
    for at, feature in enumerate(contract.features, 1):
        notes[feature.name] = _given(feature, at, len(contract.features))
    for one in contract.inputs:
        notes |= dict(_input(one, contract))
    return notes


def prediction_notes(contract: Contract) -> Notes:
    """Return what the columns of predictions are."""
    notes = {contract.key.name: _key(contract)}
    for output in contract.outputs:
        notes |= dict(_output(output))
    return notes


def outcome_notes(contract: Contract, value: str, output: str) -> Notes:
    """Return what the columns of outcomes are: the key, and what really happened."""
    told = (
        f"What really happened, by which `{output}` is judged; null where nobody knows."
    )
    return {contract.key.name: _key(contract), value: Note(told, "outcome")}


def computed_from(notes: Notes, origins: Mapping[str, Iterable[str]]) -> Notes:
    """Return the same notes with what each column is computed from."""
    told = {name: ", ".join(f"`{one}`" for one in of) for name, of in origins.items()}
    return {
        name: replace(note, text=f"{note.text} From {told[name]}.")
        if told.get(name)
        else note
        for name, note in notes.items()
    }


def _column(field: pa.Field, notes: Notes) -> dg.TableColumn:
    note = notes.get(field.name) or ADDED.get(field.name)
    if note is None:
        return dg.TableColumn(field.name, word(field.type))
    return dg.TableColumn(
        field.name,
        word(field.type),
        description=note.text,
        constraints=dg.TableColumnConstraints(
            nullable=field.nullable and note.nullable,
            other=list(note.limits),
        ),
        tags={LABEL: note.role},
    )


def _key(contract: Contract) -> Note:
    text = "Names who or what is scored; unique in a day."
    return Note(text, "key", nullable=False)


def _feature(feature: Feature, at: int, of: int) -> Note:
    words = feature.categories
    text = f"Feature {at} of {of}" + (f": {listed(words)}." if words else ".")
    return Note(text, "feature", _limits(feature), feature.nullable)


def _given(feature: Feature, at: int, of: int) -> Note:
    text = f"Feature {at} of {of}, as the model gets it"
    if words := feature.categories:
        numbered = [f"{place} is {name}" for place, name in enumerate(words)]
        text += f": the position of its category, {listed(numbered)}"
    null = "; NaN where it was null" if feature.nullable else ""
    limits = () if feature.categories else _limits(feature)
    return Note(f"{text}{null}.", "feature", limits, feature.nullable)


def _limits(feature: Feature) -> tuple[str, ...]:
    if feature.categories:
        return (f"{len(feature.categories)} categories",)
    return span(feature.min, feature.max)


def _input(one: Input, contract: Contract) -> Iterator[tuple[str, Note]]:
    if isinstance(one, Text):
        text = f"A text; the model gets {one.max_length:,} tokens of it at most."
        characters = f"{one.min_length:,} to {one.longest:,} characters"
        yield one.name, Note(text, "input", (characters,), one.nullable)
    elif isinstance(one, Sequence):
        most = f"; the model gets {one.max_length:,} at most" if one.max_length else ""
        long = f"{one.min_length:,} to {one.longest:,} elements"
        for column in one.columns:
            text = f"A list of the sequence `{one.name}`: {_values(column, contract)}{most}."
            limits = (long, *span(column.min, column.max))
            yield column.name, Note(text, "input", limits)
    elif isinstance(one, Ids):
        text = f"An id: {_values(one, contract)}."
        yield one.name, Note(text, "input", nullable=one.nullable)
    else:
        text = f"A vector of {one.size:,} numbers."
        yield one.name, Note(text, "input", span(one.min, one.max), nullable=False)


def _values(column: Values, contract: Contract) -> str:
    if column.is_float:
        return "numbers"
    if column.size:
        return f"positions below {column.size:,}"
    words = contract.vocabularies[str(column.vocabulary)]
    return f"of the {len(words):,} words of the vocabulary `{column.vocabulary}`"


def _output(output: AnyOutput) -> Iterator[tuple[str, Note]]:
    from_all = "computed from every feature and input"
    if isinstance(output, Label):
        text = f"A label, {from_all}: {listed(output.classes)}."
        limits = (f"{len(output.classes)} classes",)
        yield output.name, Note(text, "output", limits, nullable=False)
    elif isinstance(output, Ranking):
        spare = f", and {output.spare} to spare" if output.spare else ""
        text = (
            f"The best {output.k} of the vocabulary `{output.vocabulary}`{spare}, the best "
            f"first, {from_all}."
        )
        yield output.name, Note(text, "output", nullable=False)
        text = f"The score of each item of `{output.name}`."
        yield (
            output.scores,
            Note(text, "output", span(output.min, output.max), nullable=False),
        )
    elif isinstance(output, VectorOutput):
        text = f"A vector of {output.size:,} numbers, {from_all}."
        yield (
            output.name,
            Note(text, "output", span(output.min, output.max), nullable=False),
        )
    else:
        text = f"A number, {from_all}."
        yield (
            output.name,
            Note(text, "output", span(output.min, output.max), nullable=False),
        )


def span(low: float | None, high: float | None) -> tuple[str, ...]:
    """Return an inclusive range in words, or none."""
    if low is None and high is None:
        return ()
    if low is None:
        return (f"at most {high:,.12g}",)
    if high is None:
        return (f"at least {low:,.12g}",)
    return (f"{low:,.12g} to {high:,.12g}",)


def listed(words: Iterable[str]) -> str:
    """Return the first few of some words, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - SHOWN:,} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more
