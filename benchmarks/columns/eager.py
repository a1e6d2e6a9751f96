"""This project as in `local`, with the model as torch runs it: nothing is compiled."""

from batch_assets.scoring.device import find_device
from benchmarks.column import Work
from benchmarks.columns.local import measure, run_on


def run(work: Work) -> None:
    run_on(find_device("cpu"), work)


if __name__ == "__main__":
    measure(run)
