"""A day of a topic: by offsets, pinned, the last message of each key, and never fewer."""

import random
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from pydantic import ValidationError

from batch_assets.errors import ConfigError, EmptySourceError, SourceError
from batch_assets.lake.side_tables import copy_side_tables
from batch_assets.lake.sources import KafkaSource
from batch_assets.lake.sources.kafka_log import Message
from batch_assets.lake.sources.kafka_rows import NoRowError, RowsOfMessages, types_of
from batch_assets_tests.kafka_broker import Broker, Topic, at, messages_of, running
from batch_assets_tests.steps import take
from batch_assets_tests.toys import (
    context_of,
    copying,
    make_contract,
    make_rows,
    make_spec,
    read_day,
)

EVE, DAY, NEXT, LATER = "2026-01-04", "2026-01-05", "2026-01-06", "2026-01-07"
COLUMNS = {"user_id": "int64", "visits": "float32"}
TOYS = {
    "user_id": "int64",
    "age": "int16",
    "visits": "float32",
    "plan": "string",
    "active": "bool",
}
# Nothing listens there.
NOWHERE = "127.0.0.1:1"

Taken = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


def source_of(topic: Topic, **changes: Any) -> KafkaSource:
    arguments = {
        "kind": "kafka",
        "bootstrap_servers": topic.broker.address,
        "topic": topic.name,
        "columns": COLUMNS,
        "timeout_seconds": 20,
    }
    return KafkaSource(**(arguments | changes))


def night(
    source: KafkaSource, taken: Taken, day: str = DAY, timezone: str = "UTC"
) -> list[dict]:
    """Take a day, beside those that are taken already; its rows in their order."""
    context = context_of(Path(), day, timezone=timezone)
    taken[day] = source.identity(replace(context, committed=taken))
    return again(source, taken, day)


def again(source: KafkaSource, taken: Taken, day: str = DAY) -> list[dict]:
    """Read a day that is taken."""
    context = replace(context_of(Path(), day), committed=taken)
    with source.read(replace(context, identity=taken[day])) as reader:
        return reader.read_all().to_pylist()


def keys(rows: list[dict]) -> list[Any]:
    return [row["user_id"] for row in rows]


def user(who: int, when: str, visits: float = 0.5, **changes: Any) -> dict[str, Any]:
    (message,) = messages_of([{"user_id": who, "visits": visits}], when)
    return message | changes


def told_of(error: BaseException) -> str:
    """All that a log would have of an error, with what it came from."""
    return "".join(traceback.format_exception(error))


def test_a_day_goes_on_where_the_night_before_ended(broker):
    topic, taken = Topic(broker), {}
    source = source_of(topic)
    topic.send(
        user(1, f"{EVE}T23:59"), user(2, f"{DAY}T00:00"), user(3, f"{DAY}T23:59")
    )

    assert keys(night(source, taken, EVE)) == [1]
    # No message of the next day is there yet, and one comes late.
    assert keys(night(source, taken, DAY)) == [2, 3]
    topic.send(user(4, f"{DAY}T23:59:59"), user(5, f"{NEXT}T00:00"))

    assert keys(night(source, taken, NEXT)) == [4, 5]
    assert [one["offsets"] for one in taken.values()] == [
        {"0": [0, 1]},
        {"0": [1, 3]},
        {"0": [3, 5]},
    ]


def test_messages_are_of_a_day_by_their_offset_and_not_by_their_clock(broker):
    topic, taken = Topic(broker), {}
    topic.send(
        user(1, f"{EVE}T12:00"),
        user(2, f"{DAY}T12:00"),
        user(3, f"{EVE}T12:00"),  # late
        user(4, f"{NEXT}T12:00"),
        user(5, f"{DAY}T12:00"),  # late
    )
    source = source_of(topic)

    assert [keys(night(source, taken, day)) for day in (EVE, DAY, NEXT)] == [
        [1],
        [2, 3],
        [4, 5],
    ]


