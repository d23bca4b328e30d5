"""Prompts in which markers are, what four rows write behind them, and a vector that steers it."""

from __future__ import annotations

import torch
from by_token import padded
from explicit_scopes import whole
from plain_hooks import random_vector

IDS, MASK = padded((3, 7, 5, 7))
OPEN, CLOSE = [11, 12], [13]  # no prompt holds them
IDS[1, 2:4] = torch.tensor(OPEN)
IDS[3, 1:5] = torch.tensor([*CLOSE, *OPEN, *CLOSE])
# What each row writes at which steps; row 1 began in its prompt, row 2 never closes.
WRITTEN = whole(
    [
        {1: 11, 2: 12, 5: 13, 8: 12},
        {0: 12, 3: 13, 6: 11, 7: 12},
        {2: 11, 3: 11, 4: 12},
        {4: 13, 6: 11, 7: 12},
    ]
)
V = random_vector("v", [1, 3])
STRENGTH = 4.0
