"""Score days in processes of their own, so many at a time.

    python -m batch_assets.launch.workers PIPELINE DAY REPORT ENGINE

A process ends when its standard input does: when it is told to, and when whoever started
it dies, however it dies. Nothing of it is served.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Self

from batch_assets.launch.project import load_definitions, open_instance
from batch_assets.launch.reports import DayOutcome, NightReport
from batch_assets.launch.runner import PipelineRunner


class DayWorkers:
    """Scores days in processes, so many at a time; none, if there are to be none.

    While it is entered, SIGINT and SIGTERM stop it.
    """

    def __init__(self, pipeline: str, engine: str | None, count: int) -> None:
        self._pipeline, self._engine = pipeline, engine
        self._pool = ThreadPoolExecutor(count) if count else None
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def start(self, days: list[str]) -> Callable[[str], DayOutcome]:
        """Begin with the days; return what waits for one."""
        if self._pool is None:
            return lambda day: DayOutcome(NightReport(day, success=True), 0.0)
        begun = {day: self._pool.submit(self._score, day) for day in days}
        return lambda day: begun[day].result()

    def stop(self) -> None:
        """Begin no other day, and let those that are being scored end."""
        self.stopped.set()
        for process in list(self._running):
            _close_input(process)

    def _score(self, day: str) -> DayOutcome:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="batch-assets-") as folder:
            report_path, log_path = Path(folder) / "report.json", Path(folder) / "log"
            with log_path.open("wb") as log, self._lock:
                if self.stopped.is_set():
                    report = NightReport(day, success=False, interrupted=True)
                    return DayOutcome(report, 0.0)
                arguments = [self._pipeline, day, str(report_path), self._engine or ""]
                process = subprocess.Popen(
                    [sys.executable, "-m", __spec__.name, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                    # A terminal's Ctrl-C is for this process, which tells the others.
                    start_new_session=True,
                )
                self._running.add(process)
            if self.stopped.is_set():
                _close_input(process)
            code = process.wait()
            self._running.discard(process)
            _close_input(process)
            report = _read_report(report_path, log_path, day, code)
        return DayOutcome(report, time.monotonic() - began)

    def __enter__(self) -> Self:
        self._handlers = {
            number: signal.signal(number, lambda *_: self.stop())
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._pool:
                self.stop()
                self._pool.shutdown(cancel_futures=True)
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)


def _close_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _read_report(path: Path, log: Path, day: str, code: int) -> NightReport:
    """The report of a process; of one that left none, what it died of."""
    if path.is_file():
        return NightReport(**json.loads(path.read_text(encoding="utf-8")))
    hint = ""
    if code < 0:
        died = f"was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            hint = " Is memory short? Try fewer at a time."
    else:
        died = f"ended with {code}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last_line = f": {lines[-1]}" if lines else ""
    why = (
        f"the process that scored it {died}{last_line}; nothing of it was committed by "
        f"half.{hint}"
    )
    return NightReport(day, success=False, errors=[why])


def _end_with_the_input() -> None:
    """Interrupt this process, as SIGTERM does, once its standard input has ended."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main(pipeline: str, day: str, report_path: str, engine: str) -> None:
    """Score a day in this process, and leave the report in a file."""
    _end_with_the_input()
    with open_instance() as instance:
        runner = PipelineRunner(load_definitions(), instance, pipeline)
        report = runner.run_night(day, engine or None, serve=False)
        beside = Path(f"{report_path}.new")
        beside.write_text(json.dumps(asdict(report)), encoding="utf-8")
        beside.rename(report_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
