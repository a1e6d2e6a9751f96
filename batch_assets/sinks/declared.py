"""Which sinks a pipeline has, written down beside its versions.

    <root>/snapshots/<pipeline>/sinks.json

So that whoever rolls back needs no YAML and no Dagster. It holds names of environment
variables, never what is in them.
"""

from pydantic import TypeAdapter, ValidationError

from batch_assets.errors import SnapshotError
from batch_assets.snapshots.pointers import point
from batch_assets.spec import Target
from batch_assets.storage import StoragePath, read_seen

SINKS = "sinks.json"
_targets = TypeAdapter(list[Target])


def declare_sinks(snapshots: StoragePath, targets: list[Target]) -> None:
    """Write down what the YAML declares now, if it is not there already."""
    text = _targets.dump_json(targets).decode()
    if read_seen(snapshots / SINKS).data != f"{text}\n".encode():
        point(snapshots / SINKS, text)


def declared_sinks(snapshots: StoragePath) -> list[Target]:
    """The sinks that the last night knew of.

    Raises:
        SnapshotError: the file can't be read.
    """
    data = read_seen(snapshots / SINKS).data
    try:
        return _targets.validate_json(data or b"[]")
    except ValidationError as error:
        msg = f"{snapshots / SINKS} can't be read: {error}. The next night writes it again"
        raise SnapshotError(msg) from error