@pytest.mark.parametrize("seed", range(12))
def test_days_in_any_order_have_every_message_once(broker, seed):
    """Whenever messages come, whatever their clocks say, and whichever night is run."""
    topic, taken, draw = Topic(broker, 2), {}, random.Random(seed)
    days = [f"2026-01-{n:02}" for n in range(4, 10)]
    source = source_of(topic)

    for day in draw.sample(days, len(days)):
        # Often of the first days alone, so that nights end where nothing is after them.
        hours = sorted(
            96 + draw.randrange(draw.choice([24, 48, 144]))
            for _ in range(draw.randrange(4))
        )
        topic.send(
            *(
                user(n, f"2026-01-{h // 24:02}T{h % 24:02}:00", partition=n % 2)
                for n, h in enumerate(hours)
            )
        )
        context = context_of(Path(), day)
        taken[day] = source.identity(replace(context, committed=dict(taken)))

    for part in ("0", "1"):
        spans = [taken[day]["offsets"][part] for day in days]
        assert all(begin <= end for begin, end in spans)
        assert [end for _, end in spans[:-1]] == [begin for begin, _ in spans[1:]]


@pytest.mark.parametrize("between", [EVE, NEXT])
def test_a_neighbour_that_is_taken_says_where_a_day_begins_and_ends(broker, between):
    """Its own clock could say otherwise by then: a message has come late."""
    topic, taken = Topic(broker), {}
    source = source_of(topic)
    topic.send(user(1, f"{EVE}T12:00"), user(2, f"{DAY}T12:00"))
    night(source, taken, DAY)
    topic.send(user(3, f"{EVE}T12:00"), user(4, f"{NEXT}T12:00"))

    assert keys(night(source, taken, between)) == {EVE: [1], NEXT: [3, 4]}[between]


def test_a_late_message_is_of_one_day_though_the_day_after_was_taken_before(broker):
    topic, taken = Topic(broker), {}
    source = source_of(topic)
    topic.send(user(1, f"{DAY}T12:00"))
    assert night(source, taken, NEXT) == []
    topic.send(user(2, f"{DAY}T23:00"), user(3, f"{LATER}T12:00"))

    assert keys(night(source, taken, DAY)) == [1]
    assert keys(night(source, taken, LATER)) == [2, 3]


@pytest.mark.parametrize(
    ("timezone", "day", "first", "last"),
    [
        ("Europe/Oslo", DAY, "2026-01-04T23:00", "2026-01-05T22:59:59.999"),
        ("America/New_York", DAY, "2026-01-05T05:00", "2026-01-06T04:59:59.999"),
        ("Europe/Oslo", "2026-03-29", "2026-03-28T23:00", "2026-03-29T21:59:59.999"),
        ("Europe/Oslo", "2026-10-25", "2026-10-24T22:00", "2026-10-25T22:59:59.999"),
    ],
)
def test_a_day_begins_and_ends_in_the_pipelines_zone(
    broker, timezone, day, first, last
):
    topic = Topic(broker)
    begin, end = at(first), at(last)
    topic.send(
        *(
            user(n, first, timestamp=when)
            for n, when in enumerate([begin - 1, begin, end, end + 1])
        )
    )

    assert keys(night(source_of(topic), {}, day, timezone)) == [1, 2]


def test_a_pipeline_that_moves_to_another_zone_leaves_no_message_between_days(broker):
    topic, taken = Topic(broker), {}
    topic.send(
        user(1, f"{DAY}T22:30"), user(2, f"{DAY}T23:30"), user(3, f"{NEXT}T12:00")
    )
    assert keys(night(source_of(topic), taken, NEXT, "UTC")) == [3]

    assert keys(night(source_of(topic), taken, DAY, "Europe/Oslo")) == [1, 2]


def test_the_last_message_of_a_key_wins_and_a_tombstone_leaves_it_out(broker):
    topic = Topic(broker)
    noon = {"timestamp": at(f"{DAY}T12:00")}
    topic.send(
        user(1, f"{DAY}T12:00", 1.0),
        user(2, f"{DAY}T12:00", 2.0),
        user(3, f"{DAY}T12:00", 3.0),
        user(1, f"{DAY}T12:00", 1.5),
        {"key": "2", "value": None, **noon},
        {"key": "3", "value": None, **noon},
        user(3, f"{DAY}T12:00", 3.5),
        {"key": "4", "value": None, **noon},
    )

    assert night(source_of(topic), {}) == [
        {"user_id": 1, "visits": 1.5},
        {"user_id": 3, "visits": 3.5},
    ]


