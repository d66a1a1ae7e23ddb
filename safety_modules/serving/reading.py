"""From a request to work for the engine: checked, pictures decoded, tokenized; in a thread beside the loop."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from safety_modules.backbones import Backbone
from safety_modules.errors import HALVES
from safety_modules.serving.engine import Sampling
from safety_modules.serving.errors import RequestRefused
from safety_modules.serving.images import Pictures
from safety_modules.serving.schemas import ChatRequest, Message, ModerationRequest, TextPart, refused_body
from safety_modules.serving.settings import ServeSettings

ROLES = {"developer": "system"}


class Prompt(NamedTuple):
    """A conversation as the model gets it; of the request, which may be large, nothing else is kept.

    Attributes:
        ids: (T,).
        pixels: (N, C, H, W), or None.
        limit: new tokens.
        sampling: of these.
        stops: words that end the answer.
        stream: whether it is to be streamed, and whether the stream ends with what it took.
    """

    ids: torch.Tensor
    pixels: torch.Tensor | None
    limit: int
    sampling: Sampling
    stops: Sequence[str]
    stream: bool
    stream_usage: bool

    @property
    def images(self) -> int:
        """How many pictures there are."""
        return 0 if self.pixels is None else len(self.pixels)


class Shown(NamedTuple):
    """Pictures to judge: pixel values of the frames of each, their numbers and how many there are; what is asked."""

    frames: list[torch.Tensor]
    numbers: list[tuple[list[int], int]]
    question: str | None


class Reader:
    """Reads requests for one base.

    Args:
        backbone: the base.
        settings: limits.
        pictures: how they are read.
        room: positions that the language model has; None = not known.
    """

    def __init__(self, backbone: Backbone, settings: ServeSettings, pictures: Pictures, room: int | None) -> None:
        self._backbone, self._settings, self._pictures, self._room = backbone, settings, pictures, room
        self._processing = threading.Lock()  # a processor is not made for several threads

    def conversation(self, asked: ChatRequest) -> Prompt:
        """The prompt of a conversation. Raises RequestRefused."""
        if len(asked.messages) > self._settings.max_messages:
            raise refused_body([f"expected at most {self._settings.max_messages} messages, got {len(asked.messages)}."])
        self._check_turns(asked.messages)
        self._check_words([message.text for message in asked.messages])
        addresses = [address for message in asked.messages for address in message.images]
        self._check_count(addresses)
        images = [self._pictures.picture(address, f"{place}") for place, address in enumerate(addresses)]
        turns = [
            {"role": ROLES.get(message.role, message.role), "content": _content(message)} for message in asked.messages
        ]
        with self._processing:
            text = self._backbone.processor.apply_chat_template(turns, add_generation_prompt=True)
            found = self._backbone.processor(text=[text], images=images or None, return_tensors="pt")
        ids = found["input_ids"][0]
        sampling = Sampling(asked.temperature or 0.0, *((asked.top_p or 1.0, asked.seed) if asked.temperature else ()))
        used = asked.stream_options is not None and asked.stream_options.include_usage
        limit, stops = self._limit(asked, len(ids)), tuple(asked.stop or ())
        return Prompt(ids, self._backbone.images_given(found), limit, sampling, stops, bool(asked.stream), used)

    def judged(self, asked: ModerationRequest) -> Shown:
        """The pictures of a request to judge. Raises RequestRefused."""
        parts = asked.input if isinstance(asked.input, list) else [asked.input]
        texts = [part if isinstance(part, str) else part.text for part in parts if isinstance(part, str | TextPart)]
        addresses = [part.image_url.url for part in parts if not isinstance(part, str | TextPart)]
        if not addresses:
            raise RequestRefused(
                400,
                "nothing judged: expected a list of parts with a picture among them, got words alone, which this guard "
                'does not judge. Send {"type": "image_url", ...} beside them.',
                "no_image",
                "input",
            )
        return self.shown(addresses, texts)

    def shown(self, addresses: Sequence[str], texts: Sequence[str]) -> Shown:
        """Pictures to judge, and what is said with them. Raises RequestRefused."""
        self._check_words(texts)
        self._check_count(addresses)
        frames, numbers = [], []
        for place, address in enumerate(addresses):
            found = self._pictures.frames(address, f"{place}")
            with self._processing:
                frames.append(self._backbone.pixel_values([frame.picture for frame in found]))
            numbers.append(([frame.number for frame in found], found[0].total))
        return Shown(frames, numbers, "\n".join(texts).strip() or None)

    def _check_turns(self, messages: Sequence[Message]) -> None:
        if messages[-1].role != "user":
            raise refused_body([f"expected the last message to be the user's, got one of {messages[-1].role!r}."])
        for message in messages:
            if message.images and message.role != "user":
                raise refused_body([f"expected pictures in messages of the user, got one of {message.role!r}."])

    def _check_words(self, texts: Sequence[str]) -> None:
        count = sum(map(len, texts))
        if count > self._settings.max_characters:
            raise refused_body([f"expected at most {self._settings.max_characters} characters, got {count}."])
        for text in texts:
            if HALVES.search(text):
                raise refused_body(["expected whole characters, got half of one (a lone surrogate)."])
            if self._backbone.image_token in text:
                raise refused_body(["expected words, got the mark that the model reads as a picture. Leave it out."])

    def _check_count(self, addresses: Sequence[str]) -> None:
        if len(addresses) > self._settings.max_images:
            raise refused_body([f"expected at most {self._settings.max_images} pictures, got {len(addresses)}."])

    def _limit(self, asked: ChatRequest, width: int) -> int:
        """New tokens that the answer may have."""
        most = self._settings.max_prompt_tokens
        if width > most:
            raise refused_body([f"expected a prompt of at most {most} tokens, pictures counted, got {width}."])
        wanted = asked.max_completion_tokens or asked.max_tokens
        if wanted is not None and wanted > self._settings.max_tokens:
            raise refused_body([f"expected max_tokens up to {self._settings.max_tokens}, got {wanted}."])
        room = None if self._room is None else self._room - width
        if room is not None and (wanted or 1) > room:
            raise refused_body(
                [f"expected prompt and answer to fit into {self._room} tokens, got {width} and {wanted or 1}."]
            )
        limit = wanted or min(self._settings.default_max_tokens, self._settings.max_tokens)
        return limit if room is None else min(limit, room)


def _content(message: Message) -> list[dict[str, Any]]:
    """The parts of a turn, pictures marked by their place."""
    return [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
        for part in message.parts
    ]
