"""Pictures read, hashed, decoded and brought to size in worker processes, in order, a few chunks ahead of the tower.

A worker that dies, of too little memory or of a fault in a decoder, takes nobody with it: its work is done again, and a
picture that kills a worker alone is unreadable.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from joblib.externals.loky import ProcessPoolExecutor

from safety_modules.backbones.pixels import processed
from safety_modules.backbones.tiles import Tiles, cut, joined
from safety_modules.errors import DataError
from safety_modules.pictures import open_frames, read_bytes
from safety_modules.records.images import EncodedImage

Image = Path | EncodedImage
DIED = "unreadable image: expected a decoded picture, got a decoder process that died (a fault, or too little memory)."


class Decoded(NamedTuple):
    """A picture: decoded, or why not."""

    digest: str | None  # SHA-256 of the file, as `Record.image_digest`; None where it could not be read
    fault: str | None = None  # why it is unreadable; None where it is not
    # Of the frames looked at (n, C, H, W); uint8, or of `whole`, or tiles.
    pixels: np.ndarray | Tiles = np.zeros((0, 0, 0, 0), np.uint8)
    numbers: tuple[int, ...] = ()  # of these frames, from 0
    total: int = 0  # frames there are


class Decoder:
    """Decodes and resizes as the base's image processor does.

    Rescaling and normalising is left to `Pixels`, unless it is to do the whole.
    """

    def __init__(self, image_processor: Any, whole: bool = False) -> None:
        self.image_processor = image_processor
        self._options = {} if whole else {"do_rescale": False, "do_normalize": False}

    def __call__(self, images: Sequence[Image]) -> list[Decoded]:
        """Each of them; one that is there twice is decoded once."""
        known: dict[str, Decoded] = {}
        found = []
        for image in images:
            digest = None
            try:
                data = read_bytes(image)
                digest = hashlib.sha256(data).hexdigest()
                if digest not in known:
                    known[digest] = self._decoded(data, image, digest)
                found.append(known[digest])
            except DataError as error:
                found.append(Decoded(digest, str(error)))
        return found

    def _decoded(self, data: bytes, image: Image, digest: str) -> Decoded:
        pixels, numbers, total = [], [], 0
        for frame in open_frames(data, image):  # no two of them in memory
            pixels.append(self.pixels(frame.picture, image))
            numbers.append(frame.number)
            total = frame.total
        return Decoded(digest, None, self.joined(pixels), tuple(numbers), total)

    def joined(self, pixels: Sequence[Any]) -> Any:
        """The pixels of several pictures as one batch."""
        return np.stack(pixels)

    def pixels(self, picture: PIL.Image.Image, name: object = "") -> Any:
        """(C, H, W) of a picture in RGB."""
        return processed(self.image_processor, picture, name, **self._options)


class TileDecoder(Decoder):
    """As `Decoder`, for a base that cuts pictures into tiles: its processor does the whole."""

    def joined(self, pixels: Sequence[Any]) -> Tiles:
        return joined(pixels)

    def pixels(self, picture: PIL.Image.Image, name: object = "") -> Tiles:
        return cut(self.image_processor, picture, name)


class TilePixels:
    """As `Pixels`, for a base that cuts pictures into tiles."""

    def __init__(self, image_processor: Any) -> None:
        self.decoder = TileDecoder(image_processor)

    def __call__(self, pixels: Tiles, device: str | torch.device) -> Tiles:
        return pixels.to(device)

    def joined(self, parts: Sequence[Tiles]) -> Tiles:
        """One batch of several."""
        return joined(parts)


class Pixels:
    """From a decoder's pixels to the tower's, in a quarter of the bytes.

    Rescaling and normalising map each of a channel's 256 values to one number; the base's own processor says which. Its
    `decoder` makes the pixels.
    """

    def __init__(self, image_processor: Any) -> None:
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
        whole, self.decoder = Decoder(image_processor, whole=True), Decoder(image_processor)
        options = {"do_resize": False, "do_center_crop": False}
        values = torch.from_numpy(processed(image_processor, PIL.Image.fromarray(ramp), **options))
        self._table: torch.Tensor | None = values.float().reshape(3, 256)
        probe = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
        pixels = self.decoder.pixels(probe)
        same = pixels.dtype == np.uint8 and np.array_equal(self(pixels[None], "cpu")[0].numpy(), whole.pixels(probe))
        if not same:  # a processor of another kind does all of it itself
            self.decoder, self._table = whole, None

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """One batch of several."""
        return np.concatenate(parts)

    def __call__(self, pixels: np.ndarray, device: str | torch.device) -> torch.Tensor:
        """Pixel values (N, C, H, W) as the base's processor gives them, on a device."""
        values = torch.from_numpy(pixels).to(device)
        if self._table is None:
            return values
        table = self._table.to(device)
        return torch.stack([table[channel][values[:, channel].int()] for channel in range(len(table))], 1)


_decoder: Decoder | None = None


def _enter(decoder: Decoder, pixel_limit: int | None) -> None:
    global _decoder
    _decoder = decoder
    PIL.Image.MAX_IMAGE_PIXELS = pixel_limit
    torch.set_num_threads(1)


def _work(images: Sequence[Image]) -> list[Decoded]:
    assert _decoder is not None
    return _decoder(images)


class _Workers:
    """Processes that are replaced when one of them dies."""

    def __init__(self, decoder: Decoder, count: int) -> None:
        self._decoder, self._count = decoder, count
        self._pool = self._started(count)

    def submit(self, images: Sequence[Image]) -> "Future[list[Decoded]]":
        try:
            future: Future[list[Decoded]] = self._pool.submit(_work, images)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        return future

    def restart(self) -> None:
        self.close()
        self._pool = self._started(self._count)

    def alone(self, images: Sequence[Image]) -> list[Decoded]:
        """One chunk in a process of its own; where that dies too, each picture in one."""
        pool = self._started(1)
        try:
            found: list[Decoded] = pool.submit(_work, images).result()
            return found
        except BrokenProcessPool:
            return (
                [one for image in images for one in self.alone([image])] if len(images) > 1 else [Decoded(None, DIED)]
            )
        finally:
            pool.shutdown(kill_workers=True)

    def close(self) -> None:
        self._pool.shutdown(kill_workers=True)

    def _started(self, count: int) -> Any:
        # joblib's processes, unlike multiprocessing's, need no `if __name__ == "__main__"` in the caller's script.
        return ProcessPoolExecutor(count, initializer=_enter, initargs=(self._decoder, PIL.Image.MAX_IMAGE_PIXELS))


def decoded(decoder: Decoder, chunks: Iterable[Sequence[Image]], workers: int) -> Iterator[list[Decoded]]:
    """The chunks, decoded, in their order, in so many processes (0 = here); the decoder goes to each of them once."""
    if workers == 0:
        yield from map(decoder, chunks)
        return
    pool = _Workers(decoder, workers)
    waiting: deque[tuple[Sequence[Image], Future[list[Decoded]]]] = deque()
    source = iter(chunks)
    try:
        while True:
            for chunk in islice(source, 2 * workers + 1 - len(waiting)):
                waiting.append((chunk, pool.submit(chunk)))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            try:
                found = future.result()
            except BrokenProcessPool:
                found = pool.alone(chunk)
                pool.restart()
                waiting = deque((chunk, pool.submit(chunk)) for chunk, _ in waiting)
            yield found
    finally:
        pool.close()
