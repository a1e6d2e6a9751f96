"""Texts to the ids of their tokens, by the tokenizer of a release.

It is a `tokenizer.json`: data alone, of which no code is loaded. This is the only file
that imports tokenizers. It knows no model.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from batch_assets.errors import ConfigError, ReleaseError, TamperedReleaseError
from batch_assets.models.contract import Contract
from batch_assets.models.input_rows import InputRows, Lists
from batch_assets.models.input_specs import Text
from batch_assets.models.release import TOKENIZER, Release

# Of the texts that are tokenised at once: each token takes a hundred bytes for a moment.
PIECE_BYTES, PIECE_ROWS = 1 << 20, 1_024
# What a batch is filled up with by tokenizers that do not say it themselves.
PADS = ("[PAD]", "<pad>", "<|pad|>", "<PAD>")


class Tokenizing:
    """The tokenizer of a release, set up for each text of its contract.

    It may be shared by threads. What it leaves depends on each text alone.
    """

    def __init__(self, data: bytes, contract: Contract) -> None:
        """Read the tokenizer.

        Args:
            data: of a `tokenizer.json`.
            contract: whose texts are cut as they say.

        Raises:
            ReleaseError: it can't be read, or leaves no room for a token of a text.
            ConfigError: the package tokenizers is not there.
        """
        self.data = data
        # A text is cut in a way of its own, which is a state of its tokenizer.
        self._of_text = {
            one.name: _set_up(data, one)
            for one in contract.inputs
            if isinstance(one, Text)
        }

    @classmethod
    def of(cls, release: Release) -> Self | None:
        """Read that of a release; None if its contract has no text.

        Raises:
            TamperedReleaseError: it is not the one of the contract.
            ReleaseError: it can't be read.
            ConfigError: the package tokenizers is not there.
        """
        texts = [one for one in release.contract.inputs if isinstance(one, Text)]
        if not texts:
            return None
        # A night has a worker for each core already; threads of its own would also hang in
        # a process that is forked from here. Whoever trains may want them.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        data = release.read(TOKENIZER)
        digest = hashlib.sha256(data).hexdigest()
        if {one.tokenizer for one in texts} != {digest}:
            msg = (
                f"{TOKENIZER} of release {release.name} {release.short} hashes to "
                f"{digest}, which is not the tokenizer of its contract. It was not used."
            )
            raise TamperedReleaseError(msg)
        return cls(data, release.contract)

    @property
    def highest(self) -> int:
        """The highest id of a token."""
        tokenizer = next(iter(self._of_text.values()))
        return int(max(tokenizer.get_vocab(with_added_tokens=True).values()))

    def tokenised(self, rows: InputRows) -> InputRows:
        """Return rows with the ids of tokens, int32, in the place of each text's bytes."""
        columns = dict(rows.columns)
        for name, tokenizer in self._of_text.items():
            texts = columns[name]
            assert isinstance(texts, Lists)
            columns[name] = _tokens(tokenizer, texts)
        return InputRows(rows.features, columns, rows.side)


def tokenised(rows: InputRows, tokenizing: Tokenizing | None) -> InputRows:
    """Return rows with their texts tokenised, if they have any."""
    return tokenizing.tokenised(rows) if tokenizing else rows


def with_tokenizer(
    contract: Contract, given: Any
) -> tuple[Contract, Tokenizing | None]:
    """Return a contract whose texts name their tokenizer, and that.

    Args:
        contract: of a release that is written.
        given: the path of a `tokenizer.json`, a `tokenizers.Tokenizer`, or None.

    Raises:
        ReleaseError: there are texts and no tokenizer, or the other way round; or it is
            none that can be used.
        ConfigError: the package tokenizers is not there.
    """
    texts = [one for one in contract.inputs if isinstance(one, Text)]
    if (given is None) != (not texts):
        found = (
            f"the contract has the text '{texts[0].name}', and no tokenizer was given"
            if texts
            else "a tokenizer was given, and the contract has no text"
        )
        msg = f"{found}: a release has a tokenizer for its texts. Nothing was written."
        raise ReleaseError(msg)
    if not texts:
        return contract, None
    data = _data_of(given)
    digest = hashlib.sha256(data).hexdigest()
    named = {one: _named(one, data, digest) for one in texts}
    inputs = tuple(
        named[one] if isinstance(one, Text) else one for one in contract.inputs
    )
    # Not a copy of it: what it has computed of itself is of other inputs.
    fields = {name: getattr(contract, name) for name in type(contract).model_fields}
    contract = Contract(**(fields | {"inputs": inputs}))
    return contract, Tokenizing(data, contract)


