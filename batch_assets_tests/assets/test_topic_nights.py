"""Two nights of a topic on end, through Dagster; what really happened is of another one."""

import dagster as dg
import numpy as np
import pytest
from dagster import DagsterInstance

from batch_assets_tests.kafka_broker import Topic, messages_of, running
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    attributes,
    make_project,
    metadata_of,
)
from batch_assets_tests.publishing import approved
from batch_assets_tests.toys import make_contract, make_rows, read_day

ROWS = 400


def columns_of_rows() -> dict[str, str]:
    contract = make_contract()
    features = {one.name: one.dtype for one in contract.features}
    return {contract.key.name: contract.key.dtype} | features


@pytest.mark.slow
def test_two_nights_of_a_topic_on_end(tmp_path, root, toy_release, monkeypatch):
    (folder := tmp_path / "broker").mkdir()
    with running(folder) as broker:
        users, left = Topic(broker, 2), Topic(broker)
        monkeypatch.setenv("THE_CLIENT", "nobody-s3cret")
        declared = {
            "kind": "kafka",
            "bootstrap_servers": broker.address,
            "config_env": {"client.id": "THE_CLIENT"},
        }
        toy = attributes(
            source=declared | {"topic": users.name, "columns": columns_of_rows()},
            gates={"max_volume_change": 1e9, "min_coverage": 0},
            outcomes={
                "source": declared
                | {"topic": left.name, "columns": {"user_id": "int64", "left": "bool"}},
                "output": "risk",
                "task": "binary",
                "column": "left",
                "after_days": 1,
            },
        )
        project = make_project(tmp_path / "project", root, monkeypatch, [toy])
        approved(root, toy_release)
        rows = {
            FIRST: make_rows(ROWS, seed=1),
            SECOND: make_rows(ROWS, seed=2, first=ROWS // 2),
        }
        drawn = np.random.default_rng(3).random(ROWS) < 0.5
        with DagsterInstance.ephemeral() as instance:
            nights = []
            for day, of_day in rows.items():
                for message in messages_of(of_day.to_pylist(), f"{day}T12:00"):
                    users.send(message | {"partition": int(message["key"]) % 2})
                known = zip(of_day["user_id"].to_pylist(), drawn.tolist(), strict=True)
                happened = [{"user_id": key, "left": gone} for key, gone in known]
                left.send(*messages_of(happened, f"{day}T20:00"))
                nights.append(project.run("toy", day, instance))
            again = project.run("toy", FIRST, instance)
            judged = project.materialize("toy", ["outcomes"], FIRST, instance)

    assert [night.success for night in (*nights, again, judged)] == [True] * 4
    lake = project.lake("toy")
    for day, of_day in rows.items():
        assert read_day(lake, "raw_features", day).equals(of_day.sort_by("user_id"))
    taken = [lake.raw_features.last_commit(day).facts.source for day in rows]
    assert [one["offsets"] for one in taken] == [
        {"0": [0, 200], "1": [0, 200]},
        {"0": [200, 400], "1": [200, 400]},
    ]
    assert metadata_of(again, "raw_features")["unchanged"]
    assert metadata_of(judged, "outcomes")["known_rows"] == ROWS
    graph = project.definitions.resolve_asset_graph()
    source = graph.get(dg.AssetKey(["toy", "source"]))
    assert source.kinds == {"kafka"}
    assert source.metadata["dagster/uri"] == f"kafka://{broker.address}/{users.name}"
    assert "kafka" in graph.get(dg.AssetKey(["toy", "raw_features"])).kinds
    shown = metadata_of(nights[0], "raw_features")
    assert "nobody-s3cret" not in f"{shown}{taken}{source.metadata}"
