"""The file of a shard that could not be scored: that of the version that is served.

Its rows are those of an earlier night, and the manifest says of which, by which release,
and how many of tonight's keys they answer for. It knows nothing of how a night is scored.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import SnapshotError
from batch_assets.snapshots.fetch import must_be_whole
from batch_assets.snapshots.manifest import KeptShard, ShardFile, SnapshotManifest
from batch_assets.snapshots.proof import STAYS, ShardPlan
from batch_assets.snapshots.shard import map_shard


@dataclass(frozen=True)
class FailedShard:
    """A shard without predictions.

    Attributes:
        why: it could not be scored.
        keys: gives those of its raw rows tonight.
        served: folder and manifest of the version that is served, if any is.
    """

    why: str
    keys: Callable[[], pa.ChunkedArray]
    served: tuple[Path, SnapshotManifest] | None


NONE_FAILED: Mapping[int, FailedShard] = MappingProxyType({})


def keep_shard(shard: ShardPlan, failed: FailedShard) -> ShardFile:
    """Give a version the file of a shard that is served, and say whose rows they are.

    Raises:
        SnapshotError: nothing is served that has such a file, or it is not whole.
    """
    if failed.served is None or not lies_alike(failed.served[1], shard):
        other = failed.served and failed.served[1].version
        msg = (
            f"shard {shard.number} of {shard.version.day} could not be scored "
            f"({failed.why}), and there is nothing to keep: {other or 'nothing'} is served"
            f"{', of other shards or outputs' if other else ''}; {STAYS}. Run the day again"
        )
        raise SnapshotError(msg)
    folder, served = failed.served
    file = served.files[shard.number]
    must_be_whole(folder / file.name, file)
    try:
        shard.path.hardlink_to(folder / file.name)
    except OSError:  # Another disk, or one that knows no links.
        shutil.copyfile(folder / file.name, shard.path)
        shard.path.chmod(0o444)
    there = map_shard(shard.path)[served.key]
    keys = failed.keys()
    answered = pc.sum(pc.is_in(keys, value_set=there.cast(keys.type).combine_chunks()))
    origin = file.kept or KeptShard(
        version=served.version,
        day=served.day,
        created_at=served.created_at,
        model_name=served.model_name,
        model_version=served.model_version,
        why=failed.why,
        answered=0,
    )
    kept = origin.model_copy(
        update={"why": failed.why, "answered": answered.as_py() or 0}
    )
    return file.model_copy(
        update={
            "raw_rows": shard.raw_rows,
            "linked_from": file.linked_from or served.version,
            "kept": kept,
        }
    )


def lies_alike(manifest: SnapshotManifest, shard: ShardPlan) -> bool:
    """Tell whether a version's files hold the same columns, in as many shards."""
    plan = shard.version
    form = (manifest.key, manifest.key_dtype, len(manifest.files))
    return (form, manifest.outputs, manifest.forms) == (
        (plan.key, plan.key_dtype, shard.shards),
        plan.outputs,
        plan.forms,
    )
