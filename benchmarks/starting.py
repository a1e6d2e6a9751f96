"""The Ray and the Spark of the columns that need one: started alike, before any is timed.

Each says how many seconds its start took.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.column import CORES

# Rows that Spark hands to Python at once: large enough that the way is paid seldom.
ARROW_ROWS = 16_384
OBJECT_STORE_BYTES = 4 << 30


@contextmanager
def started_ray() -> Iterator[float]:
    import ray

    start = time.perf_counter()
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        logging_level="error",
        object_store_memory=OBJECT_STORE_BYTES,
    )
    try:
        yield time.perf_counter() - start
    finally:
        ray.shutdown()


@contextmanager
def started_spark() -> Iterator[float]:
    """The active session is the one that was started."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    start = time.perf_counter()
    session = (
        SparkSession.builder.master(f"local[{CORES}]")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", ARROW_ROWS)
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    try:
        yield time.perf_counter() - start
    finally:
        session.stop()
