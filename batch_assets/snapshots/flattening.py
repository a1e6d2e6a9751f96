"""A release's outputs as a version holds them: columns of numbers, and their forms.

It is the other side of `forms`, for whoever builds a version or proves one.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from batch_assets.models.contract import Contract
from batch_assets.models.input_specs import Words
from batch_assets.models.output_specs import AnyOutput, Label, Ranking, VectorOutput
from batch_assets.snapshots.forms import Form, LabelForm, RankingForm, VectorForm
from batch_assets.snapshots.manifest import SnapshotManifest


def forms_of(contract: Contract) -> tuple[Form, ...]:
    """Return the forms of those outputs that are more than a number."""
    forms: list[Form] = []
    for output in contract.outputs:
        if isinstance(output, Label):
            forms.append(LabelForm(name=output.name, classes=output.classes))
        elif isinstance(output, VectorOutput):
            forms.append(
                VectorForm(name=output.name, size=output.size, dtype=output.dtype)
            )
        elif isinstance(output, Ranking):
            items = contract.vocabularies[output.vocabulary]
            form = RankingForm(
                name=output.name, k=output.k, spare=output.spare, items=items
            )
            forms.append(form)
    return tuple(forms)


def columns_of(contract: Contract) -> tuple[str, ...]:
    """Return the columns of numbers, in the order in which a row's content is summed."""
    formed = {form.name: form.columns for form in forms_of(contract)}
    return tuple(
        column
        for output in contract.outputs
        for column in formed.get(output.name, [output.name])
    )


def written_names(plan: SnapshotManifest) -> list[str]:
    """Return the columns of predictions that the outputs of a version are made of."""
    names = dict.fromkeys(plan.outputs)
    for form in plan.forms:
        for column in form.columns:
            del names[column]
        names[form.name] = None
        if isinstance(form, RankingForm):
            names[f"{form.name}_scores"] = None
    return list(names)


def flattened(predictions: pa.Table, plan: SnapshotManifest) -> pa.Table:
    """Return predictions as a version holds them: the key, and columns of numbers."""
    if not plan.forms:
        return predictions.select([plan.key, *plan.outputs])
    numbers = numbers_of(predictions, plan.outputs, plan.forms)
    return pa.table(
        [predictions[plan.key], *numbers.columns], [plan.key, *plan.outputs]
    )


def numbers_of(
    written: pa.Table, outputs: Sequence[str], forms: Iterable[Form]
) -> pa.Table:
    """Return outputs as they are written as columns of numbers, in their order."""
    columns: dict[str, np.ndarray | pa.ChunkedArray] = {
        name: written[name] for name in outputs if name in written.column_names
    }
    for form in forms:
        output, words = _output(form)
        computed = output.read(written, words).values()
        for part, values in zip(form.parts, computed, strict=True):
            for at, name in enumerate(part):
                columns[name] = values if values.ndim == 1 else values[:, at]
    arrays = [pa.chunked_array([_plain(columns[name])]) for name in outputs]
    return pa.table(arrays, list(outputs))


def assembled(rows: pa.Table, plan: SnapshotManifest) -> pa.Table:
    """Return rows of a version as predictions have them; those of forms are copied."""
    if not plan.forms:
        return rows
    made: dict[str, pa.Array | pa.ChunkedArray] = {
        name: rows[name] for name in (plan.key, *plan.outputs)
    }
    for form in plan.forms:
        output, words = _output(form)
        computed = {}
        for column, part in zip(output.columns, form.parts, strict=True):
            several = [made.pop(name).to_numpy() for name in part]
            computed[column.name] = (
                several[0] if column.width is None else np.stack(several, axis=1)
            )
        names = [field.name for field in output.fields(words)]
        made |= zip(names, output.written(computed, words), strict=True)
    return pa.table(made)


def _plain(values: np.ndarray | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, np.ndarray):
        return pa.array(np.ascontiguousarray(values))
    return values.combine_chunks()


def _output(form: Form) -> tuple[AnyOutput, dict[str, Words]]:
    """The output that a form is of, and its vocabulary."""
    if isinstance(form, LabelForm):
        return Label(name=form.name, classes=form.classes), {}
    if isinstance(form, VectorForm):
        return VectorOutput(name=form.name, size=form.size, dtype=form.dtype), {}
    ranking = Ranking(name=form.name, vocabulary="items", k=form.k, spare=form.spare)
    return ranking, {"items": form.items}
