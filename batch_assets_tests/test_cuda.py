"""On a CUDA device: the same scores, in less precision, by threads, and alone."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from batch_assets.errors import DeviceError, GoldenBatchError
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.resources import GpuResource
from batch_assets.scoring.device import AUTO_BATCH_ROWS, find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_night
from batch_assets.scoring.scorer import Scorer
from batch_assets.spec import Gates
from batch_assets_tests.toys import (
    DAY,
    ToyRisk,
    copy_rows,
    expected_risk,
    features_of,
    make_contract,
    make_rows,
    read_day,
    validate,
    write_toy_release,
)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ROWS = 10_000


def packed(seed: int, rows: int = ROWS) -> np.ndarray:
    features = features_of(make_rows(rows, seed=seed), make_contract())
    return np.ascontiguousarray(features.numpy().T)


def test_cuda_is_found_by_each_of_its_names() -> None:
    found = [find_device(name) for name in ("auto", "cuda", "cuda:0")]

    assert found == [found[0]] * 3
    assert (found[0].kind, found[0].index) == ("cuda", 0)
    assert found[0].torch == torch.device("cuda", 0)
    assert found[0].batch_rows == AUTO_BATCH_ROWS["cuda"]
    assert found[0].memory > 2**30


def test_a_device_past_the_last_is_an_error() -> None:
    there = torch.cuda.device_count()

    with pytest.raises(DeviceError, match=f"sees {there} CUDA devices"):
        find_device(f"cuda:{there}")


@pytest.mark.parametrize("batch_rows", ["333", "10000", "auto"])
def test_cuda_scores_equal_those_of_the_cpu_within_the_golden_tolerance(
    toy_release: Release, batch_rows: str
) -> None:
    features = packed(1)
    tolerance = toy_release.manifest.golden.tolerance["cuda"]

    cuda, _ = Scorer(toy_release, find_device("cuda", batch_rows=batch_rows)).score(
        features
    )

    cpu, _ = Scorer(toy_release, find_device("cpu")).score(features)
    np.testing.assert_allclose(
        cuda["risk"], cpu["risk"], rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(("tolerance", "accepted"), [(1e-9, False), (5e-2, True)])
def test_the_golden_tolerance_alone_decides_on_a_precision(
    tmp_path: Path, precision: str, tolerance: float, accepted: bool
) -> None:
    release = write_toy_release(tmp_path / "release", tolerance={"cuda": tolerance})
    device = find_device("cuda", precision)

    if not accepted:
        with pytest.raises(GoldenBatchError, match=f"in {precision}"):
            Scorer(release, device)
        return
    found, _ = Scorer(release, device).score(packed(1))

    expected = expected_risk(make_rows(ROWS, seed=1))
    np.testing.assert_allclose(found["risk"], expected, atol=2 * tolerance)


def test_threads_share_a_scorer_and_never_a_stream(toy_release: Release) -> None:
    scorer = Scorer(toy_release, find_device("cuda", batch_rows="512"))
    inputs = [packed(seed) for seed in range(16)]
    alone = [scorer.score(features)[0]["risk"] for features in inputs]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: scorer.score(x)[0]["risk"], inputs))
        streams = set(pool.map(lambda _: scorer._stream().cuda_stream, range(64)))

    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 1 <= len(streams) <= 4
    assert torch.cuda.default_stream().cuda_stream not in streams


def test_a_night_on_cuda_closes_its_books(lake: Lake, toy_release: Release) -> None:
    copy_rows(lake, make_rows(ROWS), row_group_rows=500)
    validate(lake, row_group_rows=500)

    score_night(
        lake,
        toy_release,
        DAY,
        LocalEngine(find_device("cuda")),
        chunk_rows=1_000,
        precision="float32",
        gates=Gates(),
    )

    found = read_day(lake, "predictions")["risk"].to_numpy()
    expected = expected_risk(make_rows(ROWS).sort_by("user_id"))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert lake.books(DAY).open_after_scoring() == []


class Squares(torch.nn.Module):
    """The toy model, which first fills 1 MiB of the device for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.toy = ToyRisk()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        room = torch.zeros(len(features), 2**18, device=features.device)
        return self.toy(features) + room[:, 0]


def test_a_batch_that_does_not_fit_the_device_is_halved_until_it_does(
    tmp_path: Path,
) -> None:
    release = write_toy_release(
        tmp_path / "release",
        module=Squares(),
        model_format="safetensors",
        import_path="batch_assets_tests.test_cuda:Squares",
    )
    device = find_device("cuda", batch_rows="4096")
    scorer = Scorer(release, device)
    torch.cuda.empty_cache()
    # 4,096 rows ask for 4 GiB, 2,048 for 2, of 1.5 on top of what is there already.
    limit = torch.cuda.memory_reserved(0) + 3 * 2**29
    torch.cuda.set_per_process_memory_fraction(limit / device.memory, 0)
    try:
        found, _ = scorer.score(packed(1))
        again, _ = scorer.score(packed(1))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
        torch.cuda.empty_cache()

    expected = expected_risk(make_rows(ROWS, seed=1))
    np.testing.assert_allclose(found["risk"], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found["risk"], again["risk"])
    assert scorer.batch_rows == 1024


OTHER = """
import sys
from filelock import FileLock, Timeout

try:
    FileLock(sys.argv[1]).acquire(timeout=0.5)
except Timeout:
    print("held")
else:
    print("free")
"""


def test_a_device_that_is_held_is_held_against_other_processes(tmp_path: Path) -> None:
    path = tmp_path / "batch-assets-cuda-0.lock"
    command = [sys.executable, "-c", OTHER, str(path)]
    resource = GpuResource(device="cuda", lock_folder=str(tmp_path))

    with resource.held() as device:
        assert device.kind == "cuda"
        during = subprocess.run(command, capture_output=True, text=True, check=True)
    after = subprocess.run(command, capture_output=True, text=True, check=True)

    assert (during.stdout, after.stdout) == ("held\n", "free\n")