def test_a_day_that_is_taken_keeps_its_offsets_and_asks_no_broker(broker):
    topic, taken = Topic(broker), {}
    topic.send(user(1, f"{DAY}T12:00"))
    rows = night(source_of(topic), taken)
    topic.send(user(1, f"{DAY}T12:00", 9.0))
    context = replace(context_of(Path(), DAY), committed=taken)

    unreachable = source_of(topic, bootstrap_servers=NOWHERE, timeout_seconds=0.2)

    assert unreachable.identity(context) == taken[DAY]
    assert again(source_of(topic), taken) == rows == [{"user_id": 1, "visits": 0.5}]
    # More is asked of the same messages.
    wider = source_of(topic, columns=COLUMNS | {"plan": "string"})
    assert night(wider, taken) == [{"user_id": 1, "visits": 0.5, "plan": None}]


def test_what_was_named_is_read_though_more_has_come_meanwhile(broker):
    topic = Topic(broker)
    source = source_of(topic)
    topic.send(user(1, f"{DAY}T12:00"))
    context = replace(context_of(Path(), DAY), committed={})
    named = replace(context, identity=source.identity(context))
    topic.send(user(2, f"{DAY}T23:00"))

    with source.read(named) as reader:
        assert keys(reader.read_all().to_pylist()) == [1]


def test_messages_that_are_gone_end_in_an_error_and_not_in_fewer_rows(broker):
    topic, taken = Topic(broker), {}
    source = source_of(topic, offset_reset="earliest")
    topic.send(user(1, f"{EVE}T12:00"))
    night(source, taken, EVE)
    topic.send(
        user(2, f"{DAY}T12:00"), user(3, f"{DAY}T12:00"), user(4, f"{NEXT}T12:00")
    )
    night(source, taken, DAY)
    topic.lose(before=2)

    with pytest.raises(
        SourceError, match="partition 0 is to be read from 1, and begins at 2"
    ):
        again(source, taken, DAY)
    del taken[DAY]
    with pytest.raises(
        SourceError, match=r"has lost messages of the day.*retention\.ms"
    ):
        night(source, taken, DAY)
    assert keys(night(source, taken, NEXT)) == [4]


def test_the_first_night_begins_only_where_nothing_can_be_missing(broker):
    topic = Topic(broker, 2)
    topic.send(
        user(1, f"{EVE}T12:00"), user(2, f"{DAY}T12:00"), user(3, f"{DAY}T13:00")
    )
    source = source_of(topic)
    topic.lose(before=1)
    with pytest.raises(SourceError, match="may have lost.*holds nothing before 1"):
        night(source, {})

    held = source_of(topic, offset_reset="earliest")

    assert keys(night(held, {})) == [2, 3]
    topic.send(user(4, f"{NEXT}T12:00"))
    assert keys(night(source, {}, NEXT)) == [4]


def test_after_days_that_were_not_run_nothing_may_be_missing_since_the_last(broker):
    topic, taken = Topic(broker), {}
    source = source_of(topic)
    topic.send(user(1, f"{EVE}T12:00"), user(2, f"{LATER}T12:00"))
    topic.send(user(3, "2026-01-08T12:00"))
    night(source, taken, EVE)
    topic.lose(before=1)

    # What is gone was taken.
    assert keys(night(source, dict(taken), LATER)) == [2]
    topic.lose(before=2)
    with pytest.raises(SourceError, match="may have lost"):
        night(source, taken, "2026-01-08")


