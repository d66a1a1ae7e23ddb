"""How HTML pages are made: one Jinja setting for every report, and pictures that stand in the page itself."""

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image


def environment(package: str) -> Environment:
    """Jinja for the templates of a package: everything is escaped, and a name that is not given is an error."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def picture_uri(image: Image.Image, format: str = "WEBP", **options: Any) -> str:
    """A picture as a `data:` address.

    Args:
        image: the picture.
        format: of the file, as Pillow calls it.
        options: of Pillow's writer, such as `quality`.
    """
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return data_uri(buffer.getvalue(), format)


def data_uri(data: bytes, format: str) -> str:
    """The content of a picture's file as a `data:` address."""
    return f"data:image/{format.lower()};base64,{base64.b64encode(data).decode('ascii')}"
