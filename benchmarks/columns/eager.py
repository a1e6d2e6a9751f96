"""This project as in `local`, with the model as torch runs it: nothing is compiled."""

from importlib.metadata import version

from batch_assets.lake.tables import Lake
from batch_assets.scoring.device import find_device
from benchmarks.column import Work, main
from benchmarks.columns.local import forget, run_on
from benchmarks.work import PIPELINE


def run(work: Work) -> None:
    run_on(find_device("cpu"), work)


if __name__ == "__main__":
    main(
        run,
        f"batch-assets {version('batch-assets')}",
        before=lambda work: forget(Lake(work.root, PIPELINE)),
    )
