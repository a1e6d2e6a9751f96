"""Five models as their frameworks' own introductions train them, and what each predicts.

The data are the small tables that scikit-learn carries, random numbers, and rows written
down; nothing here knows of contracts. Sources: the "Getting started" of scikit-learn 1.9,
"XGBoost Python Package: Get Started", LightGBM's "Python-package Introduction", CatBoost's
"Quick start", and "Learn the Basics" of PyTorch; retold, with a key added to each row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from batch_assets import Label, VectorOutput

# As scikit-learn has them, with names that a table can have.
IRIS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


@dataclass(frozen=True)
class Tutorial:
    """A trained model, the frame that it was trained on, and what it predicts of it.

    `said` is what a user says to `write_release` beside name and key; `wanted` is what the
    framework's own predict gives, (rows,) or (rows, size), by output.
    """

    model: Any
    frame: pd.DataFrame
    said: dict[str, Any]
    wanted: dict[str, np.ndarray]


def keyed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(row_id=np.arange(1, len(frame) + 1))


def scikit_learn() -> Tutorial:
    """Irises by a scaler and a logistic regression."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_iris(return_X_y=True)
    x_train, _, y_train, _ = train_test_split(x, y, random_state=0)
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    pipe.fit(x_train, y_train)
    frame = pd.DataFrame(x, columns=IRIS)
    said = {"outputs": VectorOutput(name="species", size=3)}
    return Tutorial(pipe, keyed(frame), said, {"species": pipe.predict_proba(x)})


def xgboost() -> Tutorial:
    """Irises by two rounds of shallow trees."""
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split
    from xgboost import XGBClassifier

    data = load_iris()
    x_train, _, y_train, _ = train_test_split(
        data["data"], data["target"], test_size=0.2, random_state=0
    )
    bst = XGBClassifier(
        n_estimators=2, max_depth=2, learning_rate=1, objective="binary:logistic"
    )
    bst.fit(x_train, y_train)
    frame = pd.DataFrame(data["data"], columns=IRIS)
    wanted = bst.predict_proba(data["data"])
    said = {"outputs": ["setosa", "versicolor", "virginica"]}
    by_name = dict(zip(said["outputs"], wanted.T, strict=True))
    return Tutorial(bst, keyed(frame), said, by_name)


def lightgbm() -> Tutorial:
    """Random numbers by boosted trees with a validation set and early stopping."""
    import lightgbm as lgb

    random = np.random.default_rng(0)
    data, label = random.random((500, 10)), random.integers(0, 2, 500)
    train = lgb.Dataset(data, label=label)
    validation = train.create_valid(
        random.random((100, 10)), random.integers(0, 2, 100)
    )
    params = {"num_leaves": 31, "objective": "binary", "metric": "auc", "verbosity": -1}
    bst = lgb.train(
        params,
        train,
        num_boost_round=10,
        valid_sets=[validation],
        callbacks=[lgb.early_stopping(5, verbose=False)],
    )
    frame = pd.DataFrame(data, columns=[f"Column_{i}" for i in range(10)])
    said = {"outputs": "positive"}
    return Tutorial(bst, keyed(frame), said, {"positive": bst.predict(data)})


def catboost() -> Tutorial:
    """Three rows with words and numbers by two trees."""
    from catboost import CatBoostClassifier

    train = [["a", "b", 1, 4, 5, 6], ["a", "b", 4, 5, 6, 7], ["c", "d", 30, 40, 50, 60]]
    model = CatBoostClassifier(
        iterations=2, learning_rate=1, depth=2, verbose=0, allow_writing_files=False
    )
    model.fit(train, [1, 1, -1], cat_features=[0, 1])
    frame = pd.DataFrame(train, columns=list("uvwxyz"))
    said = {"outputs": "positive"}
    wanted = {"positive": model.predict_proba(train)[:, 1]}
    return Tutorial(model, keyed(frame), said, wanted)


class NeuralNetwork(torch.nn.Module):
    """Flattens a picture; two hidden layers; a logit for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = torch.nn.Flatten()
        self.linear_relu_stack = torch.nn.Sequential(
            torch.nn.Linear(8 * 8, 512),
            torch.nn.ReLU(),
            torch.nn.Linear(512, 512),
            torch.nn.ReLU(),
            torch.nn.Linear(512, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 (rows, 10), of pictures, float32 (rows, ...)."""
        return self.linear_relu_stack(self.flatten(x))


def pytorch() -> Tutorial:
    """Handwritten digits of 8 x 8 pixels, a picture in one column of lists."""
    from sklearn.datasets import load_digits

    from batch_assets.models.post_specs import Argmax, PostProcessing

    torch.manual_seed(0)
    digits = load_digits()
    pictures = torch.tensor(digits["data"], dtype=torch.float32) / 16
    classes = torch.tensor(digits["target"])
    model = NeuralNetwork()
    loss_fn = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-1)
    for _ in range(5):
        for batch in torch.randperm(len(pictures)).split(64):
            loss = loss_fn(model(pictures[batch]), classes[batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.inference_mode():
        logits = model(pictures)
    frame = pd.DataFrame({"picture": list(pictures.numpy())})
    names = tuple(str(digit) for digit in range(10))
    said = {
        "outputs": Label(name="digit", classes=names),
        "post": PostProcessing(
            gives=("logits",), stages=(Argmax(of="logits", into="digit"),)
        ),
    }
    wanted = {"digit": np.array(names)[logits.argmax(1).numpy()]}
    return Tutorial(model, keyed(frame), said, wanted)


TUTORIALS: dict[str, Callable[[], Tutorial]] = {
    made.__name__: made for made in (scikit_learn, xgboost, lightgbm, catboost, pytorch)
}
