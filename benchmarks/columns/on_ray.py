"""This project as in `local`, with its chunks scored by actors on Ray."""

from batch_assets.spec import Ray
from benchmarks.columns.local import measure, run_on_engine
from benchmarks.starting import started_ray

if __name__ == "__main__":
    with started_ray() as seconds:
        measure(lambda work: run_on_engine(Ray(kind="ray"), work), seconds)
