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
from safety_modules.errors import DataError
from safety_modules.pictures import open_frames, read_bytes
from safety_modules.records.images import EncodedImage

Image = Path | EncodedImage


_NONE = np.zeros((0, 0, 0, 0), np.uint8)


class Looked(NamedTuple):
    """What was looked at of a picture.

    Attributes:
        numbers: of the frames, from 0; (0,) where it is no animation.
        total: frames there are.
    """

    numbers: tuple[int, ...] = (0,)
    total: int = 1


class Decoded(NamedTuple):
    """A chunk of pictures.

    Attributes:
        digests: SHA-256 of each file, as `Record.image_digest`; None where it could not be read.
        places: first row of each in `pixels`; one that is there twice has the same rows, one that is unreadable -1.
        faults: why each is unreadable; None where it is not.
        looked: of each: its frames, which are that many rows of `pixels`.
        pixels: (n, C, H, W), uint8, or what `Pixels` takes.
    """

    digests: list[str | None]
    places: list[int]
    faults: list[str | None]
    looked: list[Looked]
    pixels: np.ndarray


class Decoder:
    """Decodes and resizes as the base's image processor does, rescaling and normalising left to `Pixels`.

    Args:
        image_processor: the base's.
        whole: do all of it here.
    """

    def __init__(self, image_processor: Any, whole: bool = False) -> None:
        self.image_processor = image_processor
        self._options = {} if whole else {"do_rescale": False, "do_normalize": False}

    def __call__(self, images: Sequence[Image]) -> Decoded:
        digests: list[str | None] = []
        places: list[int] = []
        faults: list[str | None] = []
        looked: list[Looked] = []
        pixels: list[np.ndarray] = []
        known: dict[str, tuple[int, Looked]] = {}
        for image in images:
            digest, place, fault, seen = None, -1, None, Looked()
            try:
                data = read_bytes(image)
                digest = hashlib.sha256(data).hexdigest()
                if digest not in known:
                    first, looks = len(pixels), Looked(())
                    for frame in open_frames(data, image):  # no two of them in memory
                        pixels.append(self._one(frame.picture, image))
                        looks = Looked((*looks.numbers, frame.number), frame.total)
                    known[digest] = first, looks
                place, seen = known[digest]
            except DataError as error:
                fault = str(error)
            digests.append(digest)
            places.append(place)
            faults.append(fault)
            looked.append(seen)
        return Decoded(digests, places, faults, looked, np.stack(pixels) if pixels else _NONE)

    def pixels(self, pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
        """(N, C, H, W) of pictures in RGB."""
        return np.stack([self._one(picture) for picture in pictures])

    def _one(self, picture: PIL.Image.Image, name: object = "") -> np.ndarray:
        return processed(self.image_processor, picture, name, **self._options)


class Pixels:
    """From a decoder's pixels to the tower's, in a quarter of the bytes.

    Rescaling and normalising map each of a channel's 256 values to one number; the base's own processor says which.

    Args:
        image_processor: the base's.

    Attributes:
        decoder: what makes the pixels.
    """

    def __init__(self, image_processor: Any) -> None:
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
        whole, bare = Decoder(image_processor, whole=True), Decoder(image_processor)
        options = {"do_resize": False, "do_center_crop": False}
        values = torch.from_numpy(processed(image_processor, PIL.Image.fromarray(ramp), **options))
        self._table: torch.Tensor | None = values.float().reshape(3, 256)
        self.decoder = bare
        probe = [PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))]
        pixels = bare.pixels(probe)
        same = pixels.dtype == np.uint8 and np.array_equal(self(pixels, "cpu").numpy(), whole.pixels(probe))
        if not same:  # a processor of another kind does all of it itself
            self.decoder, self._table = whole, None

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


def _work(images: Sequence[Image]) -> Decoded:
    assert _decoder is not None
    return _decoder(images)


class _Workers:
    """Processes that are replaced when one of them dies."""

    def __init__(self, decoder: Decoder, count: int) -> None:
        self._decoder, self._count = decoder, count
        self._pool = self._started(count)

    def submit(self, images: Sequence[Image]) -> "Future[Decoded]":
        try:
            future: Future[Decoded] = self._pool.submit(_work, images)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        return future

    def restart(self) -> None:
        self.close()
        self._pool = self._started(self._count)

    def alone(self, images: Sequence[Image]) -> Decoded:
        """One chunk in a process of its own; where that dies too, each picture in one."""
        pool = self._started(1)
        try:
            return pool.submit(_work, images).result()
        except BrokenProcessPool:
            return _joined([self.alone([image]) for image in images]) if len(images) > 1 else _CRASHED
        finally:
            pool.shutdown(kill_workers=True)

    def close(self) -> None:
        self._pool.shutdown(kill_workers=True)

    def _started(self, count: int) -> Any:
        # joblib's processes, unlike multiprocessing's, need no `if __name__ == "__main__"` in the caller's script.
        return ProcessPoolExecutor(count, initializer=_enter, initargs=(self._decoder, PIL.Image.MAX_IMAGE_PIXELS))


def decoded(decoder: Decoder, chunks: Iterable[Sequence[Image]], workers: int) -> Iterator[Decoded]:
    """The chunks, decoded, in their order.

    Args:
        decoder: goes to every worker once.
        chunks: of pictures.
        workers: processes; 0 = decode here.
    """
    if workers == 0:
        yield from map(decoder, chunks)
        return
    pool = _Workers(decoder, workers)
    waiting: deque[tuple[Sequence[Image], Future[Decoded]]] = deque()
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


_CRASHED = Decoded(
    [None],
    [-1],
    ["unreadable image: expected a decoded picture, got a decoder process that died (a fault, or too little memory)."],
    [Looked()],
    _NONE,
)


def _joined(parts: Sequence[Decoded]) -> Decoded:
    """Chunks of one picture as one chunk."""
    digests: list[str | None] = []
    faults: list[str | None] = []
    places: list[int] = []
    looked: list[Looked] = []
    pixels: list[np.ndarray] = []
    for part in parts:
        digests += part.digests
        faults += part.faults
        looked += part.looked
        places += [len(pixels) if place == 0 else -1 for place in part.places]
        pixels += list(part.pixels)
    return Decoded(digests, places, faults, looked, np.stack(pixels) if pixels else _NONE)
