"""On a CUDA device: the same scores, in full buckets, by threads that overlap.

None of this runs where there is no device; it is skipped by name.
"""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
import torch

from batch_assets.errors import DeviceError, GoldenBatchError
from batch_assets.lake.tables import Lake
from batch_assets.models.formats import golden_batch
from batch_assets.models.likeness import unlike
from batch_assets.models.release import Release
from batch_assets.resources import GpuResource
from batch_assets.scoring.cuda import CudaStream
from batch_assets.scoring.device import AUTO_BATCH_ROWS, find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.model_process import ModelProcess
from batch_assets.scoring.scorer import Scorer
from batch_assets.spec import GateLimits
from batch_assets_tests import picky
from batch_assets_tests.compiling import Deep, compiles
from batch_assets_tests.histories import write_histories
from batch_assets_tests.projects import attributes, make_project, metadata_of
from batch_assets_tests.steps import score_rows
from batch_assets_tests.toys import (
    DAY,
    MatrixRisk,
    ToyRisk,
    copy_rows,
    expected_risk,
    features_of,
    make_contract,
    make_rows,
    read_day,
    validate,
    write_source,
    write_toy_release,
)
from batch_assets_tests.trained import write_trained

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ROWS = 10_000
ZEROS = torch.zeros(100, 1)


def packed(seed: int, rows: int = ROWS) -> np.ndarray:
    features = features_of(make_rows(rows, seed=seed), make_contract())
    return np.ascontiguousarray(features.numpy().T)


def lane_of(scorer: Scorer) -> CudaStream:
    """The cuda_stream of the thread that asks."""
    cuda_stream = scorer._cuda_stream()
    assert cuda_stream is not None
    return cuda_stream


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
    release = write_toy_release(
        tmp_path / "release", module=MatrixRisk(), tolerance={"cuda": tolerance}
    )
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
        streams = set(pool.map(lambda _: lane_of(scorer).stream.cuda_stream, range(64)))

    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 1 <= len(streams) <= 4
    assert torch.cuda.default_stream().cuda_stream not in streams


