"""Documents that are nearly right: one that is, with a few places changed by hypothesis.

Bytes without any sense stop at the first of them; these come further.
"""

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# How many examples each test looks at. `make fuzz` asks for more, and for others each time.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
fuzzed = settings(
    max_examples=EXAMPLES or 250,
    # In CI the same examples each time: what it finds, it finds in every run.
    derandomize=not EXAMPLES,
    database=None,
    # A loaded machine is no finding.
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([-1, 0, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400]),
    st.floats(),
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "..", "../x", "\0", "\ud800", "int64", "2026-01-05", "x" * 999]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=4,
)
DEEP = b"[" * 100_000


def places_of(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a document, but for itself."""
    inner: Any = ()
    if isinstance(document, dict):
        inner = document.items()
    elif isinstance(document, list):
        inner = enumerate(document[:20])
    for name, value in inner:
        yield (*path, name)
        yield from places_of(value, (*path, name))


@st.composite
def nearly(draw: st.DrawFn, document: Any) -> Any:
    """A document with up to three values replaced, removed, renamed or doubled."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_of(changed))
        if not places:
            return draw(VALUES)
        *path, last = draw(st.sampled_from(places))
        holder = changed
        for name in path:
            holder = holder[name]
        act = draw(st.sampled_from(["replace", "remove", "rename", "double"]))
        if act == "remove":
            del holder[last]
        elif act == "rename" and isinstance(holder, dict):
            holder[draw(TEXTS)] = holder.pop(last)
        elif act == "double" and isinstance(holder, list):
            holder.append(holder[last])
        else:
            holder[last] = draw(VALUES)
    return changed


@st.composite
def spoilt(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of which some are others, are missing, or come twice."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        length = draw(st.integers(0, 8))
        changed[at : at + length] = draw(st.binary(max_size=8))
    return bytes(changed)


def json_bytes(document: Any) -> bytes:
    """A document as Python's JSON has it, its own `NaN` and halves of surrogates included."""
    return json.dumps(document).encode()


def foreign(document: Any) -> st.SearchStrategy[bytes]:
    """Bytes from elsewhere, in place of those of a document."""
    return st.one_of(
        nearly(document).map(json_bytes),
        spoilt(json_bytes(document)),
        st.binary(max_size=64),
        VALUES.map(json_bytes),
    )
