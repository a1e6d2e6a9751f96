"""Train a small model on a week, write its release, and print its digest."""

import polars as pl
import torch
from own_project.users import users_of

from batch_assets import Output, write_release

DAYS = [f"2026-01-0{number}" for number in range(1, 8)]

frame = pl.concat(users_of(day).with_columns(day=pl.lit(day)) for day in DAYS)
# Whoever rarely comes leaves: made up, as the rows are.
left = torch.from_numpy((frame["visits"] < 2).to_numpy()).float()
rows = torch.from_numpy(frame.select("age", "visits").to_numpy()).float()

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1), torch.nn.Sigmoid()
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
for _ in range(200):
    optimizer.zero_grad()
    torch.nn.functional.binary_cross_entropy(model(rows)[:, 0], left).backward()
    optimizer.step()

release = write_release(
    model.eval(),
    frame,
    folder="data/releases/churn",
    name="churn",
    key="user_id",
    day="day",
    outputs=[Output(name="risk", min=0, max=1)],
)
print(release.digest)
