"""Safety tokens: learned vectors that stand beside other vectors (arXiv 2405.13581, section 3)."""

import torch
from torch import nn


class SafetyTokens(nn.Module):
    """K learned tokens: s1 beside the safety features, s2 beside the image at the language model's input.

    Args:
        count: number of tokens (K); 0 is an empty set.
        width: width of the vectors they stand beside.
        std: standard deviation at the start; take that of the vectors they stand beside.
    """

    def __init__(self, count: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))  # (K, width)
        if count:
            nn.init.normal_(self.weight, std=std)

    def forward(self) -> torch.Tensor:
        return self.weight  # (K, width)
