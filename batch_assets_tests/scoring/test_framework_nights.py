"""Nights of models of other frameworks, against what each framework predicts itself."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from batch_assets.errors import GoldenBatchError
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets.spec import GateLimits
from batch_assets_tests.nights import score
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.releases_by_hand import altered
from batch_assets_tests.toys import copy_rows, read_day, validate
from batch_assets_tests.trained import (
    CLOSE,
    CONTRACT,
    KINDS,
    declaring,
    expected,
    make_rows,
    matrix_of,
    write_trained,
)

GATES = GateLimits(max_quarantine_share=1, max_dead_letter_share=1)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Release]:
    folder = tmp_path_factory.mktemp("trained")
    return {kind: write_trained(folder / kind, kind) for kind in KINDS}


@pytest.fixture
def lake(root: Path) -> Lake:
    return Lake(root, "trained")


def with_bad_rows(rows: pa.Table) -> pa.Table:
    """The same, of which three break the contract."""
    plans = rows["plan"].to_pylist()
    ages = rows["age"].to_pylist()
    plans[3], plans[4], ages[5] = "enterprise", None, 121
    changed = rows.set_column(2, "plan", pa.array(plans))
    return changed.set_column(1, "age", pa.array(ages, pa.int16()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_night_predicts_what_the_framework_predicts(
    lake: Lake, root: Path, releases: dict[str, Release], kind: str
) -> None:
    registry, rows = Registry(root), make_rows(900, seed=8)
    registry.add(releases[kind].folder)
    # In a process of its own.
    registry.approve(kind, releases[kind].digest, why="the tests need it")
    release = registry.resolve(kind)
    copy_rows(lake, with_bad_rows(rows), contract=CONTRACT)
    validate(lake, contract=CONTRACT)

    night = score(lake, release, gates=GATES)

    want = dict(
        zip(rows["user_id"].to_pylist(), expected(kind, rows)[:, 1], strict=True)
    )
    bad = set(rows["user_id"].to_pylist()[3:6])
    unknown = {
        key
        for key, spend in zip(
            *(rows[n].to_pylist() for n in ("user_id", "spend")), strict=True
        )
        if spend is None
    }
    # The network knows no missing number, and gives NaN.
    dead = unknown - bad if kind == "onnx" else set()
    predictions = read_day(lake, "predictions")
    keys = predictions["user_id"].to_pylist()
    assert set(keys) == set(want) - bad - dead
    np.testing.assert_allclose(
        predictions["risk"].to_numpy(), [want[k] for k in keys], rtol=CLOSE, atol=CLOSE
    )
    assert set(predictions["model_version"].to_pylist()) == {release.digest}
    quarantined = read_day(lake, "quarantined_rows")
    assert set(quarantined["user_id"].to_pylist()) == bad
    assert night.total.rows == len(want) - len(bad) - len(dead)
    if dead:
        letters = read_day(lake, "dead_letters")
        assert set(letters["user_id"].to_pylist()) == dead
        assert set(letters["reason"].to_pylist()) == {"output 'risk' is nan"}


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_says_the_same(releases: dict[str, Release], kind: str) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from batch_assets.models.formats import golden_batch\n"
        "from batch_assets.models.release import open_release\n"
        "from batch_assets.scoring.device import find_device\n"
        "from batch_assets.scoring.scorer import Scorer\n"
        "release = open_release(Path(sys.argv[1]))\n"
        "rows, _ = golden_batch(release)\n"
        "outputs, _ = Scorer(release, find_device('cpu')).score(rows)\n"
        "sys.stdout.write(outputs['risk'].tobytes().hex())\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code, str(releases[kind].folder)],
            cwd=FLIGHTS,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1]
    assert len(said[0]) == 40 * 8


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_any_size_say_the_same(
    releases: dict[str, Release], kind: str
) -> None:
    rows = np.nan_to_num(np.random.default_rng(0).random((3, 500), np.float32))
    rows[1] = np.arange(500) % 3
    want, _ = Scorer(releases[kind], find_device("cpu")).score(rows)
    for batch_rows in ("1", "7", "64"):
        found, _ = Scorer(
            releases[kind], find_device("cpu", batch_rows=batch_rows)
        ).score(rows)
        np.testing.assert_allclose(found["risk"], want["risk"], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_batch_that_is_not_reproduced_is_refused(
    releases: dict[str, Release], kind: str, tmp_path: Path
) -> None:
    release = altered(releases[kind], tmp_path / "off", risk=torch.full((40,), 0.25))
    with pytest.raises(GoldenBatchError, match="does not reproduce its golden batch"):
        Scorer(release, find_device("cpu"))
    registry = Registry(tmp_path)
    registry.add(release.folder)
    with pytest.raises(GoldenBatchError, match="was not approved"):
        registry.approve(kind, release.digest, why="the tests need it")


def test_an_output_out_of_range_is_a_dead_letter(lake: Lake, tmp_path: Path) -> None:
    rows = make_rows(300, seed=8)
    chance = expected("catboost", rows)[:, 1]
    limit = float(np.median(chance))
    contract = declaring(outputs=({"name": "risk", "min": 0, "max": limit},))
    below = matrix_of(rows)[chance < limit][:20]
    release = write_trained(
        tmp_path / "r", "catboost", contract=contract, golden_inputs=below
    )
    copy_rows(lake, rows, contract=contract)
    validate(lake, contract=contract)
    score(lake, release, gates=GATES)
    dead = read_day(lake, "dead_letters")
    assert len(dead) == int((chance.astype(np.float32) > np.float32(limit)).sum()) > 0
    assert len(read_day(lake, "predictions")) == len(rows) - len(dead)
