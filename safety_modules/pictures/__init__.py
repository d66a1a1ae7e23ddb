"""Pictures: the one way from whatever a person has to what a processor is given, whoever asks."""

from safety_modules.pictures.opening import (
    FRAMES,
    RESIZED_PIXELS,
    Frame,
    check_resized,
    open_frames,
    open_picture,
    reading,
    unreadable,
)
from safety_modules.pictures.several import Asked, asked_pictures
from safety_modules.pictures.sources import read_bytes

__all__ = [
    "FRAMES",
    "RESIZED_PIXELS",
    "Asked",
    "Frame",
    "asked_pictures",
    "check_resized",
    "open_frames",
    "open_picture",
    "read_bytes",
    "reading",
    "unreadable",
]
