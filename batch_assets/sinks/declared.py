"""Which sinks a pipeline has, written down beside its versions.

    <root>/snapshots/<pipeline>/sinks.json

So that whoever rolls back needs no YAML and no Dagster. It holds names of environment
variables, never what is in them.
"""

from pydantic import TypeAdapter, ValidationError

from batch_assets.errors import SnapshotError
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import Target
from batch_assets.storage import read_versioned

SINKS = "sinks.json"
_targets = TypeAdapter(list[Target])


def declare_sinks(store: SnapshotStore, targets: list[Target]) -> None:
    """Write down what the YAML declares now, if it is not there already."""
    text = _targets.dump_json(targets).decode()
    if read_versioned(store.folder / SINKS).data != f"{text}\n".encode():
        store.overwrite(SINKS, text)


def declared_sinks(store: SnapshotStore) -> list[Target]:
    """Return the sinks that the last night knew of.

    Raises:
        SnapshotError: the file can't be read.
    """
    path = store.folder / SINKS
    try:
        return _targets.validate_json(read_versioned(path).data or b"[]")
    except ValidationError as error:
        msg = f"{path} can't be read: {error}. The next night writes it again"
        raise SnapshotError(msg) from error
