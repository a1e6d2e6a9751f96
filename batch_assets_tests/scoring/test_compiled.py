"""Compiled code is the release, or is not run: by its golden batch, and by its digest."""

import logging
import re
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from batch_assets.errors import ConfigError, GoldenBatchError, ReleaseError
from batch_assets.models.release import GOLDEN, Release
from batch_assets.scoring import compiled, native_proof
from batch_assets.scoring.device import Device, find_device
from batch_assets.scoring.device_errors import out_of_memory
from batch_assets.scoring.model_process import ModelProcess
from batch_assets.scoring.native import MOST_ROWS, _unpack, must_be_written_for
from batch_assets.scoring.scorer import Scorer
from batch_assets.scoring.sweep import Effort, sweep
from batch_assets.scoring.sweep_results import Sweeps
from batch_assets_tests.compiling import Deep, compiles
from batch_assets_tests.projects import attributes, make_project, metadata_of
from batch_assets_tests.releases_by_hand import altered
from batch_assets_tests.toys import (
    DAY,
    features_of,
    make_contract,
    make_rows,
    needs_cpu_with,
    write_source,
    write_toy_release,
    write_toy_release_as,
)

ROWS = 1_003
PRECISIONS = ["float32", pytest.param("bfloat16", marks=needs_cpu_with("bfloat16"))]


