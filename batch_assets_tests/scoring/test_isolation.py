"""A model without an answer in time is a fault, and nothing of it stays in the way."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batch_assets.errors import ScoringError
from batch_assets.models.release import Release
from batch_assets.scoring import isolation, model_process
from batch_assets.scoring.device import find_device
from batch_assets.scoring.device_errors import lost_device
from batch_assets.scoring.faults import FaultError
from batch_assets.scoring.isolation import TimedScorer
from batch_assets.scoring.model_process import ModelProcess
from batch_assets.scoring.scorer import Abandoned, Scorer
from batch_assets_tests.models_that_fail import packed
from batch_assets_tests.stuck import (
    DIES_AWAY,
    LEAVES,
    LEAVES_AWAY,
    LOOPS,
    OUT_OF_RANGE,
    RAISES,
    SLOW_AT_HOME,
    STUBBORN,
    Breaking,
    Homesick,
    Risk,
    Stuck,
    children,
)
from batch_assets_tests.toys import write_toy_release

LIMIT = 0.4


def written(folder: Path, kind: type[torch.nn.Module], **changes: Any) -> Release:
    home = os.getpid()
    arguments = {
        "module": kind(home),
        "model_format": "safetensors",
        "import_path": f"batch_assets_tests.stuck:{kind.__name__}",
        "arguments": {"home": home},
        "golden_inputs": torch.from_numpy(packed(8).T),
    }
    return write_toy_release(folder / "release", **(arguments | changes))


def model_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("model of")]


def expected(features: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return Risk()(torch.from_numpy(features.T)).numpy()


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("stuck")
    return Scorer(written(folder, Stuck), find_device("cpu"))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a worker has it, so that equal rows give equal bits; and a short grace."""
    monkeypatch.setattr(isolation, "INTERRUPT_SECONDS", 0.3)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    # The thread of this thread was made with one thread of torch.
    isolation._here.thread = None


def ended(thread: threading.Thread, seconds: float = 5) -> bool:
    thread.join(seconds)
    return not thread.is_alive()


# In a thread


def test_an_answer_in_time_is_the_scorers_to_the_bit_and_needs_no_process(
    scorer: Scorer,
) -> None:
    features = packed(5_000)

    with TimedScorer(scorer, 60, 5_000) as timed:
        outputs, seconds = timed.score(features)
        assert children() == set()

    np.testing.assert_array_equal(outputs["risk"], scorer.score(features)[0]["risk"])
    assert seconds.model > 0


def test_one_model_thread_serves_all_spans_and_chunks_of_a_worker(
    scorer: Scorer,
) -> None:
    before = set(model_threads())
    seen = set()
    for _ in range(3):
        with TimedScorer(scorer, 60, 10) as timed:
            for _ in range(3):
                timed.score(packed(10))
                seen |= set(model_threads()) - before

    assert len(seen) == 1


def test_a_model_thread_ends_with_its_worker(scorer: Scorer) -> None:
    worker = threading.Thread(
        target=lambda: TimedScorer(scorer, 60, 10).score(packed(10)), name="short-lived"
    )
    worker.start()
    worker.join()

    for thread in model_threads():
        if "short-lived" in thread.name:
            assert ended(thread)


