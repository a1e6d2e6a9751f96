"""A project as a user has it, over the benchmark's work: a pyproject and one YAML."""

import os
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from batch_assets.launch.project import load_definitions
from benchmarks.work import CHUNK_ROWS, DAY, ROW_GROUP_ROWS, SHARDS

PACKAGE = "bench_project"
DEFINITIONS = """\
from pathlib import Path

from batch_assets.definitions import project_defs
from batch_assets.resources import GpuResource

defs = project_defs(Path(__file__).parent, gpu=GpuResource(compile=True))
"""


def open_project(root: Path, pipeline: str, size: str) -> dg.Definitions:
    """Write the project beside the data, stand in it, and load what it defines."""
    folder = root / f"project-{pipeline}-{size}"
    defs = folder / PACKAGE / "defs" / pipeline
    defs.mkdir(parents=True, exist_ok=True)
    attributes: dict[str, Any] = {
        "name": pipeline,
        "start_day": DAY,
        "source": {
            "kind": "delta",
            "table": str(root / "source"),
            "day_column": None,
        },
        "model": {"name": size},
        "shards": SHARDS,
        "row_group_rows": ROW_GROUP_ROWS,
        "chunk_rows": CHUNK_ROWS,
    }
    texts = {
        folder / "pyproject.toml": (
            f'[project]\nname = "{PACKAGE}"\nversion = "0"\n'
            '[tool.dg]\ndirectory_type = "project"\n'
            f'[tool.dg.project]\nroot_module = "{PACKAGE}"\n'
        ),
        folder / "dagster.yaml": "telemetry: {enabled: false}\n",
        folder / PACKAGE / "__init__.py": "",
        folder / PACKAGE / "definitions.py": DEFINITIONS,
        defs / "defs.yaml": yaml.safe_dump(
            {
                "type": "batch_assets.component.ScoringPipeline",
                "attributes": attributes,
            }
        ),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    os.environ |= {"BATCH_ASSETS_ROOT": str(root), "DAGSTER_HOME": str(folder)}
    os.chdir(folder)
    sys.path[:] = [str(folder), *(p for p in sys.path if "project-" not in p)]
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]
    return load_definitions()
