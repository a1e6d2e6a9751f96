"""The lookup benchmark checks what it times, and its tables are those of its figures."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rankings import measure_rankings
from benchmarks.serving import (
    BEGIN,
    END,
    HERE,
    OUTPUTS,
    STORES,
    check,
    lookups,
    measure,
    measure_publish,
    prepare,
    show,
)
from benchmarks.tables import with_tables

ROWS = 20_000
FIGURES = {"build_rows_per_s", "bytes", "p50_us", "p99_us", "p999_us"}


def test_the_readmes_tables_are_those_of_the_results() -> None:
    results = json.loads((HERE / "serving.json").read_text("utf-8"))
    readme = (HERE / "README.md").read_text("utf-8")

    assert with_tables(readme, show(results), BEGIN, END) == readme
    assert list(results) == ["machine", *STORES]
    for store in STORES:
        assert results[store].keys() >= FIGURES
    assert results["batch_assets"]["publish_rows_per_s"] > 0
    assert results["batch_assets"]["ranking_ratio"] <= 1.5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    prepare(folder, ROWS)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
def test_a_store_is_built_checked_and_timed(
    root: Path, tmp_path: Path, name: str
) -> None:
    found = measure(name, tmp_path / name, root)

    assert found.keys() == FIGURES | {"version"}
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["p999_us"]
    assert found["bytes"] > ROWS * 4 * OUTPUTS / 2


@pytest.mark.slow
def test_a_whole_publish_is_timed(root: Path, tmp_path: Path) -> None:
    assert measure_publish(root, tmp_path)["publish_rows_per_s"] > 0


@pytest.mark.slow
def test_a_ranking_is_asked_in_turns_with_numbers(tmp_path: Path) -> None:
    assert measure_rankings(tmp_path)["ranking_ratio"] > 0


def test_a_store_that_answers_wrongly_is_not_timed() -> None:
    keys, outputs = np.arange(5), np.ones((5, 2), np.float32)

    check(lambda key: (1.0, 1.0) if key >= 0 else None, keys, outputs)
    with pytest.raises(RuntimeError, match="expected"):
        check(lambda key: (1.0, 2.0) if key >= 0 else None, keys, outputs)
    with pytest.raises(RuntimeError, match="not there was found"):
        check(lambda key: (1.0, 1.0), keys, outputs)


def test_percentiles_are_of_single_lookups() -> None:
    found = lookups(lambda key: None, np.arange(10), 1_000)

    assert 0 <= found["p50_us"] <= found["p99_us"] <= found["p999_us"] < 1e6
