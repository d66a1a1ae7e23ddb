"""Searches within a ball of the largest norm around pictures, for any objective: PGD, APGD, Square. Pure torch.

All are per picture: what is best for one does not depend on the others. An objective is higher where the attacker wants
to be, and the best pixels that were seen are what comes back, so a longer search never ends worse for having gone on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Objective = Callable[[torch.Tensor], torch.Tensor]
"""From pixels (N, C, H, W) to what the attacker wants more of (N,)."""

MOMENTUM = 0.75
"""Of a step of APGD, the share that is the gradient's; the rest goes on as before."""
RISING = 0.75
"""Share of steps since the last checkpoint that must have helped, or APGD's steps are halved."""
FIRST, LESS, LEAST = 0.22, 0.03, 0.06
"""APGD's first checkpoint, how much shorter each stretch to the next becomes, and the shortest: shares of all steps."""
SHARE = 0.8
"""Of a picture's pixels that Square's first patch covers; its published value for the largest norm."""
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10,000 after which Square halves that share."""


@dataclass(frozen=True)
class Ball:
    """Where the pixels may go.

    Attributes:
        centre: the pictures (N, C, H, W).
        radius: how far from them, in their own units, (C,).
        low, high: what a picture's pixels can be, (C,) each.
    """

    centre: torch.Tensor
    radius: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def inside(self, pixels: torch.Tensor) -> torch.Tensor:
        """The nearest pixels (N, C, H, W) of the ball."""
        radius, low, high = self._wide(self.radius), self._wide(self.low), self._wide(self.high)
        near = torch.maximum(torch.minimum(pixels, self.centre + radius), self.centre - radius)
        return torch.maximum(torch.minimum(near, high), low)

    def stepped(self, pixels: torch.Tensor, towards: torch.Tensor, share: torch.Tensor | float) -> torch.Tensor:
        """Pixels after a step of this share of the radius, (N,) or one for all, by the sign of `towards`."""
        share = torch.as_tensor(share, device=pixels.device, dtype=pixels.dtype).view(-1, 1, 1, 1)
        return self.inside(pixels + share * self._wide(self.radius) * towards.sign())

    def anywhere(self, generator: torch.Generator) -> torch.Tensor:
        """A point of it, drawn evenly."""
        draw = torch.rand(self.centre.shape, generator=generator).to(self.centre) * 2 - 1
        return self.inside(self.centre + draw * self._wide(self.radius))

    def _wide(self, channels: torch.Tensor) -> torch.Tensor:
        return channels.to(self.centre).view(1, -1, 1, 1)


class _Best:
    """The best pixels so far, picture by picture."""

    def __init__(self, pixels: torch.Tensor, worth: torch.Tensor) -> None:
        self.pixels, self.worth = pixels.clone(), worth.clone()

    def see(self, pixels: torch.Tensor, worth: torch.Tensor) -> torch.Tensor:
        """Take what is better. Returns for which pictures it is, (N,)."""
        better = worth > self.worth
        self.pixels[better], self.worth[better] = pixels[better], worth[better]
        return better


def pgd(objective: Objective, ball: Ball, steps: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Projected gradient ascent from a random point, all steps alike (arXiv 1706.06083).

    Args:
        objective: differentiable.
        ball: where.
        steps: gradients; each step goes 2.5 / `steps` of the radius, so that all of the ball can be reached.
        generator: draws the start; on the CPU.

    Returns:
        The best pixels (N, C, H, W), and what they are worth (N,).
    """
    pixels = ball.anywhere(generator)
    worth, gradient = _gradient(objective, pixels)
    best = _Best(pixels, worth)
    for _ in range(steps):
        pixels = ball.stepped(pixels, gradient, 2.5 / steps)
        worth, gradient = _gradient(objective, pixels)
        best.see(pixels, worth)
    return best.pixels, best.worth


def apgd(objective: Objective, ball: Ball, steps: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Auto-PGD (arXiv 2003.01690, algorithm 1): momentum, and steps halved picture by picture where they do not help.

    Args:
        objective, ball, steps, generator: as `pgd`; its first step goes twice the radius.

    Returns:
        As `pgd`.
    """
    now = ball.anywhere(generator)
    worth, gradient = _gradient(objective, now)
    best, best_gradient = _Best(now, worth), gradient.clone()
    count = len(now)
    share = torch.full((count,), 2.0, device=now.device)
    helped = torch.zeros(count, device=now.device)
    halved = torch.zeros(count, dtype=torch.bool, device=now.device)  # at the last checkpoint
    worth_there, checkpoint, before = best.worth.clone(), 0, now
    stretch = FIRST
    due = math.ceil(stretch * steps)
    for step in range(1, steps + 1):
        ahead = ball.stepped(now, gradient, share)
        if step > 1:
            ahead = ball.inside(now + MOMENTUM * (ahead - now) + (1 - MOMENTUM) * (now - before))
        before, now, last = now, ahead, worth
        worth, gradient = _gradient(objective, now)
        helped += worth > last
        better = best.see(now, worth)
        best_gradient[better] = gradient[better]
        if step == due and step < steps:
            stuck = helped < RISING * (step - checkpoint)
            resting = ~halved & (best.worth == worth_there)
            halved = stuck | resting
            share = torch.where(halved, share / 2, share)
            now = torch.where(halved.view(-1, 1, 1, 1), best.pixels, now)
            before = torch.where(halved.view(-1, 1, 1, 1), best.pixels, before)
            gradient = torch.where(halved.view(-1, 1, 1, 1), best_gradient, gradient)
            worth = torch.where(halved, best.worth, worth)
            worth_there, checkpoint = best.worth.clone(), step
            helped.zero_()
            stretch = max(stretch - LESS, LEAST)
            due = step + max(1, math.ceil(stretch * steps))
    return best.pixels, best.worth


@torch.no_grad()
def square(
    objective: Objective, ball: Ball, steps: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Square attack (arXiv 1912.00049): patches of a random sign, kept where they help; no gradient is asked for.

    Args:
        objective, ball, generator: as `pgd`; the objective need not be differentiable.
        steps: queries after the first.

    Returns:
        As `pgd`.
    """
    count, channels, height, width = ball.centre.shape
    stripes = torch.randint(2, (count, channels, 1, width), generator=generator).to(ball.centre) * 2 - 1
    pixels = ball.stepped(ball.centre, stripes.expand(-1, -1, height, -1), 1.0)
    best = _Best(pixels, objective(pixels))
    for step in range(steps):
        past = sum(10_000 * step > halving * steps for halving in HALVINGS)
        side = max(1, min(round(math.sqrt(SHARE / 2**past * height * width)), height, width))
        towards = best.pixels - ball.centre
        for row in range(count):
            top = int(torch.randint(height - side + 1, (1,), generator=generator))
            left = int(torch.randint(width - side + 1, (1,), generator=generator))
            signs = torch.randint(2, (channels, 1, 1), generator=generator).to(towards) * 2 - 1
            towards[row, :, top : top + side, left : left + side] = signs
        pixels = ball.stepped(ball.centre, towards, 1.0)
        best.see(pixels, objective(pixels))
    return best.pixels, best.worth


def _gradient(objective: Objective, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        pixels = pixels.detach().requires_grad_()
        worth = objective(pixels)
        (gradient,) = torch.autograd.grad(worth.sum(), pixels)
    return worth.detach(), gradient
