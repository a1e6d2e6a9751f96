"""What PostgreSQL alone may do: locks, grants, ended connections."""

import time

import psycopg
import pytest

from batch_assets.errors import SinkError
from batch_assets.sinks import postgres as postgres_module
from batch_assets.sinks.sync import sync_sink
from batch_assets_tests.stores import ROWS, make_outputs, must_be_equal, publish


def test_a_transaction_that_stays_open_stops_the_swap_and_no_reader(
    in_postgres, snapshots, monkeypatch
):
    monkeypatch.setattr(postgres_module, "LOCK_TRIES", 1)
    first = publish(snapshots)
    sync_sink(sink := in_postgres.open(), snapshots, keep=2)
    publish(snapshots, day=1)
    with psycopg.connect(in_postgres.url) as analyst:
        analyst.execute(f"SELECT count(*) FROM {in_postgres.name}.current")
        with pytest.raises(SinkError, match="open .*pg_stat_activity"):
            sync_sink(in_postgres.open(), snapshots, keep=2)
        began = time.monotonic()
        assert sink.get(1000).version == first
        assert time.monotonic() - began < 30  # An analyst holds it for good.

    assert sync_sink(in_postgres.open(), snapshots, keep=2).loaded_shards == 0
    must_be_equal(sink, snapshots)


def test_who_may_read_the_view_may_read_the_next_one(in_postgres, snapshots):
    publish(snapshots)
    sync_sink(in_postgres.open(), snapshots, keep=2)
    name = in_postgres.name
    with psycopg.connect(in_postgres.url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE reader_of_{name}")
        owner.execute(f"GRANT USAGE ON SCHEMA {name} TO reader_of_{name}")
        owner.execute(f"GRANT SELECT ON {name}.current TO reader_of_{name}")
    outputs = {"other": make_outputs(ROWS)["risk"]}
    second = publish(snapshots, day=1, outputs=outputs)

    sync_sink(in_postgres.open(), snapshots, keep=2)

    with psycopg.connect(in_postgres.url) as reader:
        reader.execute(f"SET ROLE reader_of_{name}")
        found = reader.execute(
            f"SELECT served_version, day::text, model_name, model_version "
            f"FROM {name}.current WHERE user_id = 1000"
        ).fetchall()
        assert found == [(second, "2026-01-02", "toy", f"{1:064x}")]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(f"SELECT * FROM {name}.versions")


def test_a_connection_that_the_server_ends_is_opened_again(in_postgres, snapshots):
    publish(snapshots)
    sync_sink(sink := in_postgres.open(), snapshots, keep=2)
    with psycopg.connect(in_postgres.url, autocommit=True) as owner:
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    with pytest.raises(SinkError, match="can't be used"):
        sink.get(1000)

    assert sink.get(1000) is not None
