"""A whole night through Dagster, source to served snapshot, with every check.

It is no column of its own: it tells the seconds of each stage, as Dagster's event log
has them.
"""

import json
import shutil
import sys
import time

from dagster import DagsterEventType, DagsterInstance

from batch_assets.launch.project import open_instance
from batch_assets.launch.runner import PipelineRunner
from benchmarks.column import arguments, open_work
from benchmarks.project import open_project
from benchmarks.work import DAY

NIGHT = "night"


def stages_of(on: DagsterInstance) -> dict[str, float]:
    """Seconds of each step of the newest run."""
    started: dict[str, float] = {}
    took: dict[str, float] = {}
    for record in on.all_logs(on.get_runs(limit=1)[0].run_id):
        event = record.dagster_event
        if event is None or event.step_key is None:
            continue
        name = event.step_key.removeprefix(f"{NIGHT}__")
        if event.event_type == DagsterEventType.STEP_START:
            started[name] = record.timestamp
        elif event.event_type == DagsterEventType.STEP_SUCCESS:
            took[name] = round(record.timestamp - started[name], 3)
    return took


def main() -> None:
    asked = arguments()
    for root in (asked.warm, asked.root):
        shutil.rmtree(root / "lake" / NIGHT, ignore_errors=True)
        shutil.rmtree(root / "snapshots" / NIGHT, ignore_errors=True)
        definitions = open_project(root, NIGHT, asked.size)
        with open_instance() as opened:
            runner = PipelineRunner(definitions, opened, NIGHT)
            start, worked = time.perf_counter(), time.process_time()
            # The work is generated: it has no other day than this one.
            report = runner.run_night(DAY, force=True)
            seconds = time.perf_counter() - start
            worked = time.process_time() - worked
            if not report.success or report.checks_passed < report.checks:
                sys.exit(f"the night did not succeed: {report}")
            stages = stages_of(opened)
    found = {
        "seconds": seconds,
        "cpu_seconds": worked,
        "rows": open_work(asked.root, asked.out, asked.size, None).rows,
        "version": f"{report.checks} checks",
        "stages": stages,
    }
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