def _data_of(given: Any) -> bytes:
    """The bytes of a tokenizer.json."""
    if isinstance(given, str | Path):
        try:
            return Path(given).read_bytes()
        except OSError as error:
            msg = f"no tokenizer can be read: {error}. Nothing was written."
            raise ReleaseError(msg) from error
    if hasattr(given, "to_str"):
        return bytes(given.to_str().encode())
    msg = (
        f"the tokenizer is a {type(given).__name__}, expected the path of a {TOKENIZER} "
        "or a tokenizers.Tokenizer; a fast tokenizer of transformers has one as its "
        "`backend_tokenizer`. Nothing was written."
    )
    raise ReleaseError(msg)


def _named(one: Text, data: bytes, digest: str) -> Text:
    """A text with its tokenizer's digest and padding."""
    if one.tokenizer not in (None, digest):
        msg = (
            f"text '{one.name}' is of the tokenizer {one.tokenizer}, and {digest} was "
            "given: leave `tokenizer` and `pad` of the text out, or give that one. "
            "Nothing was written."
        )
        raise ReleaseError(msg)
    pad = one.pad if one.pad is not None else _pad_of(_read(data))
    if pad is None:
        msg = (
            f"the tokenizer names no token for padding: say which id fills up a batch, "
            f"as `pad` of the text '{one.name}'. Nothing was written."
        )
        raise ReleaseError(msg)
    return one.model_copy(update={"tokenizer": digest, "pad": pad})


def _pad_of(tokenizer: Any) -> int | None:
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    ids = [tokenizer.token_to_id(pad) for pad in PADS]
    return next((number for number in ids if number is not None), None)


def _set_up(data: bytes, one: Text) -> Any:
    """A tokenizer that cuts as a text says, and pads nothing."""
    tokenizer = _read(data)
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if one.max_length <= special:
        msg = (
            f"text '{one.name}' has a max_length of {one.max_length}, and its tokenizer "
            f"adds {special} special tokens to each text: expected more than that"
        )
        raise ReleaseError(msg)
    tokenizer.no_padding()
    cut = "right" if one.keep == "head" else "left"
    tokenizer.enable_truncation(one.max_length, direction=cut)
    return tokenizer


def _read(data: bytes) -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        msg = (
            f"texts need a package that is not installed: {error.name}. "
            "pip install 'batch-assets[text]'"
        )
        raise ConfigError(msg) from error
    try:
        described = json.loads(data)
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
    # It has no error of its own.
    except Exception as error:
        msg = (
            f"the tokenizer can't be read by tokenizers {tokenizers.__version__}: "
            f"{error}. Expected a {TOKENIZER}, as `Tokenizer.save` writes it."
        )
        raise ReleaseError(msg) from error
    if described["model"].get("dropout"):
        msg = (
            "the tokenizer draws at random how it cuts words (`dropout`), and a text "
            "would have another answer each time: set it to null"
        )
        raise ReleaseError(msg)
    return tokenizer


def _tokens(tokenizer: Any, texts: Lists) -> Lists:
    ids: list[np.ndarray] = []
    for start, stop in _pieces(texts.offsets):
        strings = texts.slice(start, stop).to_texts().to_pylist()
        encoded = tokenizer.encode_batch_fast(strings)
        ids += [np.array(one.ids, np.int32) for one in encoded]
    return Lists.of(ids, "int32")


def _pieces(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of texts of so many bytes together, or of one text that has more."""
    start, rows = 0, len(offsets) - 1
    while start < rows:
        fit = int(np.searchsorted(offsets, offsets[start] + PIECE_BYTES, "right")) - 1
        stop = min(max(fit, start + 1), start + PIECE_ROWS, rows)
        yield start, stop
        start = stop