def test_a_night_on_cuda_closes_its_books(lake: Lake, toy_release: Release) -> None:
    copy_rows(lake, make_rows(ROWS), row_group_rows=500)
    validate(lake, row_group_rows=500)

    score_rows(
        lake,
        toy_release,
        DAY,
        LocalEngine(find_device("cuda")),
        chunk_rows=1_000,
        gates=GateLimits(),
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
        import_path="batch_assets_tests.scoring.test_cuda:Squares",
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


@pytest.mark.parametrize("rows", [1, 99, 100, 101, 257])
def test_the_device_sees_full_buckets_and_every_row_is_answered_once(
    tmp_path: Path, rows: int
) -> None:
    scorer = Scorer(picky.write_picky(tmp_path), find_device("cuda", batch_rows="100"))
    features = picky.packed(rows)

    found, _ = scorer.score(features)

    assert set(picky.seen(scorer)) == {100}
    np.testing.assert_allclose(
        found["risk"], picky.risk(features), rtol=1e-3, atol=1e-3
    )


def test_a_row_gets_the_same_bits_whatever_stands_beside_it(
    toy_release: Release,
) -> None:
    scorer = Scorer(toy_release, find_device("cuda", batch_rows="512"))
    features = packed(1, 512)

    whole = scorer.forward(features)["risk"]

    # The bucket is the same, and so is the place in it.
    for rows in (1, 2, 511):
        part, _ = scorer.score(np.ascontiguousarray(features[:, :rows]))
        np.testing.assert_array_equal(part["risk"], whole[:rows])


def test_buffers_are_allocated_once_for_a_worker_and_a_bucket(
    toy_release: Release,
) -> None:
    scorer = Scorer(toy_release, find_device("cuda", batch_rows="512"))
    scorer.score(packed(1))
    buffers = lane_of(scorer)._buffers
    assert buffers is not None
    before = torch.cuda.host_memory_stats()["active_requests.allocated"]

    for seed in range(5):
        scorer.score(packed(seed, 2_000 + seed))

    assert lane_of(scorer)._buffers is buffers
    # Pinned memory is asked for by the streams alone.
    assert torch.cuda.host_memory_stats()["active_requests.allocated"] == before
    assert buffers.sent.is_pinned()
    assert all(back.is_pinned() for back in buffers.back.values())


def test_outputs_outlive_the_buffers_that_they_came_in(toy_release: Release) -> None:
    scorer = Scorer(toy_release, find_device("cuda", batch_rows="512"))
    first = scorer.forward(packed(1, 512))["risk"]
    kept = first.copy()

    scorer.forward(packed(2, 512))

    np.testing.assert_array_equal(first, kept)


def test_a_batch_that_fails_half_way_leaves_nothing_for_the_next(
    tmp_path: Path,
) -> None:
    scorer = Scorer(picky.write_picky(tmp_path), find_device("cuda", batch_rows="1000"))
    good, bad = picky.packed(1_000), picky.packed(1_000)
    bad[0, 500] = picky.POISON
    expected = scorer.score(good)[0]["risk"]

    for _ in range(5):
        with pytest.raises(ValueError, match="no risk at that age"):
            scorer.score(bad)
        np.testing.assert_array_equal(scorer.score(good)[0]["risk"], expected)


class Table(torch.nn.Module):
    """The toy model, which looks the age up in a table of 100."""

    def __init__(self) -> None:
        super().__init__()
        self.toy, self.ages = ToyRisk(), torch.nn.Embedding.from_pretrained(ZEROS)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        ages = features[:, 0].nan_to_num().long()
        return self.toy(features) + self.ages(ages)[:, 0]


# The assert ends what a process has on the device: no test of this one may meet it.
ASSERTS = """
import sys
from pathlib import Path

from batch_assets.lake.tables import Lake
from batch_assets.models.release import open_release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.spec import GateLimits
from batch_assets_tests.steps import score_rows
from batch_assets_tests.toys import DAY, NAME

root = Path(sys.argv[1])
release = open_release(root / "release", sys.argv[2])
gates = GateLimits(max_dead_letter_share=0.1)
engine = LocalEngine(find_device("cuda", batch_rows="500"), workers=2)
score_rows(Lake(root, NAME), release, DAY, engine, chunk_rows=500, gates=gates)
print("lost" if engine._scorer.lost_device else "kept", flush=True)
"""


def test_an_index_out_of_range_costs_its_own_row_alone(root: Path, lake: Lake) -> None:
    release = write_toy_release(
        root / "release",
        module=Table(),
        model_format="safetensors",
        import_path="batch_assets_tests.scoring.test_cuda:Table",
        golden_inputs=torch.tensor([[40.0, 1.0, 0.0, 1.0], [50.0, 2.0, 1.0, 0.0]]),
    )
    rows = make_rows(2_000)
    ages = rows["age"].to_numpy().copy() % 90
    ages[700] = 110  # One that the contract allows.
    rows = rows.set_column(
        rows.column_names.index("age"), "age", pa.array(ages, rows["age"].type)
    )
    copy_rows(lake, rows, row_group_rows=500)
    validate(lake, row_group_rows=500)
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-c",
        ASSERTS,
        str(root),
        release.digest,
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.stdout, done.returncode) == ("lost\n", 0), done.stderr[-4_000:]
    (dead,) = read_day(lake, "dead_letters").to_pylist()
    assert dead["user_id"] == rows["user_id"][700].as_py()
    assert "device-side assert" in dead["reason"]
    assert len(read_day(lake, "predictions")) == 1_999


def test_a_process_of_its_own_gives_the_scorers_bits(toy_release: Release) -> None:
    scorer = Scorer(toy_release, find_device("cuda", batch_rows="512"))
    process = ModelProcess(scorer)

    try:
        found, _ = process.score(packed(1), 60)
    finally:
        process.close()

    np.testing.assert_array_equal(found["risk"], scorer.score(packed(1))[0]["risk"])


def test_the_usage_is_that_of_the_scorer(toy_release: Release) -> None:
    scorer = Scorer(toy_release, find_device("cuda", batch_rows="512"))
    usage = scorer.usage
    assert usage is not None
    assert usage.busy_seconds == 0  # The golden batch is no part of a night.

    begin = time.perf_counter()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(scorer.score, [packed(seed) for seed in range(6)]))
    wall = time.perf_counter() - begin

    assert 0 < usage.busy_seconds <= wall
    assert 0 < usage.peak_allocated_mib <= usage.peak_reserved_mib


