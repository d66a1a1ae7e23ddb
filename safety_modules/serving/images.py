"""From a picture's address in a request to a picture: read, measured before it is decoded, then decoded."""

import base64
import binascii
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from safety_modules.errors import DataError
from safety_modules.pictures import FRAMES, Frame, open_frames, open_picture
from safety_modules.serving.errors import RequestRefused
from safety_modules.serving.settings import ServeSettings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "MPO")
"""What is decoded: what the web shows. Others that Pillow knows start programs, or were not made for strangers."""
MOST_FRAMES = 1_000
"""Of an animation; counting them takes time."""


class Pictures(NamedTuple):
    """How pictures of requests become pictures.

    Attributes:
        settings: limits.
        fetch: from the address of a picture to its bytes.
    """

    settings: ServeSettings
    fetch: Callable[[str], bytes]

    def picture(self, address: str, name: str) -> Image.Image:
        """The picture a model sees, in RGB: of an animation the first frame.

        Args:
            address: a `data:` URI, or of a picture on an allowed host.
            name: for messages.

        Raises:
            RequestRefused: there is none, it is too large, or it cannot be decoded.
        """
        with self._opened(address, name) as found:
            try:
                return open_picture(found, name)
            except DataError as error:
                raise _refused(name, str(error)) from error

    def frames(self, address: str, name: str) -> list[Frame]:
        """As `picture`, with the frames of an animation that are judged."""
        with self._opened(address, name) as found:
            self._check_animation(found, name)
            try:
                return list(open_frames(found, name))
            except DataError as error:
                raise _refused(name, str(error)) from error

    def _opened(self, address: str, name: str) -> Image.Image:
        data = self._read(address, name)
        if len(data) > self.settings.max_image_bytes:
            raise _refused(name, f"expected at most {self.settings.max_image_bytes} bytes, got {len(data)}.")
        try:
            found = Image.open(BytesIO(data), formats=FORMATS)
        except Exception as error:  # Pillow raises more kinds than it documents
            raise _refused(
                name, f"expected one of {', '.join(FORMATS)}, got something else or a damaged one."
            ) from error
        self._check_pixels(found.width * found.height, f"{found.width} x {found.height}", name)
        return found

    def _check_pixels(self, pixels: int, got: str, name: str) -> None:
        if pixels > self.settings.max_pixels:
            raise _refused(name, f"expected at most {self.settings.max_pixels} pixels, got {got}.")

    def _check_animation(self, found: Image.Image, name: str) -> None:
        if not getattr(found, "is_animated", False):
            return
        count = int(getattr(found, "n_frames", 1))
        if count > MOST_FRAMES:
            raise _refused(name, f"expected at most {MOST_FRAMES} frames, got {count}.")
        # A decoder goes through all frames on its way to the last.
        self._check_pixels(
            found.width * found.height * count // FRAMES, f"{found.width} x {found.height} x {count} frames", name
        )

    def _read(self, address: str, name: str) -> bytes:
        if address[:5].lower() != "data:":
            if address[:7].lower() == "http://" or address[:8].lower() == "https://":
                return self.fetch(address)
            raise _refused(name, "expected a data: URI (data:image/png;base64,...), got something else.")
        head, comma, body = address.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise _refused(name, "expected a data: URI in base64, got another encoding.")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _refused(name, "expected base64 behind the comma, got something else.") from error


def _refused(name: str, message: str) -> RequestRefused:
    return RequestRefused(400, f"picture {name} not read: {message}", "invalid_image", name)
