"""The flights' model: how late the last weeks were, and how this flight differs from them."""

from collections.abc import Sequence

import torch

SHARES = [
    f"{of}_late_share" for of in ("carrier", "route", "origin_hour", "flight", "tail")
]
DELAYS = ["origin_dep_delay", "carrier_dep_delay"]
GAPPY = [
    "origin_not_departed",
    "wind_max",
    "gust_max",
    "visibility_min",
    "precip_sum",
    "pressure_change",
    "humidity_last",
]
# The hours at which the line of the risk over the day bends.
BENDS = (0, 6, 9, 12, 15, 18)
SEEN = len(SHARES) + len(BENDS) + 2 + 7 + len(DELAYS) + len(GAPPY)
RIDGE, STEPS = 0.03, 12


class FlightRisk(torch.nn.Module):
    """A logistic regression beside the level of the last four weeks.

    How late a whole month is, half a year can't teach: the log-odds of the last 28 days'
    share go in as they are. What is learned is how a flight differs from that: by the
    shares of its carrier, route, hour, number and aircraft, its time, how the day went
    until the evening, and the weather.
    """

    def __init__(self, features: Sequence[str]) -> None:
        super().__init__()
        self.place = {name: at for at, name in enumerate(features)}
        for name in ("mean", "spread"):
            self.register_buffer(name, torch.zeros(len(GAPPY)))
        for name in ("centre", "scale", "weights"):
            self.register_buffer(name, torch.zeros(SEEN))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the risk, float32 (rows, 1), of features in the contract's order."""
        seen = (self.seen(rows) - self.centre) / self.scale
        # A sum for each row, whose order does not depend on the rows beside it.
        learned = (seen * self.weights).sum(dim=1, keepdim=True)
        return (log_odds(rows[:, self.place["late_share"], None]) + learned).sigmoid()

    def seen(self, rows: torch.Tensor) -> torch.Tensor:
        """Return what is looked at of each row, (rows, SEEN)."""
        by_name = {name: rows[:, at] for name, at in self.place.items()}
        level = log_odds(by_name["late_share"])
        hour = by_name["hour"] + by_name["minute"] / 60
        columns = [log_odds(by_name[name]) - level for name in SHARES]
        columns += [(hour - bend).clamp(min=0) for bend in BENDS]
        columns += [by_name["distance"].log(), by_name["origin_hour_flights"]]
        columns += [(by_name["weekday"] == day).float() for day in range(1, 8)]
        columns += [damped(by_name[name]) for name in DELAYS]
        numbers = torch.stack([by_name[name] for name in GAPPY], dim=1)
        # Unknown is as usual; nothing is further out than 3 spreads.
        numbers = ((numbers - self.mean) / self.spread).nan_to_num(0.0).clamp(-3, 3)
        return torch.cat([torch.stack(columns, dim=1), numbers], dim=1)


def log_odds(share: torch.Tensor) -> torch.Tensor:
    return share.clamp(0.001, 0.999).logit()


def damped(minutes: torch.Tensor) -> torch.Tensor:
    """Return delays of which an hour more counts less, the longer they are; 10 if unknown."""
    known = minutes.nan_to_num(10.0)
    return known.sign() * (known.abs() / 10).log1p()


def train(
    inputs: torch.Tensor, late: torch.Tensor, features: Sequence[str]
) -> FlightRisk:
    """Train by Newton's method; the same inputs give the same weights on one machine.

    Args:
        inputs: float32 (rows, features), NaN where a feature is unknown.
        late: 0 or 1, (rows,).
        features: their names, in order.
    """
    torch.set_num_threads(1)
    module = FlightRisk(features)
    numbers = inputs[:, [module.place[name] for name in GAPPY]].double()
    module.mean = numbers.nanmean(dim=0).float()
    module.spread = (numbers - module.mean).square().nanmean(dim=0).sqrt().float()
    seen = module.seen(inputs).double()
    module.centre = seen.mean(dim=0).float()
    module.scale = seen.std(dim=0).float()
    seen = (seen - module.centre) / module.scale
    level = log_odds(inputs[:, module.place["late_share"]]).double()
    weights = torch.zeros(SEEN, dtype=torch.float64)
    for _ in range(STEPS):
        risk = (level + seen @ weights).sigmoid()
        slope = seen.T @ (risk - late) / len(late) + RIDGE * weights
        bend = (seen * (risk * (1 - risk))[:, None]).T @ seen / len(late)
        bend += RIDGE * torch.eye(SEEN)
        weights -= torch.linalg.solve(bend, slope)
    module.weights = weights.float()
    return module.eval()
