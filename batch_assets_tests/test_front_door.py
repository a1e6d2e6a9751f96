"""The names that a user imports from `batch_assets`, and what comes with them."""

import os
import subprocess
import sys
from importlib import import_module

import pytest

import batch_assets
from batch_assets_tests.projects import FLIGHTS

MODELS = "batch_assets.models"
HOMES = {
    "Column": f"{MODELS}.input_specs",
    "Contract": f"{MODELS}.contract",
    "Feature": f"{MODELS}.contract",
    "Ids": f"{MODELS}.input_specs",
    "KeySpec": f"{MODELS}.contract",
    "Label": f"{MODELS}.output_specs",
    "Output": f"{MODELS}.output_specs",
    "Ranking": f"{MODELS}.output_specs",
    "ScoringPipeline": "batch_assets.component",
    "Sequence": f"{MODELS}.input_specs",
    "Snapshot": "batch_assets.snapshots.reader",
    "Text": f"{MODELS}.input_specs",
    "Vector": f"{MODELS}.input_specs",
    "VectorOutput": f"{MODELS}.output_specs",
    "column_lineage": "batch_assets.assets.column_lineage",
    "draft_release": "batch_assets.training.drafts",
    "pack": "batch_assets.training.packing",
    "write_release": "batch_assets.training.drafts",
}


@pytest.mark.parametrize(("name", "home"), HOMES.items())
def test_each_name_is_the_object_of_its_room(name, home):
    assert getattr(batch_assets, name) is getattr(import_module(home), name)


def test_the_names_are_listed_and_no_other_is_there():
    assert sorted(batch_assets.__all__) == sorted(HOMES)
    assert set(HOMES) <= set(dir(batch_assets))
    with pytest.raises(AttributeError, match="'batch_assets' has no attribute 'Snap'"):
        _ = batch_assets.Snap


@pytest.mark.parametrize(
    "statement", ["import batch_assets", "from batch_assets import Snapshot"]
)
def test_a_service_that_reads_imports_nothing_heavy(statement):
    heavy = "{'torch', 'dagster', 'polars', 'deltalake', 'duckdb'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=FLIGHTS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_project_s_definitions_load_without_torch(tmp_path):
    """Each step of a night loads them in a process of its own; one of them scores."""
    code = (
        "import sys; from batch_assets.launch.project import load_definitions;"
        "from batch_assets.launch.runner import PipelineRunner;"
        "print(len(list(load_definitions().resolve_all_asset_specs())));"
        "print(sorted({'torch', 'sklearn', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=FLIGHTS,
        env=os.environ | {"BATCH_ASSETS_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assets, heavy = done.stdout.splitlines()
    assert int(assets) > 10
    assert heavy == "[]"
