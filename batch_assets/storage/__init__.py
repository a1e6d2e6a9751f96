"""Where things lie: in a directory, or as objects under a prefix of a bucket.

A directory is a plain `Path`. An `ObjectPath` answers to those of a path's methods that
this project asks for, so that most code need not know which of the two it has; what the
two do differently, the functions here do. They know nothing of what lies where.
"""

from batch_assets.storage.access import (
    StoragePath,
    advice,
    below,
    beside,
    delta_options,
    each,
    exclusive,
    fetch,
    has_folder,
    has_links,
    has_locks,
    hide_tree,
    is_local,
    local,
    open_bytes,
    put_file,
    put_folder,
    put_new,
    read_ahead,
    read_versioned,
    readable,
    remove_tree,
    replace_if_unchanged,
    storage_path,
    store_of,
)
from batch_assets.storage.base import COPYING, WAITING, ReadableFile, Store, Versioned
from batch_assets.storage.bucket import CACHE, SCHEME, ObjectPath, Ranges
from batch_assets.storage.directory import (
    BESIDE,
    REMOVING,
    sync_folder,
    write_whole,
    written_beside,
)
from batch_assets.storage.log import JsonLog, this_user

__all__ = [
    "BESIDE",
    "CACHE",
    "COPYING",
    "REMOVING",
    "SCHEME",
    "WAITING",
    "JsonLog",
    "ObjectPath",
    "Ranges",
    "ReadableFile",
    "StoragePath",
    "Store",
    "Versioned",
    "advice",
    "below",
    "beside",
    "delta_options",
    "each",
    "exclusive",
    "fetch",
    "has_folder",
    "has_links",
    "has_locks",
    "hide_tree",
    "is_local",
    "local",
    "open_bytes",
    "put_file",
    "put_folder",
    "put_new",
    "read_ahead",
    "read_versioned",
    "readable",
    "remove_tree",
    "replace_if_unchanged",
    "storage_path",
    "store_of",
    "sync_folder",
    "this_user",
    "write_whole",
    "written_beside",
]
