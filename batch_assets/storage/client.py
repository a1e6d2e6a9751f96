"""The client of a bucket, and what is wrong where it gets no answer.

`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION` and
`AWS_ALLOW_HTTP` say how to reach a bucket, to this and to Delta alike.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from batch_assets.errors import ConfigError, StorageError

# A store that does not answer to a first request within this is not there. Once it has
# answered, it may take this long to come back: a night outlives its restart.
FIRST_ANSWER = timedelta(seconds=10)
COMES_BACK = timedelta(minutes=3)
# More than there is time for: where nothing listens, sixty were over in 20 seconds.
RETRIES = 10_000


def client_of(bucket: str) -> S3Store:
    """Return the client of a bucket, which has answered once.

    Raises:
        ConfigError: there is no such bucket, it may not be used, or no store answers.
    """
    settings = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    return _client(bucket, tuple(settings.items()))


@functools.cache
def _client(bucket: str, settings: tuple[tuple[str, str], ...]) -> S3Store:
    # The settings are read from the environment; named here, a change makes another.
    try:
        impatient: Any = {"max_retries": 2, "retry_timeout": FIRST_ANSWER}
        first = S3Store(bucket, retry_config=impatient)
        next(iter(first.list(chunk_size=1)), None)
    except BaseError as error:
        raise ConfigError(_what_is_wrong(bucket, _one_line(error))) from error
    patient: Any = {"max_retries": RETRIES, "retry_timeout": COMES_BACK}
    return S3Store(bucket, retry_config=patient)


def delta_options_of(bucket: str) -> dict[str, str]:
    """Return what Delta needs beside the environment, to commit atomically."""
    client_of(bucket)  # What is wrong with the bucket is said better here.
    return {
        "aws_conditional_put": "etag",
        "max_retries": str(RETRIES),
        "retry_timeout": f"{COMES_BACK.seconds}s",
    }


@contextmanager
def explained(path: object) -> Iterator[None]:
    """Raise what a client says as an error of this project, or as a disk would.

    Raises:
        FileNotFoundError: there is no such object.
        OSError: it is shorter than what was asked for.
        StorageError: the store does not answer, or refuses.
    """
    try:
        yield
    except FileNotFoundError as error:
        msg = f"{path} is not there"
        raise FileNotFoundError(msg) from error
    except (AlreadyExistsError, PreconditionError):
        raise
    except BaseError as error:
        if "416 Range Not Satisfiable" in str(error):
            msg = f"{path} is empty, or shorter than it was"
            raise OSError(msg) from error
        msg = (
            f"{path} can't be reached: {_one_line(error)}. What is committed and served "
            "is as it was; run it again when the store answers."
        )
        raise StorageError(msg) from error


def _what_is_wrong(bucket: str, message: str) -> str:
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    for mark, reason in (
        (
            "NoSuchBucket",
            f"there is no bucket '{bucket}' at {endpoint}. Create it, or set "
            "BATCH_ASSETS_ROOT to another",
        ),
        (
            "http://169.254.169.254",
            "there are no credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are "
            "not set, and this machine gives none",
        ),
        (
            "403 Forbidden",
            f"{endpoint} does not let us into the bucket '{bucket}'. Check "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and what they allow",
        ),
        (
            "builder error",
            f"{endpoint} is not reached by a plain http:// URL unless "
            "AWS_ALLOW_HTTP is true",
        ),
    ):
        if mark in message:
            return f"{reason}. It said: {message}"
    return (
        f"no object store answers at {endpoint} for the bucket '{bucket}'. Check "
        f"AWS_ENDPOINT_URL and AWS_REGION, and that it runs. It said: {message}"
    )


def _one_line(error: Exception) -> str:
    """Return what a client said, without what it adds for its developers."""
    message = str(error).partition("\n\nDebug source")[0]
    return " ".join(message.split()).rstrip(".")