def test_a_topic_that_was_made_anew_is_not_the_one_of_the_night_before(broker):
    topic, taken = Topic(broker), {}
    source = source_of(topic)
    topic.send(user(1, f"{EVE}T12:00"), user(2, f"{EVE}T12:00"))
    night(source, taken, EVE)
    topic.delete()
    topic.make()
    topic.send(user(3, f"{DAY}T12:00"))

    with pytest.raises(SourceError, match="not the one that 2026-01-04 was read from"):
        night(source, taken)
    with pytest.raises(SourceError, match="went back: partition 0 ends at 1"):
        again(source, taken, EVE)
    anew = source_of(topic, offset_reset="earliest")
    assert keys(night(anew, taken)) == [3]


@pytest.mark.parametrize("name", ["cluster", "topic_id"])
def test_a_topic_of_another_cluster_or_id_is_another(broker, name):
    topic, taken = Topic(broker), {}
    source = source_of(topic)
    topic.send(user(1, f"{EVE}T12:00"), user(2, f"{DAY}T12:00"))
    night(source, taken, EVE)
    taken[EVE][name] = "another"

    with pytest.raises(SourceError, match="another cluster's"):
        night(source, taken, DAY)
    with pytest.raises(SourceError, match="another cluster's"):
        again(source, taken, EVE)


def test_a_new_partition_is_read_from_its_beginning(broker):
    topic, taken = Topic(broker), {}
    source = source_of(topic)
    topic.send(user(1, f"{EVE}T12:00"), user(2, f"{DAY}T12:00"))
    night(source, taken, EVE)
    topic.grow(2)
    # Its clock is behind: by time it were of the night before, and of none.
    topic.send(
        user(3, f"{EVE}T12:00", partition=1), user(4, f"{DAY}T12:00", partition=1)
    )

    assert keys(night(source, taken, DAY)) == [2, 3, 4]
    assert taken[EVE]["offsets"] == {"0": [0, 1]}
    topic.lose(before=1, partition=1)
    del taken[DAY]
    with pytest.raises(SourceError, match="partition 1 holds nothing before 1"):
        night(source, taken, DAY)


def test_of_transactions_only_those_that_were_committed_are_read(broker):
    topic, taken = Topic(broker), {}
    source = source_of(topic)
    topic.send(user(1, f"{EVE}T12:00"))
    topic.send(
        user(1, f"{DAY}T12:00", 9.0), user(2, f"{DAY}T12:00"), transaction="abort"
    )
    topic.send(user(3, f"{DAY}T12:00"), transaction="commit")
    night(source, taken, EVE)

    assert keys(night(source, taken, DAY)) == [3]


def test_an_open_transaction_is_of_the_day_on_which_it_ends(broker):
    topic, taken = Topic(broker), {}
    source = source_of(topic)
    topic.send(user(1, f"{DAY}T12:00"))
    producer = Producer(
        {
            "bootstrap.servers": broker.address,
            "transactional.id": topic.name,
            "log_level": 0,
        }
    )
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(
        topic.name, b'{"visits": 2}', b"2", 0, timestamp=at(f"{DAY}T13:00")
    )
    producer.flush(20)

    assert keys(night(source, taken, DAY)) == [1]
    producer.commit_transaction(20)
    assert keys(night(source, taken, NEXT)) == [2]


def test_a_day_without_messages_is_empty(broker, lake):
    topic, taken = Topic(broker, 2), {}
    source = source_of(topic)
    assert night(source, taken, EVE) == []
    topic.send(user(1, f"{NEXT}T12:00"))
    assert night(source, taken, DAY) == []
    assert keys(night(source, taken, NEXT)) == [1]

    arguments = copying(make_contract())
    empty = source_of(topic, columns=TOYS)
    with pytest.raises(EmptySourceError):
        take(lake, empty, context_of(Path()), **arguments)
    assert take(lake, empty, context_of(Path()), allow_empty=True, **arguments).parts


