"""The books as a flow: whether it adds up, and by how many rows it does not."""

import re

import pytest

from batch_assets.lake.reconciliation import Books, ControlTotal, Page
from batch_assets.reports.flow import Flow, flow_of
from batch_assets.reports.pictures.flow_picture import draw_flow
from batch_assets_tests.days_by_hand import books_of
from batch_assets_tests.toys import DAY

WHOLE = Flow(1_000, 990, 10, 900, 80, 10, 980, shards=4)


def flow(books: Books, **changes) -> Flow:
    arguments = {"validated": True, "scored": True, "in_version": None} | changes
    return flow_of(books, **arguments)


def test_a_night_whose_rows_all_went_somewhere_adds_up():
    found = flow(books_of(1_000, quarantined=10, scored=985, dead=5), in_version=985)

    assert found.adds_up
    assert found.words == "It adds up, with the same keys in each of 1 shard."
    assert found.sums == [
        "1,000 raw = 990 validated + 10 quarantined",
        "990 validated = 985 scored + 0 carried + 5 dead letters",
        "985 predicted = 985 in the snapshot",
    ]


@pytest.mark.parametrize(
    ("change", "said", "wrong"),
    [
        ({"raw": 1_003}, "3 rows missing after validation", "1,003 raw ≠ 990"),
        ({"raw": 999}, "1 row too many after validation", "999 raw ≠ 990"),
        (
            {"scored": 899, "in_version": 979},
            "1 row missing after scoring",
            "990 valid",
        ),
        ({"dead": 12}, "2 rows too many after scoring", "990 validated ≠ 900"),
        ({"in_version": 978}, "2 rows missing in the snapshot", "980 predicted ≠ 978"),
    ],
)
def test_a_gap_is_told_with_its_rows_and_its_step(change, said, wrong):
    found = Flow(**(vars(WHOLE) | change))

    assert not found.adds_up
    assert said in found.words
    assert any(line.startswith(wrong) for line in found.sums)
    assert "missing" in draw_flow(found).about or "too many" in draw_flow(found).about


def test_equal_counts_of_other_keys_do_not_add_up():
    page = Page(ControlTotal(10, 1), ControlTotal(10, 2), scored=ControlTotal(10, 2))

    found = flow(Books(DAY, {0: page, 1: Page()}))

    assert not found.adds_up
    assert "1 of 2 shards hold other keys" in found.words


def test_shards_of_parts_that_were_replaced_do_not_add_up():
    books = books_of(10, scored=10)
    found = flow(Books(DAY, books.pages, outdated_scored=frozenset({0})))

    assert not found.adds_up


def test_a_night_that_was_stopped_adds_up_as_far_as_it_came():
    books = books_of(918, quarantined=340)

    found = flow(books, scored=False)

    assert (found.scored, found.dead, found.predicted) == (None, None, None)
    assert found.words.startswith("It adds up as far as the night came")
    assert found.sums == ["918 raw = 578 validated + 340 quarantined"]


def test_rows_that_were_not_validated_have_nothing_to_add_up():
    found = flow(books_of(7), validated=False, scored=False)

    assert found.adds_up
    assert found.words.startswith("There is nothing to add up yet")
    assert found.sums == []


@pytest.mark.parametrize(
    "given",
    [
        WHOLE,
        Flow(1_234_567_890, 1_234_567_889, 1, 1_234_567_889, 0, 0, 1_234_567_889),
        Flow(1_000, 0, 1_000, 0, 0, 0),
        Flow(1_000, 1_000, 0, 0, 1_000, 0, 1_000),
        Flow(1_000, 1_000, 0, 0, 0, 1_000),
        Flow(1_000, 990, 10),
        Flow(0, 0, 0, 0, 0, 0, 0),
        Flow(5),
        Flow(10, 8, 1, 5, 1, 1, 7),
    ],
    ids=str,
)
def test_every_number_is_printed_and_inside_the_picture(given):
    picture = draw_flow(given)
    svg = picture.svg()

    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    known = [
        rows
        for rows in (
            given.raw,
            given.validated,
            given.quarantined,
            given.scored,
            given.carried,
            given.dead,
            given.in_version,
        )
        if rows is not None
    ]
    for rows in known:
        assert f"{rows:,}" in texts
    figure = picture.figure
    figure.draw_without_rendering()
    width, height = figure.canvas.get_width_height()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= width + 1
        assert box.y0 >= 0
        assert box.y1 <= height
    for at, one in enumerate(boxes):
        for other in boxes[at + 1 :]:
            assert not one.padded(-1).overlaps(other.padded(-1))


def test_rows_of_a_kept_shard_are_a_side_of_the_flow():
    flow = Flow(100, 90, 10, 60, 0, 5, 60, shards=4, kept=25)
    assert flow.adds_up
    assert (
        "90 validated = 60 scored + 0 carried + 5 dead letters + 25 kept" in flow.sums
    )
