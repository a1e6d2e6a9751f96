"""Which sinks a pipeline has, written down beside its versions.

    <root>/snapshots/<pipeline>/sinks.json

So that whoever rolls back needs no YAML and no Dagster. It holds names of environment
variables, never what is in them.
"""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from batch_assets.errors import SnapshotError
from batch_assets.serving.pointers import held, point
from batch_assets.spec import Target

SINKS = "sinks.json"
_targets = TypeAdapter(list[Target])


def declare_sinks(snapshots: Path, targets: list[Target]) -> None:
    """Write down what the YAML declares now."""
    with held(snapshots):
        point(snapshots, SINKS, _targets.dump_json(targets).decode())


def declared_sinks(snapshots: Path) -> list[Target]:
    """The sinks that the last night knew of.

    Raises:
        SnapshotError: the file can't be read.
    """
    path = snapshots / SINKS
    if not path.is_file():
        return []
    try:
        return _targets.validate_json(path.read_bytes())
    except ValidationError as error:
        msg = f"{path} can't be read: {error}. The next night writes it again"
        raise SnapshotError(msg) from error