BAD = [
    ({"value": "no JSON"}, "its value is no JSON"),
    ({"value": b"\xff\xfe"}, "its value is no JSON"),
    ({"value": ""}, "its value is no JSON"),
    ({"value": "[" * 100_000}, "its value is no JSON"),
    ({"value": "[1, 2]"}, "another kind than an object"),
    ({"value": "null"}, "another kind than an object"),
    ({"value": '{"visits": "1.5"}'}, "its 'visits' is '1.5', expected float"),
    ({"value": '{"visits": true}'}, "its 'visits' is 'True', expected float"),
    ({"value": '{"visits": NaN}'}, "NaN is no number of JSON"),
    ({"value": '{"visits": 1e39}'}, "its 'visits' is '1e"),
    ({"value": '{"visits": 1e999}'}, "its 'visits' is 'inf'"),
    ({"value": '{"age": 1.5}'}, "its 'age' is '1.5', expected int8"),
    ({"value": '{"age": 300}'}, "its 'age' is '300', expected int8"),
    ({"value": '{"age": false}'}, "its 'age' is 'False', expected int8"),
    ({"value": '{"plan": 7}'}, "its 'plan' is '7', expected string"),
    ({"value": '{"plan": "\\ud800"}'}, "its 'plan' is"),
    ({"value": '{"active": 1}'}, "its 'active' is '1', expected bool"),
    ({"value": '{"items": [1, "2"]}'}, "its 'items' is '2', expected int64"),
    ({"value": '{"items": 1}'}, "its 'items' is '1', expected list"),
    ({"value": '{"user_id": 8}'}, "its key is '7', and its value says 8"),
    ({"value": '{"user_id": "7"}'}, "its 'user_id' is '7', expected int64"),
    ({"key": None}, "it has no key"),
    ({"key": "seven"}, "its key is 'seven', expected a whole number"),
    ({"key": "07"}, "its key is '07', expected a whole number"),
    ({"key": str(2**63)}, "expected int64"),
    ({"key": b"\xff"}, "its key is no UTF-8"),
]
WIDE = COLUMNS | {
    "age": "int8",
    "plan": "string",
    "active": "bool",
    "items": "list[int64]",
}


@pytest.mark.parametrize(("changes", "why"), BAD, ids=[str(c)[:40] for c, _ in BAD])
def test_a_message_that_is_no_row_says_why(changes, why):
    rows = RowsOfMessages("users", types_of(WIDE), "user_id", in_value=False)
    sent = {"key": b"7", "value": b"{}"} | changes
    sent = {k: v.encode() if isinstance(v, str) else v for k, v in sent.items()}
    message = Message(0, 1, 0, **sent)

    with pytest.raises(NoRowError) as refused:
        rows.row_of(rows.key_of(message), message.value)

    assert why in str(refused.value)


def test_a_message_that_is_no_row_ends_the_night_and_may_be_left_out(broker):
    topic = Topic(broker)
    topic.send(
        user(1, f"{DAY}T12:00"),
        user(2, f"{DAY}T12:00", value="?"),
        {"value": "{}", "timestamp": at(f"{DAY}T12:00")},
    )
    why = r"2 messages .*0:2 \(it has no key\); 0:1 \(its value is no JSON"

    with pytest.raises(SourceError, match=why) as refused:
        night(source_of(topic), {})

    assert 'skip: ["0:2", "0:1"]' in str(refused.value)
    assert keys(night(source_of(topic, skip=["0:2", "0:1"]), {})) == [1]


def test_of_many_messages_that_are_no_rows_the_first_are_named_and_all_counted(broker):
    topic = Topic(broker)
    bad = {"value": "?", "timestamp": at(f"{DAY}T12:00")}
    topic.send(*(bad | {"key": str(n)} for n in range(25)))

    with pytest.raises(SourceError, match="25 messages.*0:0 .*0:9 .* and 15 more"):
        night(source_of(topic), {})


def test_a_message_that_was_written_again_may_have_been_no_row(broker):
    topic = Topic(broker)
    topic.send(user(1, f"{DAY}T12:00", value="?"), user(1, f"{DAY}T13:00"))

    assert keys(night(source_of(topic), {})) == [1]


def test_what_is_skipped_on_another_day_changes_nothing_of_this_one(broker):
    topic, taken = Topic(broker), {}
    topic.send(user(1, f"{DAY}T12:00"), user(2, f"{NEXT}T12:00"))
    night(source_of(topic), taken, DAY)
    context = replace(context_of(Path(), DAY), committed=taken)

    assert source_of(topic, skip=["0:1", "7:0"]).identity(context) == taken[DAY]
    assert source_of(topic, skip=["0:0"]).identity(context) != taken[DAY]


