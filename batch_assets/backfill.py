"""Run a range of days: one line a day, whatever happens to one of them.

Days are served in their order, also where several are scored at a time: each of those in
a process of its own, up to where it would be served, and then run once more here, where
all but the serving is done already. So neither what is served, nor which versions were,
nor what a check says, depends on which day was done first. It prints nothing.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import dagster as dg
from dagster import DagsterInstance

from batch_assets.errors import PipelineError
from batch_assets.launch import (
    NightReport,
    days_of,
    instance,
    load_definitions,
    must_run_in_order,
    run_night,
)


@dataclass(frozen=True)
class DayOutcome:
    """What came of one day of a range, and how long it took."""

    report: NightReport
    seconds: float

    @property
    def state(self) -> str:
        """done, unchanged, failed or interrupted."""
        if self.report.interrupted:
            return "interrupted"
        if not self.report.success:
            return "failed"
        return "unchanged" if self.report.unchanged else "done"


def days_between(
    definitions: dg.Definitions, pipeline: str, first: str, last: str | None
) -> list[str]:
    """The days of a pipeline from `first` to `last`, or to the newest that has ended.

    Raises:
        PipelineError: there is no such pipeline, or one of the days is none of its.
    """
    days = days_of(definitions, pipeline)
    if not days:
        msg = f"{pipeline} has no day that has ended yet"
        raise PipelineError(msg)
    last = last or max(first, days[-1])
    outside = [day for day in (first, last) if day not in days]
    if outside:
        msg = (
            f"{pipeline} has no day '{outside[0]}'; its days are {days[0]} to "
            f"{days[-1]}, the newest that has ended. Nothing was run"
        )
        raise PipelineError(msg)
    return [day for day in days if first <= day <= last]


def run_days(
    definitions: dg.Definitions,
    on: DagsterInstance,
    pipeline: str,
    days: list[str],
    *,
    engine: str | None = None,
    parallel: int = 1,
) -> Iterator[DayOutcome]:
    """Run days; give what came of each, in their order, until a signal interrupts.

    Args:
        definitions: of the project.
        on: the Dagster instance.
        pipeline: its name.
        days: the days, the oldest first.
        engine: the engine of these nights, if not that of the YAML.
        parallel: how many are scored at a time, each in a process of its own.

    Raises:
        PipelineError: there is no such pipeline, or its days must be run in order.
    """
    if parallel > 1 and must_run_in_order(definitions, pipeline):
        msg = (
            f"{pipeline} is incremental: a night takes predictions over from the night "
            "before it, so its days are run one after the other. Leave --parallel out"
        )
        raise PipelineError(msg)
    with _Workers(pipeline, engine, parallel if parallel > 1 else 0) as workers:
        scored = workers.scored(days)
        for day in days:
            before = scored(day)
            if workers.stopped.is_set():
                report = replace(before.report, success=False, interrupted=True)
                yield replace(before, report=report)
                return
            if not before.report.success:
                yield before
                continue
            began = time.monotonic()
            report = run_night(definitions, on, pipeline, day, engine)
            seconds = before.seconds + time.monotonic() - began
            yield DayOutcome(_both(before.report, report, parallel), seconds)
            if report.interrupted or workers.stopped.is_set():
                return


def _both(scored: NightReport, served: NightReport, parallel: int) -> NightReport:
    """What came of a day that was scored elsewhere, and found unchanged here."""
    if parallel == 1:
        return served
    return replace(
        served,
        unchanged=scored.unchanged and served.unchanged,
        resumed_chunks=scored.resumed_chunks,
        rows_per_second=scored.rows_per_second,
    )


class _Workers:
    """Scores days in processes, so many at a time; none, if there are to be none.

    A process ends when its standard input does: when it is told to, and when this
    process dies, however it dies.
    """

    def __init__(self, pipeline: str, engine: str | None, count: int) -> None:
        self._pipeline, self._engine, self._count = pipeline, engine, count
        self._pool = ThreadPoolExecutor(count) if count else None
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def scored(self, days: list[str]) -> Callable[[str], DayOutcome]:
        """Begin with the days; give what waits for one."""
        if self._pool is None:
            return lambda day: DayOutcome(NightReport(day, success=True), 0.0)
        begun = {day: self._pool.submit(self._score, day) for day in days}
        return lambda day: begun[day].result()

    def stop(self) -> None:
        """Begin no other day, and let those that are being scored end."""
        self.stopped.set()
        for process in list(self._running):
            _close(process)

    def _score(self, day: str) -> DayOutcome:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="batch-assets-") as folder:
            out, log = Path(folder) / "report.json", Path(folder) / "log"
            command = [self._pipeline, day, str(out), self._engine or ""]
            with log.open("wb") as said, self._lock:
                if self.stopped.is_set():
                    report = NightReport(day, success=False, interrupted=True)
                    return DayOutcome(report, 0.0)
                process = subprocess.Popen(
                    [sys.executable, "-m", __spec__.name, *command],
                    stdin=subprocess.PIPE,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                    # A terminal's Ctrl-C is for this process, which tells the others.
                    start_new_session=True,
                )
                self._running.add(process)
            if self.stopped.is_set():
                _close(process)
            code = process.wait()
            self._running.discard(process)
            _close(process)
            report = _read(out, log, day, code)
        return DayOutcome(report, time.monotonic() - began)

    def __enter__(self) -> "_Workers":
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


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _read(out: Path, log: Path, day: str, code: int) -> NightReport:
    """The report of a process; of one that left none, what it died of."""
    if out.is_file():
        return NightReport(**json.loads(out.read_text(encoding="utf-8")))
    if code < 0:
        died = f"was killed by {signal.Signals(-code).name}"
        hint = (
            " Is memory short? Try fewer at a time." if -code == signal.SIGKILL else ""
        )
    else:
        died, hint = f"ended with {code}", ""
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    said = "".join(f": {line}" for line in last)
    why = f"the process that scored it {died}{said}; nothing of it was committed by half.{hint}"
    return NightReport(day, success=False, errors=[why])


@contextmanager
def _ends_with_its_input() -> Iterator[None]:
    """Interrupt this process, as SIGTERM does, once its standard input has ended."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
    yield


def _score(pipeline: str, day: str, out: str, engine: str) -> None:
    """Score a day in this process, and leave the report in a file."""
    with _ends_with_its_input(), instance() as on:
        definitions = load_definitions()
        report = run_night(definitions, on, pipeline, day, engine or None, serve=False)
        made = Path(f"{out}.new")
        made.write_text(json.dumps(asdict(report)), encoding="utf-8")
        made.rename(out)


if __name__ == "__main__":
    _score(*sys.argv[1:])
