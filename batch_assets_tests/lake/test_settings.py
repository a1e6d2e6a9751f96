"""Settings of a source's client: secrets come from variables, and are told to nobody."""

import pytest

from batch_assets.environment import secrets_in, without_secrets
from batch_assets.errors import ConfigError
from batch_assets.lake.sources.settings import with_secrets


def test_a_secret_is_taken_from_its_variable(monkeypatch):
    monkeypatch.setenv("WORD", "s3cret")

    assert with_secrets({"a": "1"}, {"b": "WORD"}, "the topic") == {
        "a": "1",
        "b": "s3cret",
    }


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named_with_what_it_is_for(monkeypatch, value):
    monkeypatch.delenv("WORD", raising=False)
    if value is not None:
        monkeypatch.setenv("WORD", value)

    with pytest.raises(ConfigError, match="the topic needs .* WORD, for its 'b'"):
        with_secrets({}, {"b": "WORD"}, "the topic")


def test_an_error_is_one_line_without_values_and_passwords(monkeypatch):
    monkeypatch.setenv("SHORT", "s3cret")
    monkeypatch.setenv("LONG", "s3cret-and-more")

    said = without_secrets(
        "no way to pg://ada:hid/d@n@db/x,\n  nor http://ada:hidden@web; got s3cret-and-more,"
        " 's3cret'",
        secrets_in(["SHORT", "LONG", "NEVER_SET"]),
    )

    assert said == "no way to pg://***@db/x, nor http://***@web; got ***, '***'"
