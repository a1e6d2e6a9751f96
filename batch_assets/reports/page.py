"""The page of a night: one file of HTML that needs no server, no network and no script."""

import re
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup, escape

from batch_assets.reports import wording
from batch_assets.reports.facts import NightFacts
from batch_assets.reports.pictures.of_night import MOST_OUTPUTS, NightPictures
from batch_assets.reports.pictures.style import Picture

TEMPLATE, STYLE = "night.html.jinja", "night.css"


def page_of(facts: NightFacts, pictures: NightPictures) -> str:
    """Return the page: what is text in the facts is text on it, and nothing else."""
    not_drawn = [one.output for one in facts.histograms[MOST_OUTPUTS:]]
    return page_from(TEMPLATE, night=facts, pictures=pictures, not_drawn=not_drawn)


def page_from(template: str, **shown: Any) -> str:
    """Return a page in the looks of all; what is text in `shown` is text on it."""
    environment = _environment()
    style, _, _ = environment.loader.get_source(environment, STYLE)  # type: ignore[union-attr]
    return environment.get_template(template).render(style=Markup(style), **shown)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("batch_assets.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": wording.count,
        "number": wording.number,
        "share": wording.share,
        "seconds": wording.seconds,
        "moment": wording.moment,
        "svg": _svg,
        "ticked": _ticked,
    }
    return environment


def _svg(picture: Picture) -> Markup:
    # Drawn here, of text that matplotlib escapes.
    return Markup(picture.svg())


def _ticked(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