def test_a_field_that_is_not_there_is_null_and_one_that_is_no_column_is_left_out(
    broker,
):
    topic = Topic(broker)
    noon = {"timestamp": at(f"{DAY}T12:00")}
    topic.send(
        {"key": "1", "value": '{"other": {"a": [1]}}', **noon},
        {"key": "2", "value": '{"visits": 3, "age": 4.0, "items": [1, null]}', **noon},
    )

    assert night(source_of(topic, columns=WIDE), {}) == [
        dict.fromkeys(WIDE) | {"user_id": 1},
        dict.fromkeys(WIDE)
        | {"user_id": 2, "visits": 3.0, "age": 4, "items": [1, None]},
    ]


def test_a_key_may_be_text(broker):
    topic = Topic(broker)
    topic.send(user(1, f"{DAY}T12:00", key="næ/1", value='{"visits": 1}'))

    found = night(source_of(topic, columns=COLUMNS | {"user_id": "string"}), {})

    assert found == [{"user_id": "næ/1", "visits": 1.0}]


def test_a_key_may_be_in_the_value(broker):
    topic = Topic(broker)
    source = source_of(topic, key_in="value")
    topic.send(
        user(1, f"{DAY}T12:00", 1.0, key=None),
        user(2, f"{DAY}T12:00", 2.0, key="x"),
        user(1, f"{DAY}T12:00", 1.5, key="y"),
    )
    assert night(source, {}) == [
        {"user_id": 2, "visits": 2.0},
        {"user_id": 1, "visits": 1.5},
    ]

    topic.send(user(1, f"{DAY}T12:00", value=None), user(1, f"{DAY}T12:00", value="{}"))
    with pytest.raises(
        SourceError, match="0:3 .it has no value.*0:4 .its value has no"
    ):
        night(source, {})


def test_of_a_key_in_two_partitions_the_later_message_wins(broker):
    topic = Topic(broker, 2)
    topic.send(
        user(1, f"{DAY}T12:00", 1.0),
        user(1, f"{DAY}T11:00", 1.25),  # the last of its partition
        user(1, f"{DAY}T11:30", 1.5, partition=1),
        user(2, f"{DAY}T12:00", partition=0),
        user(2, f"{DAY}T12:00", partition=1, value=None, timestamp=at(f"{DAY}T13:00")),
    )
    assert night(source_of(topic), {}) == [{"user_id": 1, "visits": 1.5}]

    topic.send(user(1, f"{DAY}T11:30", 1.75))
    with pytest.raises(SourceError, match="'1' has a message of the same time"):
        night(source_of(topic), {})
    assert keys(night(source_of(topic, skip=["0:3"]), {})) == [1]


def test_a_state_is_the_last_message_of_every_key_up_to_the_day(broker):
    topic, taken = Topic(broker), {}
    topic.send(
        user(1, f"{EVE}T12:00", 1.0),
        user(2, f"{EVE}T12:00", 2.0),
        user(3, f"{EVE}T12:00", 3.0),
        user(2, f"{DAY}T12:00", 2.5),
        user(3, f"{DAY}T12:00", value=None),
        user(1, f"{NEXT}T12:00", 9.0),
    )
    source = source_of(topic, read_as="state")

    assert keys(night(source, taken, EVE)) == [1, 2, 3]
    assert night(source, taken, DAY) == [
        {"user_id": 1, "visits": 1.0},
        {"user_id": 2, "visits": 2.5},
    ]
    # What was taken the other way says nothing of this one.
    assert keys(night(source_of(topic), dict(taken), DAY)) == [2]
    topic.lose(before=1)
    with pytest.raises(SourceError, match="may have lost messages"):
        night(source, {}, NEXT)


