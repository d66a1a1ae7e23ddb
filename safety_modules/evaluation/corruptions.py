"""Common corruptions of pictures, in five strengths: what cameras, networks and screenshots do, no attack.

The form is that of ImageNet-C (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", arXiv 1903.12261). Lengths are shares of the shorter side, so that small and large pictures suffer
alike.

| kind     | strength 1 to 5, in                              | values                  | after      |
|----------|--------------------------------------------------|-------------------------|------------|
| jpeg     | JPEG quality, 1 to 95                            | 25, 18, 15, 10, 7       | ImageNet-C |
| blur     | Gaussian sigma, in 224ths of the side            | 1, 2, 3, 4, 6           | ImageNet-C |
| noise    | standard deviation of Gaussian noise, white is 1 | .08, .12, .18, .26, .38 | ImageNet-C |
| rescale  | side while small, share of the side              | .6, .5, .4, .3, .25     | ImageNet-C |
| crop     | side that stays, share; anywhere, then enlarged  | .95, .9, .85, .8, .75   | own        |
| rotation | degrees to either side, corners filled           | 5, 10, 15, 20, 30       | own        |

The first four are `jpeg_compression`, `gaussian_blur`, `gaussian_noise` and `pixelate` with the authors' parameters,
but for two things: blur counts from the side, and `rescale` enlarges smoothly, as a picture viewer does.

Does not cover: ImageNet-C's weather, motion blur, contrast and brightness; corruptions one after the other.
"""

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.systems import System


def with_images(case: Case, change: Callable[[Image.Image], Image.Image]) -> Case:
    """The case with every picture changed; everything else stays."""
    return case.model_copy(update={"images": tuple(change(image) for image in case.load_images())})


STRENGTHS: dict[str, tuple[float, float, float, float, float]] = {
    "jpeg": (25, 18, 15, 10, 7),
    "blur": (1 / 224, 2 / 224, 3 / 224, 4 / 224, 6 / 224),
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "rescale": (0.6, 0.5, 0.4, 0.3, 0.25),
    "crop": (0.95, 0.9, 0.85, 0.8, 0.75),
    "rotation": (5, 10, 15, 20, 30),
}
KINDS = tuple(STRENGTHS)


def corrupt(image: Image.Image, kind: str, strength: int, seed: int = 0) -> Image.Image:
    """The picture, corrupted; the same arguments give the same picture.

    Args:
        image: any mode; what is transparent is lost.
        kind: one of `KINDS`.
        strength: 1 to 5.
        seed: of noise, of the place of a crop and of the side rotated to.

    Returns:
        RGB, of the same size.

    Raises:
        DataError: unknown kind or strength.
    """
    check(kind, strength)
    return _CHANGES[kind](image.convert("RGB"), STRENGTHS[kind][strength - 1], np.random.default_rng(seed))


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption in one strength: a `Transform` that leaves the system alone.

    Raises:
        DataError: unknown kind or strength.
    """

    kind: str
    strength: int
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.kind, self.strength)

    @property
    def name(self) -> str:
        """`corrupted-blur-3`."""
        return f"corrupted-{self.kind}-{self.strength}"

    def __call__(self, cases: Sequence[Case], system: System | None = None) -> list[Case]:
        """The cases with every picture corrupted; a case's seed comes from its id, not from its place."""
        return [self._changed(case) for case in cases]

    def describe(self) -> dict[str, Any]:
        """Kind, strength and seed."""
        return {"name": self.name, **asdict(self)}

    def _changed(self, case: Case) -> Case:
        seed = zlib.crc32(f"{self.seed}|{case.id}".encode())
        return with_images(case, lambda image: corrupt(image, self.kind, self.strength, seed))


def check(kind: str, strength: int) -> None:
    """Refuse unknown names. Raises DataError."""
    if kind not in STRENGTHS:
        raise DataError(f"unknown corruption: expected one of {', '.join(KINDS)}, got {kind!r}. Pick one of them.")
    if strength not in range(1, 6):
        raise DataError(f"unknown strength of {kind}: expected 1, 2, 3, 4 or 5, got {strength!r}. Pick one of them.")


def _jpeg(image: Image.Image, quality: float, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(quality))
    return Image.open(buffer).convert("RGB")


def _blur(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma * min(image.size)))


def _noise(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    noisy = pixels + rng.normal(0, 255 * deviation, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _rescale(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    small = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def _crop(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    width, height = image.width * share, image.height * share
    left, top = rng.random() * (image.width - width), rng.random() * (image.height - height)
    box = (left, top, left + width, top + height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def _rotation(image: Image.Image, degrees: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(int(value) for value in np.median(border, axis=0))
    side = 1 if rng.random() < 0.5 else -1
    return image.rotate(side * degrees, Image.Resampling.BICUBIC, fillcolor=colour)


_CHANGES: dict[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    "jpeg": _jpeg,
    "blur": _blur,
    "noise": _noise,
    "rescale": _rescale,
    "crop": _crop,
    "rotation": _rotation,
}