def test_a_nights_metadata_has_the_devices_memory_and_busy_share(
    tmp_path: Path, root: Path, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "p", root, monkeypatch, [attributes()])
    write_source(project.folder, make_rows(1_000), day=DAY)
    with dg.instance_for_test() as instance:
        config = {"resources": {"gpu": {"config": {"device": "cuda"}}}}
        night = project.run("toy", DAY, instance, run_config=config)
        assert night.success
        found = metadata_of(night, "predictions")

    assert 0 < found["device_busy_share"] <= 1
    assert found["device_peak_allocated_mib"] > 0
    assert found["device_peak_allocated_mib"] <= found["device_peak_reserved_mib"]
    # No bucket is larger than a chunk.
    assert found["batch_rows"] == 200


@pytest.mark.filterwarnings("ignore")  # The profiler's own.
def test_copies_of_one_worker_overlap_the_kernels_of_another(tmp_path: Path) -> None:
    release = write_toy_release(tmp_path / "release", module=Deep(), reference={})
    scorer = Scorer(release, find_device("cuda", batch_rows="65536"))
    rows = packed(1, 10 * 65_536)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(scorer.score, [rows] * 3))  # The buffers are there.
        with torch.profiler.profile(
            activities=[
                torch.profiler.ProfilerActivity.CPU,
                torch.profiler.ProfilerActivity.CUDA,
            ]
        ) as profile:
            list(pool.map(scorer.score, [rows] * 6))
            torch.cuda.synchronize()
    path = tmp_path / "trace.json"
    profile.export_chrome_trace(str(path))

    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    kernels = [e for e in events if e.get("cat") == "kernel"]
    copies = [e for e in events if e.get("cat") == "gpu_memcpy"]
    assert len({e["args"]["stream"] for e in kernels}) >= 2
    to_device = [e["name"] for e in copies if "HtoD" in e["name"]]
    assert to_device
    assert all("Pinned" in name for name in to_device)
    together = [
        (copy["name"], kernel["name"])
        for copy in copies
        for kernel in kernels
        if copy["args"]["stream"] != kernel["args"]["stream"]
        and copy["ts"] < kernel["ts"] + kernel["dur"]
        and kernel["ts"] < copy["ts"] + copy["dur"]
    ]
    assert together


@compiles
def test_compiled_code_gives_what_the_module_gives_and_is_kept(tmp_path: Path) -> None:
    release = write_toy_release(tmp_path / "release", module=Deep(), reference={})
    cache = tmp_path / "compiled"

    def scored(batch_rows: str) -> np.ndarray:
        device = find_device("cuda", batch_rows=batch_rows, compiled=cache)
        return Scorer(release, device).score(packed(1))[0]["risk"]

    found = scored("4096")
    (code,) = cache.rglob("*.pt2")
    made = code.stat().st_mtime_ns

    eager, _ = Scorer(release, find_device("cuda")).score(packed(1))
    np.testing.assert_allclose(found, eager["risk"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scored("1000"), found, rtol=1e-3, atol=1e-3)
    assert code.stat().st_mtime_ns == made


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

    with resource.reserve(tmp_path) as device:
        assert device.kind == "cuda"
        during = subprocess.run(command, capture_output=True, text=True, check=True)
    after = subprocess.run(command, capture_output=True, text=True, check=True)

    assert (during.stdout, after.stdout) == ("held\n", "free\n")


def test_histories_and_rankings_are_those_of_the_cpu(tmp_path: Path) -> None:
    release = write_histories(tmp_path / "release")
    rows, _ = golden_batch(release)
    rows = rows.take(np.arange(2_000) % len(rows))
    outputs = {}
    for kind in ("cpu", "cuda"):
        scorer = Scorer(release, find_device(kind, batch_rows="64"))
        outputs[kind], _ = scorer.score(rows)
    contract = release.contract
    within = release.manifest.golden.tolerance["cuda"]
    for name, apart in unlike(outputs["cuda"], outputs["cpu"], contract, within):
        assert not apart.any(), name


def test_an_onnx_graph_says_what_it_says_on_the_cpu_or_is_refused(
    tmp_path: Path,
) -> None:
    import onnxruntime

    release = write_trained(tmp_path / "release", "onnx")
    device = find_device("cuda", batch_rows="64")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        # Never on the CPU in its stead.
        with pytest.raises(DeviceError, match="Install onnxruntime-gpu in its place"):
            Scorer(release, device)
        return
    rows, _ = golden_batch(release)
    rows = rows.take(np.arange(2_000) % len(rows))
    outputs, _ = Scorer(release, device).score(rows)
    expected, _ = Scorer(release, find_device("cpu")).score(rows)
    within = release.manifest.golden.within("cuda")
    for name, apart in unlike(outputs, expected, release.contract, within):
        assert not apart.any(), name
