"""`davsp`: a trained border around each picture (Deep Aligned Visual Safety Prompt, arXiv 2506.09353).

The picture is made smaller, and what is then free around it is painted so that risky pictures move the language model's
hidden states towards "risky" and benign ones away from it. The weights are nobody's but the base's. The border lies in
the processor's pixel space and stays displayable; `training/border.py` trains it.

The guard judges the picture without the border and so stands outside: `defence=["guard", "davsp"]`.

Does not cover: questions without a picture; what is risky by the question alone and was not trained for; bases that cut
pictures into tiles.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from safety_modules.backbones import Backbone, ImageFeatures
from safety_modules.backbones.fingerprint import LANGUAGE_MODEL, VISION
from safety_modules.config import BaseSizes
from safety_modules.defences.base import Defence, Settings
from safety_modules.defences.call import Call
from safety_modules.errors import AttachError, ConfigError

MOST_PIXELS = 4096
"""Of a side."""
SHARE = 30 / 336
"""Of a picture's side that the border takes on each side where no width is named: as published."""


class DavspSettings(Settings):
    """What the border is.

    Attributes:
        width: of the border on each side, in pixels; None = the published share, 30 of 336.
        size: of the pictures that the base's processor makes, in pixels a side; read from it.
        under: what lies under the border: the picture's own `edges`, carried on, or `nothing`, as published: the mean
            colour.
    """

    kind: Literal["davsp"] = "davsp"
    width: int | None = Field(default=None, gt=0, lt=MOST_PIXELS // 2)
    size: int | None = Field(default=None, gt=2, le=MOST_PIXELS)
    under: Literal["edges", "nothing"] = "edges"

    @model_validator(mode="after")
    def _leaves_a_picture(self) -> "DavspSettings":
        if self.width and self.size and 2 * self.width >= self.size:
            raise ValueError(f"a width of {self.width} leaves no picture of {self.size} pixels a side")
        return self


# ---- maths ----


def ring(size: Sequence[int], width: int) -> torch.Tensor:
    """Where a border of this width is in a picture of this height and width: (H, W), bool."""
    inner = torch.ones([max(0, length - 2 * width) for length in size], dtype=torch.bool)
    return ~functional.pad(inner, [width] * 4)[: size[0], : size[1]]


def bordered(
    pixels: torch.Tensor,
    border: torch.Tensor,
    width: int,
    limits: tuple[torch.Tensor, torch.Tensor],
    under: str = "edges",
) -> torch.Tensor:
    """Pictures made smaller, with a border around them.

    Args:
        pixels: (N, C, S, S).
        border: what is added to what lies under it: (C, n), pixel by pixel of `ring`.
        width: of the border, in pixels.
        limits: lowest and highest pixel values, (C,) each.
        under: see `DavspSettings`.

    Returns:
        (N, C, S, S), within the limits.
    """
    size = pixels.shape[-1]
    inner = size - 2 * width
    smaller = functional.interpolate(pixels.to(border), (inner, inner), mode="bilinear", antialias=True)
    framed = functional.pad(smaller, [width] * 4, mode="replicate" if under == "edges" else "constant")
    added = torch.zeros_like(framed[0]).masked_scatter(ring((size, size), width).to(border.device), border)
    low, high = (limit.to(border).view(-1, 1, 1) for limit in limits)
    return (framed + added).clamp(low, high).to(pixels.dtype)


# ---- the defence ----


class Davsp(Defence):
    """The base, shown each picture with a border. Questions without one stay as they are.

    Args:
        backbone: the base.
        settings: of the border.

    Raises:
        AttachError: the base's processor does not give whole square pictures, or gives others than the settings say.
        ConfigError: the border leaves nothing of the picture.
    """

    kind = "davsp"
    settings_type = DavspSettings
    changes_inputs = True
    needs_training = True
    source = "DAVSP, arXiv 2506.09353 (AAAI 2026); code: zhangyitonggg/DAVSP"
    leaves_out = (
        "its text prefix, which is adashield-s beside it; pictures padded to squares: the base's own processor stays. "
        "Added to it: under the border the picture's edges go on, and what is shown stays a picture's pixels"
    )
    channels: ClassVar[int] = 3

    def __init__(self, backbone: Backbone, settings: DavspSettings | None = None) -> None:
        super().__init__(backbone, settings)
        size = picture_size(backbone)
        if self.settings.size not in (None, size):
            raise AttachError(
                f"davsp not attached: expected pictures of {self.settings.size} pixels a side, got {size} from this "
                "processor. Load the processor that the border was made for, or train one for this base."
            )
        filled = self.settings.model_dump() | {"size": size, "width": self.settings.width or max(1, int(size * SHARE))}
        try:
            self.settings = DavspSettings.model_validate(filled)
        except ValueError as error:
            raise ConfigError(
                f"davsp not made: expected a border that leaves some of {size} pixels, got width "
                f"{filled['width']}. Name a smaller width."
            ) from error
        blank = {name: torch.zeros(shape) for name, shape in self.shapes(self.settings, backbone.sizes).items()}
        self.modules = nn.ParameterDict(blank).to(backbone.device)
        self.fingerprint, self.trained = backbone.fingerprint(), False

    @classmethod
    def shapes(cls, settings: DavspSettings, sizes: BaseSizes) -> dict[str, torch.Size]:
        size, width = settings.size, settings.width
        if size is None or width is None:
            raise ConfigError("no border: expected size and width of davsp as numbers, got null. Attach it to a base.")
        return {"border": torch.Size((cls.channels, size**2 - (size - 2 * width) ** 2))}

    @classmethod
    def depends_on(cls, settings: DavspSettings) -> tuple[str, ...]:
        return VISION, LANGUAGE_MODEL

    @property
    def border(self) -> nn.Parameter:
        """What is added around each picture, (C, n), float32."""
        assert self.modules is not None
        return self.modules.get_parameter("border")

    def prepared(self, call: Call) -> Call:
        rows = [row for row, on in enumerate(self.on(call)) if on and call.counts[row]]
        return call.shown(rows, self.look)

    def look(self, pixels: torch.Tensor) -> ImageFeatures:
        """What the base sees of pictures (N, C, S, S) with the border."""
        if pixels.shape[-2:] != (self.settings.size, self.settings.size):
            raise ConfigError(
                f"call not answered: expected pictures of {self.settings.size} pixels a side, got "
                f"{tuple(pixels.shape[-2:])}. Pass what the base's own processor gives, or safety={{'davsp': False}}."
            )
        return self.backbone.encode_images(self.framed(pixels))

    def framed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures (N, C, S, S) with the border."""
        settings, limits = self.settings, self.backbone.pixel_range()
        return bordered(pixels.to(self.backbone.device), self.border, settings.width, limits, settings.under)


def picture_size(backbone: Backbone) -> int:
    """Pixels a side of what the base's processor makes of a picture. Raises AttachError: not one whole square."""
    tiles = backbone.sizes.tile is not None
    shape: tuple[int, ...] = () if tiles else tuple(backbone.pixel_values([Image.new("RGB", (8, 8))]).shape)
    if len(shape) != 4 or shape[1] != Davsp.channels or shape[2] != shape[3]:
        raise AttachError(
            "davsp not attached: expected a base whose processor gives one whole square picture in RGB, got "
            f"{'tiles' if tiles else shape}. Attach another defence to this base."
        )
    return int(shape[-1])
