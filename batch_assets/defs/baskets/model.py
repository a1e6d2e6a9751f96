"""Score each product of a catalogue for a household, from what it bought and when.

Groceries are bought again, so a product that the household has bought gets a term of its
own, from how often and how long ago it did. Every product, bought before or not, gets
how popular it is and how near it lies to what the household buys.
"""

from __future__ import annotations

import torch
from torch import nn

# Days in which the weight of a purchase falls to 1/e: from one trip to the whole year.
SPANS = (3.0, 7.0, 14.0, 28.0, 56.0, 112.0, 1e6)
# Longer than any history.
NEVER = 1e4


class NextBasket(nn.Module):
    """Estimate for each product how probable it is within the next seven days.

    A sum over a row's items goes through `products_mask`, and no step looks at another
    row: an answer depends neither on padding nor on what is asked beside it. The order
    of the items does not matter; their ages do.

    Args:
        share: float32 (products,), each above 0 and below 1: what part of the rows
            bought it, to start from.
        width: numbers that describe a product, or a household.
        heads: ways in which a household's items are averaged.
    """

    spans: torch.Tensor

    def __init__(
        self, share: torch.Tensor, width: int = 48, heads: int = 4, hidden: int = 32
    ) -> None:
        super().__init__()
        products = len(share)
        self.bias = nn.Parameter(share.logit())
        self.bought = nn.Embedding(products, width)
        self.wanted = nn.Embedding(products, width)
        self.habit = nn.Embedding(products, 8)
        for table in (self.bought, self.wanted, self.habit):
            nn.init.normal_(table.weight, std=0.1)
        self.attention = nn.Linear(width + 2, heads)
        self.taste = nn.Sequential(
            nn.Linear(heads * width + len(SPANS), 2 * width),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(2 * width, width),
        )
        self.again = nn.Sequential(
            nn.Linear(2 * len(SPANS) + 4 + 8, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )
        self.register_buffer("spans", torch.tensor(SPANS))

    def forward(
        self,
        products: torch.Tensor,
        days_ago: torch.Tensor,
        products_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return float32 (rows, products), each between 0 and 1.

        Args:
            products: int64 (rows, length), positions in the catalogue.
            days_ago: float32 (rows, length), 0 on the evening itself.
            products_mask: bool (rows, length), true where there is an item.
        """
        return self.logits(products, days_ago, products_mask).sigmoid()

    def logits(
        self,
        products: torch.Tensor,
        days_ago: torch.Tensor,
        products_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return the log odds, which training needs: float32 (rows, products)."""
        there = products_mask.unsqueeze(2).float()
        # (rows, length, spans): what each item weighs in each span.
        weights = torch.exp(-days_ago.unsqueeze(2) / self.spans) * there
        activity = weights.sum(dim=1).log1p()
        taste = self._taste(products, days_ago, there, activity)
        again = self._again(products, days_ago, weights, activity)
        return self.bias + taste @ self.wanted.weight.T + again

    def _taste(
        self,
        products: torch.Tensor,
        days_ago: torch.Tensor,
        there: torch.Tensor,
        activity: torch.Tensor,
    ) -> torch.Tensor:
        """Average the items, by what they are and how old they are: (rows, width)."""
        items = self.bought(products)
        age = days_ago.unsqueeze(2)
        seen = torch.cat([items, age.log1p() / 4, age / 90], dim=2)
        # Bounded, so that exp can't overflow, and no maximum need be taken off.
        pull = self.attention(seen).clamp(-10, 10).exp() * there
        total = pull.sum(dim=1).unsqueeze(2).clamp(min=1e-6)
        # (rows, heads, width)
        pooled = pull.transpose(1, 2) @ items / total
        taste: torch.Tensor = self.taste(
            torch.cat([pooled.flatten(1), activity], dim=1)
        )
        return taste

    def _again(
        self,
        products: torch.Tensor,
        days_ago: torch.Tensor,
        weights: torch.Tensor,
        activity: torch.Tensor,
    ) -> torch.Tensor:
        """Return what buying it before adds to each product: (rows, products)."""
        rows, length = products.shape
        size = self.bias.shape[0]
        spread = products.unsqueeze(2).expand(-1, -1, len(SPANS))
        counts = weights.new_zeros(rows, size, len(SPANS))
        counts = counts.scatter_add_(1, spread, weights).gather(1, spread)
        there = weights[:, :, -1] > 0.5
        last = weights.new_full((rows, size), NEVER)
        last = last.scatter_reduce(
            1, products, days_ago.masked_fill(~there, NEVER), "amin"
        ).gather(1, products)
        first = weights.new_zeros(rows, size)
        first = first.scatter_reduce(
            1, products, days_ago.masked_fill(~there, 0.0), "amax"
        ).gather(1, products)
        times = counts[:, :, -1].clamp(min=1.0)
        # A product bought once has no interval: half a year stands for "longer".
        pause = torch.where(times > 1.5, (first - last) / (times - 1).clamp(min=1), 180)
        facts = torch.cat(
            [
                counts.log1p(),
                activity.unsqueeze(1).expand(-1, length, -1),
                last.log1p().unsqueeze(2),
                first.log1p().unsqueeze(2),
                pause.log1p().unsqueeze(2),
                (last / (pause + 1)).log1p().unsqueeze(2),
                self.habit(products),
            ],
            dim=2,
        )
        # Each purchase of a product gives the same number, so each gives its part of it.
        part = self.again(facts).squeeze(2) * there / times
        return weights.new_zeros(rows, size).scatter_add(1, products, part)
