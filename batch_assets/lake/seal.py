"""The seal of a part: the sha256 of all its bytes but those of the digest itself.

Parquet's checksums cover its pages and not its footer, so a part bears a digest of its
own, in its footer. It knows neither receipts nor columns.
"""

import hashlib
import io
import os

from batch_assets.errors import CorruptPartError

SHA256 = b"batch_assets.sha256"
# What stands for the digest while it is taken; of the same length.
UNSEALED = b"0" * 64
HASH_BYTES = 1 << 20


def seal_of(file: io.BufferedIOBase) -> tuple[str, int]:
    """Return the sha256 of a part without its own digest, and where that stands.

    Raises:
        CorruptPartError: it has none.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    start = max(size - 8 - length, 0)
    file.seek(start)
    footer = file.read()
    # In the footer a string stands as it is, after its length: 64 is one byte.
    at = footer.find(SHA256) + len(SHA256)
    at += footer[at : at + 4].find(b"\x40") + 1
    if SHA256 not in footer or len(footer) < at + len(UNSEALED):
        msg = f"part {getattr(file, 'name', '')} has no digest"
        raise CorruptPartError(msg)
    file.seek(0)
    digest, left = hashlib.sha256(), start
    while left:
        digest.update(file.read(min(left, HASH_BYTES)))
        left -= min(left, HASH_BYTES)
    digest.update(footer[:at] + UNSEALED + footer[at + len(UNSEALED) :])
    return digest.hexdigest(), start + at
