"""This project as in `local`, with its chunks scored on Ray: by an actor of all cores."""

from batch_assets.spec import Ray
from benchmarks.column import CORES
from benchmarks.columns.local import measure, run_on_engine
from benchmarks.starting import started_ray

# One model for all cores of a machine; two actors of a core each take 5 % longer.
SETTINGS = Ray(kind="ray", cpus_per_worker=CORES)

if __name__ == "__main__":
    with started_ray() as seconds:
        measure(lambda work: run_on_engine(SETTINGS, work), seconds)
