"""Votes: a picture is judged by several views of it that chance has changed a little, against changes nobody sees.

A perturbation is made for one way of looking; turned, moved and brightened a little it no longer fits, while a person,
and a head trained on such changes, hardly minds (randomised input transformations, arXiv 1711.01991; an attacker has to
follow the mean over what may be drawn, EOT, arXiv 1707.07397). What is drawn depends on the picture and on a key: the
same picture gets the same verdict, in any batch, and whoever lacks the key does not know by which views.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional

from safety_modules.config import BaseSizes, ViewsSettings
from safety_modules.errors import ConfigError

KEY = "SAFETY_MODULES_VIEWS_KEY"
"""The environment variable with the key; without one it is empty, which everybody knows."""
MOST_KEY_BYTES = 64


def given_key() -> bytes:
    """The environment's; empty without one. Raises ConfigError: it is too long."""
    key = os.environ.get(KEY, "").encode()
    if len(key) > MOST_KEY_BYTES:
        raise ConfigError(f"{KEY}: expected at most {MOST_KEY_BYTES} bytes, got {len(key)}. Shorten it.")
    return key


class Views:
    """Random views of pictures.

    Args:
        settings: how many, and how far they may go.
        sizes: the base.

    Attributes:
        key: at first that of the environment.

    Raises:
        ConfigError: the base cuts pictures into tiles, or the environment's key is too long.
    """

    def __init__(self, settings: ViewsSettings, sizes: BaseSizes) -> None:
        if sizes.tile is not None:
            raise ConfigError(
                "no votes: expected a base that sees whole pictures, got one that cuts them into tiles. Leave the "
                "views out."
            )
        self.settings = settings
        self.key = given_key()

    def of(self, pixels: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """The k views of each picture, in order; with gradients.

        Args:
            pixels: (N, C, H, W).
            low, high: pixel values of black and white, (C,) each.

        Returns:
            (N k, C, H, W), in float32.
        """
        settings, (count, channels, height, width) = self.settings, pixels.shape
        pixels, low = pixels.float(), low.to(pixels.device).float().view(-1, 1, 1)
        extent = high.to(pixels.device).float().view(-1, 1, 1) - low
        k, shape = settings.count, (settings.count, channels, height, width)
        bits = ((pixels.detach() - low) / extent * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        draws = [self._drawn(one) for one in bits]
        evenly = torch.cat([torch.rand(k, 5, generator=draw) for draw in draws]).to(pixels) * 2 - 1  # (N k, 5)
        noise = torch.cat([torch.randn(shape, generator=draw) for draw in draws]).to(pixels)
        turn, scale, across, down, light = evenly.unbind(1)
        turn, scale = math.radians(settings.turn) * turn, 1 + settings.scale * scale
        across, down = 2 * settings.shift * across, 2 * settings.shift * down  # the picture goes from -1 to 1
        rows = (
            torch.stack([turn.cos() * scale, -turn.sin() * scale, across], 1),
            torch.stack([turn.sin() * scale, turn.cos() * scale, down], 1),
        )
        grid = functional.affine_grid(torch.stack(rows, 1), [count * k, *shape[1:]], align_corners=False)
        several = pixels.repeat_interleave(k, 0)
        moved = functional.grid_sample(several, grid, padding_mode="border", align_corners=False)
        return moved + extent * (settings.light * light.view(-1, 1, 1, 1) + settings.noise * noise)

    @contextmanager
    def under(self, key: bytes) -> Iterator[None]:
        """With another key inside this block, as whoever does not know this one."""
        before, self.key = self.key, key
        try:
            yield
        finally:
            self.key = before

    def digest(self) -> str:
        """Of settings and key: of what makes the views of a picture."""
        return hashlib.blake2b(self.settings.model_dump_json().encode(), key=self.key).hexdigest()

    def _drawn(self, picture: torch.Tensor) -> torch.Generator:
        """What draws the views of a picture (C, H, W), in 8 bits."""
        seed = hashlib.blake2b(picture.numpy().tobytes(), key=self.key, digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(seed, "little"))
