"""What the tests of serving share: a server on a free port of this machine, and requests to it."""

import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from PIL import Image

from safety_modules import attach_safety, pocket

NAME = "llava-pocket"


@cache
def guarded() -> Any:
    """The handle of a guarded pocket, one for all tests of a process."""
    model, processor = pocket.load()
    return attach_safety(model, processor, adapter=pocket.adapter_dir())


@cache
def records(kind: str, count: int = 8) -> list[Any]:
    """Records of pocket: `attack`, `benign` and so on."""
    return list(pocket.make(kind, count, split="validation"))


def data_uri(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_part(image: Any) -> dict[str, Any]:
    """A part of a message: a PIL image, or an address."""
    return {"type": "image_url", "image_url": {"url": image if isinstance(image, str) else data_uri(image)}}


def turn(text: str, *images: Any) -> dict[str, Any]:
    """A user's turn."""
    return {"role": "user", "content": [*map(picture_part, images), {"type": "text", "text": text}]}


def ask(record: Any, **more: Any) -> dict[str, Any]:
    """The body of a request about a record."""
    return {"model": NAME, "messages": [turn(record.question, record.image)], "max_tokens": 24, **more}


@dataclass
class Reply:
    status: int
    headers: Any
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def text(self) -> str:
        """Of a completion."""
        return self.json["choices"][0]["message"]["content"]

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """Of a stream."""
        lines = [line for line in self.raw.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


@dataclass
class Running:
    """A server that runs."""

    url: str
    port: int
    service: Any
    log: io.StringIO
    key: str | None = None

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None, timeout: float = 120) -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.get(path, headers, timeout, raw)

    def get(
        self, path: str, headers: dict[str, str] | None = None, timeout: float = 120, raw: bytes | None = None
    ) -> Reply:
        given = {"content-type": "application/json"} | (headers or {})
        if self.key is not None:
            given = {"authorization": f"Bearer {self.key}"} | given
        request = urllib.request.Request(self.url + path, raw, given)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Reply(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())

    def chat(self, body: Any, **options: Any) -> Reply:
        return self.post("/v1/chat/completions", body, **options)

    def moderate(self, *parts: Any, **more: Any) -> Reply:
        return self.post("/v1/moderations", {"input": list(parts), **more})

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def line(self, reply: Reply) -> dict[str, Any]:
        """The log's line about a reply; it is written when the answer is out."""
        name = reply.headers["x-request-id"]
        for _ in range(500):
            if found := [line for line in self.lines if line["id"] == name]:
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"no line about {name}")

    def numbers(self) -> dict[str, float]:
        """Metrics, by name and labels."""
        text = self.get("/metrics").raw.decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#"]
        return {name: float(value) for name, _, value in lines}


@contextmanager
def served(
    safety: Any = None,
    access: Any = None,
    room: int | None = 1024,
    front: Any = None,
    engine: Any = None,
    **settings: Any,
) -> Iterator[Running]:
    """A server in a thread of this process; `front` makes of a service what stands in front of it."""
    from safety_modules.serving import Access, ServeSettings, Service, make_server

    log = io.StringIO()
    limits = ServeSettings(**{"port": 0, "request_seconds": 300, "body_seconds": 60, **settings})
    service = Service(
        safety or guarded(), limits, access or Access(), NAME, {"name": "llava-pocket-safe"}, room, log, engine
    )
    ports: list[int] = []
    server = make_server(front(service, log) if front else service, ports.append)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not ports:
        assert thread.is_alive()
        time.sleep(0.01)
    (port,) = ports
    try:
        yield Running(f"http://127.0.0.1:{port}", port, service, log)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def alone(record_or_body: Any, **options: Any) -> SimpleNamespace:
    """What the handle itself answers to one chat request, in a call of its own."""
    body = record_or_body if isinstance(record_or_body, dict) else ask(record_or_body)
    safety = guarded()
    images, turns = [], []
    for message in body["messages"]:
        parts = message["content"]
        for part in parts if isinstance(parts, list) else []:
            if part["type"] == "image_url":
                raw = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                images.append(Image.open(io.BytesIO(raw)).convert("RGB"))
        if isinstance(parts, list):
            parts = [{"type": "image"} if part["type"] == "image_url" else part for part in parts]
        turns.append({"role": message["role"], "content": parts})
    processor = safety.backbone.processor
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    output = safety.generate(**inputs, do_sample=False, max_new_tokens=body.get("max_tokens", 24), **options)
    new = output.sequences[0, inputs["input_ids"].shape[1] :]
    return SimpleNamespace(
        text=processor.tokenizer.decode(new, skip_special_tokens=True).strip(),
        verdict=output.verdicts[0],
        verdicts=output.image_verdicts[0],
    )
