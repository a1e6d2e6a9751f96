"""A draft from a user's own script: `train.py:function`, or `package.module:function`."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from batch_assets.errors import BatchAssetsError, ReleaseError
from batch_assets.training.drafts import Draft

EXAMPLE = (
    "def make(): return draft_release(model, frame, name=..., key=..., outputs=[...])"
)


def draft_from(where: str) -> Draft:
    """Call a function without arguments, and return the draft that it gives.

    Args:
        where: `train.py:function`, a file; or `package.module:function`.

    Raises:
        ReleaseError: there is no such function, it raises, or gives something else.
    """
    place, _, name = where.rpartition(":")
    if not place or not name:
        msg = f"'{where}' names no function: write train.py:function"
        raise ReleaseError(msg)
    function = getattr(_module(place, where), name, None)
    if not callable(function):
        msg = f"{place} has no function '{name}'"
        raise ReleaseError(msg)
    try:
        made: Any = function()
    except BatchAssetsError:
        raise
    # It is a user's own.
    except Exception as error:
        msg = f"{where} raises {type(error).__name__}: {error}"
        raise ReleaseError(msg) from error
    if not isinstance(made, Draft):
        msg = f"{where} gave a {type(made).__name__}, expected a draft:\n{EXAMPLE}"
        raise ReleaseError(msg)
    return made


def _module(place: str, where: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place).resolve()
        # As if the file were run: what lies beside it can be imported.
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    # Its own code runs here.
    except Exception as error:
        msg = f"{where} can't be imported: {type(error).__name__}: {error}"
        raise ReleaseError(msg) from error
    return module