@pytest.mark.parametrize("read_as", ["changes", "state"])
def test_a_topic_that_its_brokers_compact_must_keep_what_nights_need(broker, read_as):
    soon = Topic(broker, cleanup_policy="compact")
    late = Topic(broker, cleanup_policy="compact", min_compaction_lag_ms=str(10**12))
    for topic in (soon, late):
        topic.send(user(1, f"{DAY}T12:00"))
        # Nothing is there that could have taken its place.
        assert keys(night(source_of(topic, read_as=read_as), {})) == [1]
        topic.send(user(1, f"{NEXT}T12:00"))

    assert keys(night(source_of(late, read_as=read_as), {})) == [1]
    with pytest.raises(SourceError, match=r"is compacted.*min\.compaction\.lag\.ms"):
        night(source_of(soon, read_as=read_as), {})


def test_a_silent_broker_is_named_and_no_secret_with_it(broker, monkeypatch):
    monkeypatch.setenv("THE_PASSWORD", "s3cret-of-kafka")
    topic = Topic(broker)
    secured = source_of(
        topic,
        bootstrap_servers=NOWHERE,
        config={"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"},
        config_env={"sasl.username": "THE_USER", "sasl.password": "THE_PASSWORD"},
        timeout_seconds=0.5,
    )
    with pytest.raises(ConfigError, match="needs the environment variable THE_USER"):
        night(secured, {})
    monkeypatch.setenv("THE_USER", "ada-of-kafka")

    with pytest.raises(SourceError, match=f"can't be reached at {NOWHERE}") as refused:
        night(secured, {})

    told = f"{told_of(refused.value)}{secured!r}{secured.model_dump_json()}"
    assert "s3cret-of-kafka" not in told
    assert "ada-of-kafka" not in told


def test_a_broker_that_speaks_no_tls_is_told_apart_from_a_silent_one(broker):
    topic = Topic(broker)
    source = source_of(topic, config={"security.protocol": "SSL"}, timeout_seconds=2)

    with pytest.raises(SourceError, match="The client says: .*SSL"):
        night(source, {})


def test_settings_that_change_what_a_day_is_or_show_a_secret_are_refused(broker):
    topic = Topic(broker)
    for changes, why in [
        ({"config": {"isolation.level": "read_uncommitted"}}, "is not free"),
        ({"config": {"auto.offset.reset": "latest"}}, "is not free"),
        ({"config_env": {"group.instance.id": "A"}}, "is not free"),
        ({"config": {"sasl.password": "x"}}, "may be a secret.*config_env"),
        ({"config": {"ssl.key.pem": "x"}}, "may be a secret"),
        (
            {"config": {"sasl.mechanism": "x"}, "config_env": {"sasl.mechanism": "X"}},
            "say it once",
        ),
        ({"skip": ["17"]}, "named 'partition:offset'"),
        ({"columns": {"user_id": "bigint"}}, "'bigint', which is no type"),
        ({"columns": {}}, "at least 1"),
        ({"timeout_seconds": 0}, "greater than 0"),
        ({"history": "none"}, "Extra inputs"),
    ]:
        with pytest.raises(ValidationError, match=why):
            source_of(topic, **changes)


def test_a_setting_that_the_client_does_not_know_is_an_error_without_its_value(
    broker, monkeypatch
):
    monkeypatch.setenv("A_SECRET", "s3cret-of-kafka")
    topic = Topic(broker)
    for name in ("no.such.setting", "socket.timeout.ms"):
        source = source_of(topic, config_env={name: "A_SECRET"})
        with pytest.raises(ConfigError, match="refuses a setting") as refused:
            night(source, {})
        assert "s3cret-of-kafka" not in told_of(refused.value)


def test_a_topic_that_is_not_there_is_named_and_not_made(broker):
    topic = Topic(broker)
    topic.delete()

    with pytest.raises(SourceError, match=f"no topic '{topic.name}' at"):
        night(source_of(topic), {})
    assert topic.name not in broker.admin.list_topics(timeout=20).topics


def test_a_day_that_is_not_over_is_refused(broker):
    with pytest.raises(SourceError, match="is not over"):
        night(source_of(Topic(broker)), {}, "2999-01-01")


