"""Which framework a model is of, and how a stored one is loaded. It imports none of them."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import torch

from batch_assets.errors import BatchAssetsError, ReleaseError
from batch_assets.models.contract import Contract
from batch_assets.models.frameworks.base import (
    Declared,
    Foreign,
    Framework,
    Writer,
)
from batch_assets.models.post_specs import PostProcessing
from batch_assets.models.release import Format, Release, TorchFormat

# The file of a release in each format that is not torch's.
FILES = {
    "onnx": "model.onnx",
    "xgboost": "model.ubj",
    "lightgbm": "model.txt",
    "catboost": "model.cbm",
}
# The format of a model by the package of its class.
FORMATS: dict[str, Format] = {
    "onnx": "onnx",
    "sklearn": "onnx",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
}
T = TypeVar("T")
PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")


class ForeignModel(torch.nn.Module):
    """A trained model of another framework, which is not stored yet."""

    def __init__(self, package: str, model: Any, declared: Declared) -> None:
        super().__init__()
        self._framework: Writer = _framework(package)
        self._model, self._declared = model, declared
        self.format = FORMATS[package]
        self.versions = self._framework.versions()
        self.own = _told(
            f"the {package} model can't be used",
            lambda: self._framework.own(model, declared),
        )

    def forward(self, *given: torch.Tensor, **named: torch.Tensor) -> Any:
        return self.own(*given, **named)

    def save(self, path: Path) -> None:
        """Write the model into a file, in its format.

        Raises:
            ReleaseError: it can't be stored.
        """
        _told(
            f"the model can't be stored as {self.format}",
            lambda: self._framework.save(self._model, path, self._declared),
        )


def as_module(
    model: Any, contract: Contract, post: PostProcessing | None
) -> torch.nn.Module:
    """Return a trained model of any framework as a module.

    Args:
        model: a module of torch, which stays what it is; an estimator or a pipeline of
            scikit-learn; a model of XGBoost, LightGBM or CatBoost; an ONNX graph, or the
            path of its file.
        contract: of the release that is written.
        post: its stages.

    Raises:
        ReleaseError: it is none of these, is not fitted, or does not fit the contract.
    """
    if isinstance(model, torch.nn.Module):
        return model
    if isinstance(model, str | Path):
        model, package = _onnx_file(Path(model)), "onnx"
    else:
        package = _package_of(model)
    return ForeignModel(package, model, Declared.of(contract, post))


def stored_as(module: torch.nn.Module, asked: str) -> tuple[Format, dict[str, str]]:
    """Return the format of a module, and what writes it: nothing else, of torch's own.

    Args:
        module: as `as_module` has given it.
        asked: the format for a module of torch; `pt2` if nobody has asked.

    Raises:
        ReleaseError: it is not stored in the format that was asked for.
    """
    own = module.format if isinstance(module, ForeignModel) else None
    fitting = (own,) if own else get_args(TorchFormat)
    if asked not in fitting and not (own and asked == "pt2"):
        msg = (
            f"model_format is '{asked}', and this model is stored as "
            f"{' or '.join(fitting)}: leave it out, or convert the model, and give what "
            "came of it."
        )
        raise ReleaseError(msg)
    if isinstance(module, ForeignModel):
        return module.format, module.versions
    return cast(Format, asked), {}


def load_foreign(release: Release, path: Path, device: torch.device) -> Foreign:
    """Load a release that is not torch's on a device, from a copy of its file.

    Raises:
        ReleaseError: its framework is missing or can't read it, or it does not fit.
        DeviceError: it does not run on the device.
    """
    manifest = release.manifest
    spec, framework = manifest.model, _framework(manifest.model.format)
    declared = Declared.of(manifest.contract, manifest.post)
    here = framework.versions()
    written, found = (
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        for versions in (
            {name: spec.versions.get(name, "unknown") for name in here},
            here,
        )
    )
    return _told(
        f"release {release.name} {release.short} can't be loaded",
        lambda: framework.load(path, declared, device),
        f"It was written by {written}; here is {found}.",
    )


def read_model(framework: str, path: Path) -> Any:
    """Read a framework's own file into memory, for a release to be written of it.

    Raises:
        ReleaseError: the framework is not installed.
    """
    return import_module(f"{__name__.rpartition('.')[0]}.{framework}").read(path)


def _framework(package: str) -> Framework:
    room = __name__.rpartition(".")[0]
    return cast(Framework, import_module(f"{room}.{package}"))


def _package_of(model: Any) -> str:
    """The package that a model's class comes from, or a class that it is made of."""
    if not isinstance(model, type):
        for one in type(model).__mro__:
            package = one.__module__.partition(".")[0]
            if package in FORMATS:
                return package
    what = f"a {type(model).__name__}"
    if isinstance(model, type):
        what = f"the class {model.__name__}"
    msg = (
        f"the model is {what}, expected a torch.nn.Module, a fitted model of "
        "scikit-learn, XGBoost, LightGBM or CatBoost, an onnx.ModelProto, or the path of "
        "an .onnx file."
    )
    raise ReleaseError(msg)


def _onnx_file(path: Path) -> Path:
    if path.suffix in PICKLES:
        msg = (
            f"{path.name} is a pickle, which runs whatever code it holds, and is not "
            "read. Give the model itself, where it was trained: it is stored in its "
            "framework's own format, or as ONNX."
        )
        raise ReleaseError(msg)
    if path.suffix != ".onnx" or not path.is_file():
        found = "a file" if path.is_file() else "no file"
        msg = (
            f"{path} is {found}, expected the path of an .onnx file. Of another format, "
            "load it with its framework, and give the model."
        )
        raise ReleaseError(msg)
    return path


def _told(what: str, do: Callable[[], T], more: str = "") -> T:
    """Do what calls a framework, and say of what it raises that it was that."""
    try:
        return do()
    except BatchAssetsError:
        raise
    # A framework has errors of its own, and C++ below it others.
    except Exception as error:
        why = " ".join(str(error).partition("Stack trace")[0].split())
        msg = f"{what}: {type(error).__name__}: {why}. {more}".rstrip()
        raise ReleaseError(msg) from error