def test_a_model_thread_has_as_many_threads_of_torch_as_its_worker(
    tmp_path: Path,
) -> None:
    def set_elsewhere(threads: int) -> None:
        other = threading.Thread(target=torch.set_num_threads, args=(threads,))
        other.start()
        other.join()

    class Counts(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            set_elsewhere(5)
            return torch.full((len(features),), 1.0) / torch.get_num_threads()

    scorer = Scorer(written(tmp_path, Stuck), find_device("cpu"))
    scorer._module = Counts()  # A release would be asked before, for its golden batch.
    found = []

    def ask() -> None:
        torch.get_num_threads()  # The first question in a thread resets the count.
        torch.set_num_threads(2)
        set_elsewhere(3)
        found.append(TimedScorer(scorer, 60, 4).score(packed(4))[0]["risk"][0])

    worker = threading.Thread(target=ask)
    worker.start()
    worker.join()

    assert found == [0.5]


def test_what_the_model_raises_is_the_reason(scorer: Scorer) -> None:
    with TimedScorer(scorer, 60, 4) as timed:
        with pytest.raises(FaultError, match=r"^ValueError: no risk at that age$"):
            timed.score(packed(4, RAISES))
        # A model that raises is not stuck: it goes on where it is.
        timed.score(packed(4))
        assert children() == set()


def test_an_exit_that_the_model_asks_for_goes_out_as_it_is(scorer: Scorer) -> None:
    with TimedScorer(scorer, 60, 4) as timed, pytest.raises(SystemExit):
        timed.score(packed(4, LEAVES))


@pytest.mark.parametrize(
    ("rows", "limit"), [(1000, 600), (500, 300), (1, 10), (0, 10), (17, 10.2)]
)
def test_a_span_has_its_share_of_the_limit_and_never_less_than_the_floor(
    scorer: Scorer, rows: int, limit: float
) -> None:
    assert TimedScorer(scorer, 600, 1000).limit(rows) == pytest.approx(limit)


def test_a_limit_under_the_floor_is_the_floor(scorer: Scorer) -> None:
    assert TimedScorer(scorer, 3, 1000).limit(1) == 3
    assert TimedScorer(scorer, 3, 0).limit(0) == 3


# In a process


def test_a_loop_is_interrupted_asked_again_in_a_process_and_killed(
    scorer: Scorer, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(model_threads())
    TimedScorer(scorer, 60, 4).score(packed(4))
    (thread,) = set(model_threads()) - before

    with TimedScorer(scorer, LIMIT, 4) as timed:
        with pytest.raises(
            FaultError, match=r"^TimeoutError: no answer within 0\.4 s$"
        ):
            timed.score(packed(4, LOOPS))
        assert not thread.is_alive()
        assert children() == set()

        good = packed(4)
        outputs, _ = timed.score(good)
        assert len(children()) == 1

    np.testing.assert_array_equal(outputs["risk"], expected(good))
    assert children() == set()
    assert "stuck" not in caplog.text


def test_a_slow_machine_costs_a_second_try_and_changes_no_bit(scorer: Scorer) -> None:
    features = packed(5_000, SLOW_AT_HOME)

    with TimedScorer(scorer, LIMIT, 5_000) as timed:
        outputs, _ = timed.score(features)

    np.testing.assert_array_equal(outputs["risk"], expected(features))


def test_a_process_goes_on_at_the_size_of_batch_that_was_found(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "batch_rows", 12)

    assert ModelProcess(scorer)._spec.device.batch_rows == 12


def test_the_next_chunk_begins_in_a_thread_again(scorer: Scorer) -> None:
    with TimedScorer(scorer, LIMIT, 4) as timed:
        timed.score(packed(4, SLOW_AT_HOME))

    with TimedScorer(scorer, LIMIT, 4) as timed:
        timed.score(packed(4))
        assert children() == set()


def test_a_row_that_breaks_the_device_of_its_process_is_alone_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaking, "broken", False)
    scorer = Scorer(written(tmp_path, Breaking), find_device("cpu"))
    good = packed(4)

    with TimedScorer(scorer, 60, 4) as timed:
        with pytest.raises(FaultError, match="device-side assert triggered"):
            timed.score(packed(4, OUT_OF_RANGE))
        outputs, _ = timed.score(good)  # Of another process than the one that broke.
    # All that follow, of any worker: this process has no device any more.
    with TimedScorer(scorer, 60, 4) as timed:
        again, _ = timed.score(good)

    np.testing.assert_array_equal(outputs["risk"], expected(good))
    np.testing.assert_array_equal(again["risk"], expected(good))


@pytest.mark.parametrize(
    ("said", "broke"),
    [
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", True),
        ("CUDA failure 710: device-side assert triggered", True),
        ("CUDA error: out of memory", False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", False),
        ("CUDA out of memory. Tried to allocate 4.00 GiB", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_what_breaks_a_device_is_told_from_what_does_not(
    said: str, broke: bool
) -> None:
    assert lost_device(said) == broke


def test_a_thread_that_can_not_be_interrupted_is_left_behind_and_said_so(
    scorer: Scorer, caplog: pytest.LogCaptureFixture
) -> None:
    process = ModelProcess(scorer)
    with caplog.at_level(logging.WARNING), pytest.raises(FaultError, match="0.4 s"):
        isolation._in_model_thread(scorer, packed(4, STUBBORN), LIMIT)

    assert "a thread is stuck in the model" in caplog.text
    assert all(thread.daemon for thread in model_threads())
    # Its answer comes in the end, and reaches nobody.
    features = packed(4)
    for _ in range(3):
        outputs, _ = isolation._in_model_thread(scorer, features, 60)
        np.testing.assert_array_equal(outputs["risk"], expected(features))
    assert process._running is None


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        (DIES_AWAY, "the model's process ended with signal 11"),
        (LEAVES_AWAY, "the model's process ended with exit code 7"),
        (RAISES, "ValueError: no risk at that age"),
        (LOOPS, r"TimeoutError: no answer within 0\.4 s"),
    ],
)
def test_what_ends_in_the_process_is_a_fault_and_the_next_rows_are_scored(
    scorer: Scorer, age: int, reason: str
) -> None:
    process = ModelProcess(scorer)
    try:
        with pytest.raises(FaultError, match=f"^{reason}$"):
            process.score(packed(3, age), LIMIT)
        good = packed(3)
        outputs, _ = process.score(good, 30)
    finally:
        process.close()

    np.testing.assert_array_equal(outputs["risk"], expected(good))
    assert children() == set()


def test_a_process_that_ended_between_two_spans_is_no_rows_fault(
    scorer: Scorer,
) -> None:
    process = ModelProcess(scorer)
    try:
        process.score(packed(3), 30)
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        assert process._running is not None
        process._running.process.wait()
        process.score(packed(3), 30)
        assert children() != {child}
    finally:
        process.close()


def test_a_process_leaves_ctrl_c_and_terminate_to_its_parent(scorer: Scorer) -> None:
    process = ModelProcess(scorer)
    try:
        process.score(packed(3), 30)
        (child,) = children()
        assert os.getpgid(child) != os.getpgrp()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
        process.score(packed(3), 30)
        assert children() == {child}
    finally:
        process.close()


def test_a_release_that_does_not_load_in_the_process_is_no_rows_fault(
    tmp_path: Path,
) -> None:
    scorer = Scorer(written(tmp_path, Homesick), find_device("cpu"))

    with (
        TimedScorer(scorer, LIMIT, 4) as timed,
        pytest.raises(ScoringError, match=r"no place like home.*No row is at fault"),
    ):
        timed.score(packed(4, LOOPS))
    assert children() == set()


def test_a_process_hashes_the_release_again_before_it_loads_it(tmp_path: Path) -> None:
    scorer = Scorer(written(tmp_path, Stuck), find_device("cpu"))
    weights = scorer.release.folder / scorer.release.manifest.model.file
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    with pytest.raises(ScoringError, match="TamperedReleaseError"):
        ModelProcess(scorer).score(packed(4), LIMIT)


def test_a_process_that_never_gets_ready_is_given_up(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_process, "START_SECONDS", 0.05)

    with pytest.raises(ScoringError, match="was not ready within"):
        ModelProcess(scorer).score(packed(4), LIMIT)
    assert children() == set()


def test_a_process_finds_a_users_own_module_where_its_parent_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "their: own code"
    place.mkdir()
    (place / "their_model.py").write_text(
        "from batch_assets_tests.stuck import Risk\nclass Theirs(Risk): ...\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(place)
    release = written(
        tmp_path,
        Stuck,
        module=Risk(),
        import_path="their_model:Theirs",
        arguments={},
    )
    process = ModelProcess(Scorer(release, find_device("cpu")))
    try:
        outputs, _ = process.score(packed(4), 30)
    finally:
        process.close()

    np.testing.assert_array_equal(outputs["risk"], expected(packed(4)))


# When the run is over


@pytest.mark.parametrize("in_process", [False, True])
def test_a_worker_does_not_wait_for_the_model_when_the_run_is_over(
    tmp_path: Path, in_process: bool
) -> None:
    scorer = Scorer(written(tmp_path, Stuck), find_device("cpu"))
    process = ModelProcess(scorer) if in_process else None
    if process is not None:
        process.score(packed(4), 30)
    threading.Timer(0.3, scorer.abandon).start()
    before = time.monotonic()

    def ask() -> None:
        if process is not None:
            process.score(packed(4, LOOPS), 60)
        isolation._in_model_thread(scorer, packed(4, LOOPS), 60)

    try:
        with pytest.raises(Abandoned):
            ask()
    finally:
        if process is not None:
            process.close()

    assert time.monotonic() - before < 5
    assert children() == set()


# At the end. A scripted loop runs in C++ and without the interpreter's lock.

SPINNING = """
    import sys, threading, time, warnings
    warnings.simplefilter("ignore")
    from pathlib import Path
    import numpy as np, torch
    from batch_assets.models import formats
    from batch_assets.scoring import faults, isolation, model_process
    from batch_assets.scoring.device import find_device
    from batch_assets.scoring.scorer import Scorer
    from batch_assets_tests.toys import write_toy_release

    class Spins(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            result = features[:, 0] / 200
            while bool((features[:, 0] == 101).any()):
                result = result + 0
            return result

    # Traced, the loop would be gone.
    torch.jit.trace = lambda module, example: torch.jit.script(module)
    release = write_toy_release(
        Path(sys.argv[1]) / "release", module=Spins(), model_format="torchscript",
        golden_inputs=torch.ones(4, 4), reference={},
    )
    isolation.INTERRUPT_SECONDS = 0.2
    scorer = Scorer(release, find_device("cpu"))
    bad = np.full((4, 2), 101, np.float32)
"""
ABANDONS = """
    try:
        isolation._in_model_thread(scorer, bad, 0.3)
    except faults.LateError:
        print("late", flush=True)
    assert any(t.name.startswith("model of") for t in threading.enumerate())
    sys.exit(5)
"""
KEEPS_A_PROCESS_BUSY = """
    process = model_process.ModelProcess(scorer)
    process.score(np.ones((4, 2), np.float32), 60)
    print(process._running.process.pid, flush=True)
    process.score(bad, 600)
"""


def script(text: str, folder: Path) -> subprocess.Popen[str]:
    source = textwrap.dedent(SPINNING) + textwrap.dedent(text)
    path = folder / "script.py"
    path.write_text(source, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(path), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_thread_that_spins_in_torch_neither_holds_nor_breaks_the_exit(
    tmp_path: Path,
) -> None:
    with script(ABANDONS, tmp_path) as process:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()

    assert (process.returncode, out) == (5, "late\n"), err


def test_a_process_that_spins_in_torch_dies_with_its_parent(tmp_path: Path) -> None:
    with script(KEEPS_A_PROCESS_BUSY, tmp_path) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        before = cpu_seconds(child)
        while cpu_seconds(child) < before + 0.2:  # It spins.
            time.sleep(0.05)
        process.kill()

    give_up = time.monotonic() + 10
    while alive(child) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not alive(child)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    return int(fields.split()[11]) / os.sysconf("SC_CLK_TCK")


def alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
