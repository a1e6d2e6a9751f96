"""This project as in `local`, with its chunks scored by tasks on Spark."""

from batch_assets.spec import Spark
from benchmarks.columns.local import measure, run_on_engine
from benchmarks.starting import started_spark

if __name__ == "__main__":
    with started_spark() as seconds:
        measure(lambda work: run_on_engine(Spark(kind="spark"), work), seconds)
