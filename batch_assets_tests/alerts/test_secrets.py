"""What an error of a library says is shown without what must not be."""

import pytest

from batch_assets.alerts.receivers.base import reason
from batch_assets.environment import without_secrets

URL = "https://ada:hush-hush@hooks.example.org/services/T0KEN/B0TTLE?key=s3cret-key"


@pytest.mark.parametrize(
    "text",
    [
        f"can't parse {URL}",
        "no route to /services/T0KEN/B0TTLE",
        "T0KEN is revoked",
        "s3cret-key is no key",
        "hush-hush is no password",
    ],
)
def test_a_url_is_cut_out_of_a_text_and_so_are_its_pieces(text):
    said = without_secrets(text, [URL])
    for piece in ("T0KEN", "B0TTLE", "s3cret", "hush"):
        assert piece not in said
    assert "***" in said


def test_the_host_stays():
    text = "hooks.example.org does not answer"
    assert without_secrets(text, [URL]) == text


def test_a_reason_is_what_began_it_in_a_line_without_secrets():
    error = RuntimeError(URL)
    error.__cause__ = OSError("refused:\n  T0KEN")
    assert reason(error, URL) == "refused: ***"
    assert reason(TimeoutError()) == "TimeoutError"
