"""Models of five frameworks' introductions: released in one call, served by a night."""

from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets import Snapshot, write_release
from batch_assets.models.registry import Registry
from batch_assets_tests.projects import FIRST, attributes, errors_of, make_project
from batch_assets_tests.training.tutorials import TUTORIALS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorials_model_is_released_in_one_call_and_served_by_a_night(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = TUTORIALS[name]()

    release = write_release(
        made.model,
        made.frame,
        folder=tmp_path / "r",
        name=name,
        key="row_id",
        **made.said,
    )

    root, folder = tmp_path / "root", tmp_path / "project"
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(name, release.digest, why="as in the tutorial")
    source = {"kind": "parquet", "glob": "days/{{ day }}.parquet"}
    pipeline = attributes(name, source=source, model={"name": name}, shards=2)
    project = make_project(folder, root, monkeypatch, [pipeline])
    (folder / "days").mkdir()
    rows = pa.Table.from_pandas(made.frame, preserve_index=False)
    pq.write_table(rows, folder / "days" / f"{FIRST}.parquet")
    with dg.DagsterInstance.ephemeral() as instance:
        result = project.run(name, FIRST, instance)
    assert result.success, errors_of(result)

    with Snapshot(root / "snapshots" / name) as snapshot:
        found = [snapshot.get(key).outputs for key in made.frame["row_id"]]
    for output, wanted in made.wanted.items():
        served = np.array([outputs[output] for outputs in found])
        if wanted.dtype.kind == "U":
            assert served.tolist() == wanted.tolist()
        else:
            np.testing.assert_allclose(served, wanted, atol=1e-5)
