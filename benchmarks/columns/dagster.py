"""This project, through Dagster: the asset that scores, materialised for its day."""

from importlib.metadata import version

import dagster as dg

from batch_assets.launch.project import open_instance
from benchmarks.column import Work, main
from benchmarks.columns.local import forget, show
from benchmarks.project import open_project
from benchmarks.work import DAY, PIPELINE

made: dict[str, dg.JobDefinition] = {}


def before(work: Work) -> None:
    """Dagster loads the definitions and knows of the release, as it does at night."""
    forget(work)
    definitions = open_project(work.root, PIPELINE, work.size)
    made["job"] = definitions.resolve_implicit_global_asset_job_def()
    materialize("model_release", day=None)


def run(work: Work) -> None:
    materialize("predictions", "dead_letters", day=DAY)


def materialize(*names: str, day: str | None) -> None:
    with open_instance() as opened:
        made["job"].execute_in_process(
            partition_key=day,
            instance=opened,
            asset_selection=[dg.AssetKey([PIPELINE, name]) for name in names],
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        )


if __name__ == "__main__":
    main(run, f"dagster {version('dagster')}", before, show)