def packed(rows: int = ROWS) -> np.ndarray:
    features = features_of(make_rows(rows, seed=3), make_contract())
    return np.ascontiguousarray(features.numpy().T)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a worker has it: with two, the last bits of some rows differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_toy_release(
        tmp_path_factory.mktemp("deep") / "release",
        module=Deep(),
        tolerance={"cpu": 1e-5, "cpu bfloat16": 2e-2},
        reference={},
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's code lies. Never change it: copy it."""
    return tmp_path_factory.mktemp("cache") / "compiled"


def device(cache: Path, precision: str = "float32", batch_rows: str = "auto") -> Device:
    return find_device("cpu", precision, batch_rows, cache)


def codes(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.pt2"))


@pytest.fixture
def own_cache(tmp_path: Path, cache: Path, deep: Release) -> Path:
    """A copy of the session's code that may be spoilt."""
    Scorer(deep, device(cache))
    return shutil.copytree(cache, tmp_path / "compiled")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch_rows", ["1", "2", "100", "auto"])
@compiles
def test_compiled_outputs_are_the_modules_whatever_the_batch(
    deep: Release, cache: Path, precision: str, batch_rows: str
) -> None:
    rows = 17 if batch_rows == "1" else ROWS
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[precision]

    found, _ = Scorer(deep, device(cache, precision, batch_rows)).score(packed(rows))

    eager, _ = Scorer(deep, find_device("cpu", precision)).score(packed(rows))
    np.testing.assert_allclose(found["risk"], eager["risk"], atol=tolerance)
    assert found["risk"].dtype == np.float32


@compiles
def test_code_is_compiled_once_for_batches_of_all_sizes(
    deep: Release, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Scorer(deep, device(cache))
    before = [(path, path.stat().st_mtime_ns) for path in codes(cache)]
    caplog.clear()

    with caplog.at_level(logging.INFO):
        for batch_rows in ("1", "64", "100000"):
            Scorer(deep, device(cache, batch_rows=batch_rows))

    assert [(path, path.stat().st_mtime_ns) for path in codes(cache)] == before
    assert "compil" not in caplog.text


@compiles
def test_weights_are_laid_out_for_the_product_when_it_is_compiled(
    deep: Release, cache: Path
) -> None:
    Scorer(deep, device(cache))
    path = compiled._path(cache, deep, device(cache))

    with zipfile.ZipFile(path) as package:
        (name,) = [n for n in package.namelist() if n.endswith(".wrapper.cpp")]
        code = package.read(name).decode()

    # The products of Deep, as oneDNN and as MKL do them.
    assert code.count("linear_pointwise(") >= 3
    assert "mm_out(" not in code


@compiles
def test_python_goes_on_while_the_code_computes(deep: Release, cache: Path) -> None:
    scorer = Scorer(deep, device(cache))
    rows = packed(200_000)

    def compute() -> float:
        torch.get_num_threads()
        torch.set_num_threads(1)
        begin = time.perf_counter()
        scorer.forward(rows)
        return time.perf_counter() - begin

    with ThreadPoolExecutor(1) as pool:
        pool.submit(compute).result()
        running = pool.submit(compute)
        ticks = 0
        while not running.done():
            ticks += 1
            time.sleep(0.001)

    # With the interpreter's lock held there is one tick, however long it takes.
    assert running.result() > 0.05
    assert ticks > 10


@compiles
def test_threads_share_the_code_and_no_row(deep: Release, cache: Path) -> None:
    scorer = Scorer(deep, device(cache, batch_rows="100"))
    inputs = [packed(rows) for rows in range(90, 190, 5)]
    alone = [scorer.score(features)[0]["risk"] for features in inputs]

    # More than are let in at once; each computes as an engine's worker does.
    with ThreadPoolExecutor(12, "scorer", torch.set_num_threads, (1,)) as pool:
        together = list(pool.map(lambda x: scorer.score(x)[0]["risk"], inputs * 5))

    for one, other in zip(alone * 5, together, strict=True):
        np.testing.assert_array_equal(one, other)


@compiles
def test_a_process_of_its_own_gives_the_scorers_bits(
    deep: Release, cache: Path
) -> None:
    scorer = Scorer(deep, device(cache))
    before = [(path, path.stat().st_mtime_ns) for path in codes(cache)]
    process = ModelProcess(scorer)

    try:
        found, _ = process.score(packed(), 60)
    finally:
        process.close()

    np.testing.assert_array_equal(found["risk"], scorer.score(packed())[0]["risk"])
    assert [(path, path.stat().st_mtime_ns) for path in codes(cache)] == before


@compiles
def test_a_sweep_measures_the_code_and_is_kept_apart(
    deep: Release, cache: Path, root: Path
) -> None:
    sweeps, on = Sweeps(root), device(cache)

    found = sweep(deep, on, 2, Effort(None, 1, 0, 0.001, max_rows=4))
    sweeps.keep(found)

    assert found.precision == "float32 compiled"
    assert sweeps.find(deep, on) == found
    assert sweeps.find(deep, find_device("cpu")) is None


@compiles
def test_memory_that_runs_out_in_compiled_code_is_recognised(
    deep: Release, cache: Path
) -> None:
    Scorer(deep, device(cache))  # Compiled here, without a limit.
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from batch_assets.models.release import open_release
        from batch_assets.scoring.device import find_device
        from batch_assets.scoring.device_errors import out_of_memory
        from batch_assets.scoring.scorer import Scorer

        device = find_device("cpu", compiled=Path(sys.argv[2]))
        scorer = Scorer(open_release(Path(sys.argv[1])), device)
        features = np.ones((4, 1 << 20), np.float32)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        try:
            scorer.forward(features)
        except RuntimeError as error:
            print(out_of_memory(error), error)
        """
    )

    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, deep.folder, cache],
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.startswith("True"), said


@compiles
def test_code_that_was_altered_is_not_loaded_but_made_again(
    deep: Release, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = compiled._path(own_cache, deep, device(own_cache))
    good = path.stat().st_ino
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    scorer = Scorer(deep, device(own_cache))

    assert f"{path} hashes to" in caplog.text
    assert path.stat().st_ino != good
    assert compiled._whole(path)
    assert not list(own_cache.rglob("*.tmp"))
    eager, _ = Scorer(deep, find_device("cpu")).score(packed())
    np.testing.assert_allclose(
        scorer.score(packed())[0]["risk"], eager["risk"], atol=1e-5
    )


@pytest.mark.parametrize("how", ["cut", "longer", "unrecorded", "recorded wrong"])
@compiles
def test_code_that_does_not_match_its_record_is_not_whole(
    deep: Release, own_cache: Path, how: str
) -> None:
    path = compiled._path(own_cache, deep, device(own_cache))
    record = path.with_suffix(".sha256")
    assert compiled._whole(path)

    match how:
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "longer":
            path.write_bytes(path.read_bytes() + b" ")
        case "unrecorded":
            record.unlink()
        case "recorded wrong":
            record.write_text("0" * 64 + f"  {path.name}\n", encoding="utf-8")

    assert not compiled._whole(path)


@compiles
def test_the_record_is_one_that_sha256sum_checks(
    deep: Release, own_cache: Path
) -> None:
    path = compiled._path(own_cache, deep, device(own_cache))

    subprocess.run(
        ["sha256sum", "--check", path.with_suffix(".sha256").name],
        cwd=path.parent,
        check=True,
        capture_output=True,
    )


@compiles
def test_whole_code_of_another_model_fails_the_golden_batch_and_does_not_score(
    tmp_path: Path, deep: Release, own_cache: Path
) -> None:
    golden = load_file(deep.folder / GOLDEN)["output.risk"]
    other = altered(deep, tmp_path / "other", risk=golden + 0.1)
    mine = compiled._path(own_cache, deep, device(own_cache))
    theirs = compiled._path(own_cache, other, device(own_cache))
    theirs.parent.mkdir(parents=True)
    for suffix in (".pt2", ".sha256"):
        shutil.copy(mine.with_suffix(suffix), theirs.with_suffix(suffix))

    with pytest.raises(
        GoldenBatchError, match=r"in float32 compiled: .*with compile false"
    ):
        Scorer(other, device(own_cache))


@compiles
def test_a_night_with_compile_says_so_and_is_another_job(
    tmp_path: Path,
    root: Path,
    deep: Release,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = shutil.copytree(own_cache, root / "compiled")
    before = {path.name: path.stat().st_ino for path in codes(kept)}
    project = make_project(tmp_path / "p", root, monkeypatch, [attributes()])
    project.registry.add(deep.folder)
    project.registry.approve("toy", deep.digest, why="the tests", by="ada")
    write_source(project.folder, make_rows(1_000), day=DAY)
    jobs = []
    with dg.instance_for_test() as instance:
        for compile_it in (False, True):
            config = {"resources": {"gpu": {"config": {"compile": compile_it}}}}
            night = project.run("toy", DAY, instance, run_config=config)
            assert night.success
            found = metadata_of(night, "predictions")
            assert found["compiled"] is compile_it
            assert "device_busy_share" not in found  # Of CUDA devices only.
            jobs.append(found["job"])

    assert jobs[0] != jobs[1]
    assert {path.name: path.stat().st_ino for path in codes(kept)} == before


@pytest.mark.parametrize("change", ["precision", "release", "device", "torch", "cpu"])
def test_code_is_kept_by_all_that_it_depends_on(
    tmp_path: Path,
    toy_release: Release,
    deep: Release,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    on = device(tmp_path)
    before = compiled._path(tmp_path, toy_release, on)
    assert before == compiled._path(tmp_path, toy_release, on)
    release = toy_release

    match change:
        case "precision":
            on = replace(on, precision="bfloat16")
        case "release":
            release = deep
        case "device":
            on = replace(on, name="Another CPU")
        case "torch":
            monkeypatch.setattr(torch, "__version__", "9.9.9")
        case "cpu":
            flags: dict[str, Any] = {"avx2": False}
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)

    assert compiled._path(tmp_path, release, on) != before


@pytest.mark.parametrize("model_format", ["safetensors", "torchscript"])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_only_a_pt2_is_compiled(tmp_path: Path, model_format: Any) -> None:
    release = write_toy_release_as(model_format, tmp_path / "release")

    with pytest.raises(ReleaseError, match=f"stored as {model_format}: only a .pt2"):
        Scorer(release, device(tmp_path / "compiled"))


def test_batches_that_the_code_is_not_made_for_are_refused(
    tmp_path: Path, toy_release: Release
) -> None:
    with pytest.raises(ConfigError, match="at most 1,048,576 rows"):
        Scorer(toy_release, device(tmp_path, batch_rows=str(MOST_ROWS + 1)))


def test_without_a_compiler_the_error_says_what_to_install(
    tmp_path: Path, toy_release: Release
) -> None:
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": (None, str(tmp_path / "g++"))}),
        pytest.raises(ConfigError, match=r"no C\+\+ compiler .*apt-get install g\+\+"),
    ):
        Scorer(toy_release, device(tmp_path / "compiled"))

    assert not codes(tmp_path)


@compiles
def test_a_model_that_cant_be_compiled_does_not_score_as_it_is(
    tmp_path: Path, toy_release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compiled.OPTIONS, "no_such_option", 1)

    with pytest.raises(ReleaseError, match=r"can't be compiled .*Set compile to false"):
        Scorer(toy_release, device(tmp_path / "compiled"))

    assert not codes(tmp_path)


def test_code_that_calls_operators_by_name_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "package.pt2"
    with zipfile.ZipFile(package, "w") as archive:
        for name in ("code.wrapper.so", "code.wrapper_metadata.json", "code.json"):
            archive.writestr(f"package/data/aotinductor/model/{name}", b"{}")

    with pytest.raises(ReleaseError, match=r"code\.json in the package"):
        _unpack(package, tmp_path / "unpacked")


def test_only_what_torch_says_of_memory_is_taken_for_memory() -> None:
    said = "compiled code failed in AOTInductorModelContainerRun: "

    assert out_of_memory(
        RuntimeError(said + "DefaultCPUAllocator: can't allocate memory: ...")
    )
    assert not out_of_memory(RuntimeError(said + "expected 4 features"))


@pytest.mark.parametrize("version", ["2.12.1", "2.14.0+cu130", "2.130.0", "3.0.0"])
def test_another_torch_than_it_was_written_for_is_refused_before_anything_is_called(
    deep: Release, cache: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(torch, "__version__", version)

    with pytest.raises(
        ConfigError, match=rf"this is torch {re.escape(version)}: .*2\.13"
    ):
        Scorer(deep, device(cache))

    assert not cache.exists() or not list(cache.rglob("*.pt2"))


@pytest.mark.parametrize("version", ["2.13.0", "2.13.0+cpu", "2.13.1"])
def test_the_torch_that_it_was_written_for_is_taken(version: str) -> None:
    must_be_written_for(version)


CRASHES = 'extern "C" int AOTInductorModelContainerCreateWithDevice(...) {{ {} }}\n'


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        ("*(volatile int *)0 = 1; return 0;", "signal SIGSEGV"),
        ("__builtin_trap(); return 0;", "signal SIG"),
        ("return 1;", "exit code 1"),
    ],
)
@compiles
def test_code_that_ends_its_process_is_never_called_in_this_one(
    tmp_path: Path,
    deep: Release,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    ending: str,
) -> None:
    Scorer(deep, device(cache))
    good = compiled._path(cache, deep, device(cache))
    source, library = tmp_path / "crash.cpp", tmp_path / "crash.so"
    source.write_text(CRASHES.format(body), encoding="utf-8")
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", library], check=True)

    def broken(release: Release, device: Device, path: Path) -> None:
        with zipfile.ZipFile(good) as package, zipfile.ZipFile(path, "w") as made:
            for name in package.namelist():
                is_code = name.endswith(".so")
                data = library.read_bytes() if is_code else package.read(name)
                made.writestr(name, data)

    monkeypatch.setattr(compiled, "_package", broken)
    loaded: list[Path] = []
    monkeypatch.setattr(compiled, "NativeModule", lambda path, _: loaded.append(path))

    with pytest.raises(ReleaseError, match=f"ended a process of its own with {ending}"):
        Scorer(deep, device(tmp_path / "compiled"))

    assert loaded == []
    assert not list((tmp_path / "compiled").rglob("*.pt2"))
    assert not list((tmp_path / "compiled").rglob("*.sha256"))


@compiles
def test_code_that_never_answers_is_not_waited_for(
    tmp_path: Path, deep: Release, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scorer(deep, device(cache))
    good = compiled._path(cache, deep, device(cache))
    monkeypatch.setattr(native_proof, "PROOF_SECONDS", 0.01)

    with pytest.raises(ReleaseError, match="gave no answer within"):
        native_proof.prove_native(good, torch.device("cpu"), packed(16))


@compiles
def test_code_that_is_whole_is_not_proved_again(
    deep: Release, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        compiled, "prove_native", lambda *_: pytest.fail("proved again")
    )

    Scorer(deep, device(own_cache))