def test_a_key_that_is_no_column_is_refused(broker):
    source = source_of(Topic(broker), columns={"visits": "float32"})

    with pytest.raises(SourceError, match="'user_id' of the contract is not among"):
        night(source, {})


def test_a_side_table_is_no_topic(broker, lake):
    sources = {"blocked": source_of(Topic(broker))}
    with pytest.raises(ValidationError, match="'blocked' can't be of kind 'kafka'"):
        make_spec(side_tables={n: one.model_dump() for n, one in sources.items()})

    with pytest.raises(SourceError, match="nothing keeps it for a side table"):
        copy_side_tables(lake, sources, context_of(Path()), newest=DAY)


def test_the_group_of_the_client_is_never_joined(broker):
    topic = Topic(broker)
    topic.send(user(1, f"{DAY}T12:00"))
    night(source_of(topic), {})
    night(source_of(topic, config={"group.id": "allowed"}), {})

    groups = broker.admin.list_consumer_groups().result().valid
    assert [one.group_id for one in groups] == []


def test_messages_that_memory_has_no_room_for_are_compacted_on_disk(broker):
    """Of 24 MB a limit of 12 MB has no room for all."""
    topic, noon = Topic(broker), at(f"{DAY}T12:00")
    value = '{"visits": 1, "pad": "' + "x" * 2_000 + '"}'
    sent = [{"key": str(n % 10_000), "value": value} for n in range(12_000)]
    topic.send(*(one | {"timestamp": noon} for one in sent))

    found = keys(night(source_of(topic, memory_limit="12MB"), {}))

    assert found == [*range(2_000, 10_000), *range(2_000)]


def test_days_of_a_topic_are_taken_into_the_lake_as_any_other(broker, lake):
    topic = Topic(broker, 2)
    rows = {
        day: make_rows(50, seed=n, first=1 + 25 * n)
        for n, day in enumerate((DAY, NEXT))
    }
    source, arguments = source_of(topic, columns=TOYS), copying(make_contract())
    for day, some in rows.items():
        for message in messages_of(some.to_pylist(), f"{day}T12:00"):
            topic.send(message | {"partition": int(message["key"]) % 2})

    taken = [take(lake, source, context_of(Path(), day), **arguments) for day in rows]

    assert [one.unchanged for one in taken] == [False, False]
    for day, some in rows.items():
        assert read_day(lake, "raw_features", day).equals(some.sort_by("user_id"))
    topic.send(user(1, f"{NEXT}T23:00"))
    again = [take(lake, source, context_of(Path(), day), **arguments) for day in rows]
    assert [one.unchanged for one in again] == [True, True]
    assert [one.job for one in again] == [one.job for one in taken]
    commit = lake.raw_features.last_commit(NEXT)
    assert commit.facts.source["offsets"] == {"0": [25, 50], "1": [25, 50]}


def test_a_topic_is_read_on_after_its_broker_was_restarted(tmp_path):
    taken: Taken = {}
    with running(tmp_path) as broker:
        topic = Topic(broker)
        source = source_of(topic)
        topic.send(user(1, f"{EVE}T12:00"), user(2, f"{DAY}T12:00"))
        night(source, taken, EVE)
        broker.stop()
        broker.start()

        assert keys(night(source, taken, DAY)) == [2]


def test_where_a_topic_is_and_what_it_is_shown_as(broker):
    topic = Topic(broker)
    source = source_of(topic)

    (table,) = source.read_from()

    assert (table.name, table.format) == ("", "kafka")
    assert table.address == f"kafka://{broker.address}/{topic.name}"
    assert source.keeps_history(Path())
    assert source.signature(context_of(Path())) == []
    assert [
        (one.table, one.column)
        for (one,) in source.origins(context_of(Path()), ["visits"]).values()
    ] == [("", "visits")]
    assert pa.schema([("user_id", pa.int64()), ("visits", pa.float32())]) == _schema(
        source
    )


def _schema(source: KafkaSource) -> pa.Schema:
    context = replace(context_of(Path()), committed={})
    with source.read(context) as reader:
        return reader.schema
