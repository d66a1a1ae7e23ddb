"""What a server costs and holds: guarded over unguarded, batches over one by one, moderation over the bare tower, load.

    python benchmarks/serve.py
    python benchmarks/serve.py --rounds 7 --requests 10000 --clients 32 --json serve.json

All ratios come from one run, as medians of rounds in which every case runs once, on llava-pocket. Server and clients
share the machine and the process. `guarded` is a server as it is, `off` the same with `"mode": "off"` in every
request, both with pictures that are judged clean (one that is flagged has its batch answered in two parts); `one by
one` is the guarded one with batches of 1; `moderation` is `/v1/moderations`, `tower` the vision tower alone on the same
pictures, decoded and prepared before the clock starts, in batches of the server's size. The mixed load is requests of
all kinds with policies of their own, each compared with the same call alone.
"""

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from script import command_line, keep, run
from side_by_side import environment, measure, ratio

from safety_modules import attach_safety, pocket
from safety_modules.attach import SafetyAttachment
from safety_modules.errors import SafetyModulesError
from safety_modules.serving import Access, ServeSettings, Service, make_server

CLIENTS = 16
TOKENS = 16
KEY = "benchmark"
ROUTES = {"chat": "/v1/chat/completions", "moderation": "/v1/moderations"}
HEAD = (
    "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    f"Authorization: Bearer {KEY}\r\nContent-Length: {{}}\r\n\r\n"
)
MALFORMED = 0.05
EARLY = 0.05
"""Share of the mixed load after which memory is first looked at: 500 of 10,000 requests."""


@contextlib.contextmanager
def served(safety: SafetyAttachment, **settings: Any) -> Iterator[int]:
    """A server in a thread; gives its port."""
    may = ["off", "looser"]
    key = {"name": KEY, "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "may": may}
    access = Access.model_validate({"keys": [key]})
    limits = ServeSettings(port=0, log=False, request_seconds=3600, **settings)
    service = Service(safety, limits, access, "llava-pocket", {"name": "llava-pocket-safe"}, 1024)
    port: list[int] = []
    listening = threading.Event()
    server = make_server(service, lambda found: (port.append(found), listening.set()))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    listening.wait()
    try:
        yield port[0]
    finally:
        server.should_exit = True
        thread.join()


def address(image: Any) -> dict[str, Any]:
    """A picture as a part of a request."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": uri}}


def chat(record: Any, **more: Any) -> dict[str, Any]:
    """The body of a question about a record."""
    content = [address(record.image), {"type": "text", "text": record.question}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, **more}


def moderated(record: Any) -> dict[str, Any]:
    """The body of a request to judge a record."""
    return {"input": [address(record.image), {"type": "text", "text": record.question}]}


class Reply(NamedTuple):
    """Status and body; status 0 = lost."""

    status: int
    raw: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.raw)


def send(port: int, asked: Sequence[tuple[str, Any]], clients: int) -> list[Reply]:
    """What is answered to (kind, body), in order, by so many clients at once; each sends when it was answered.

    Bare HTTP over a connection each: on two cores a full client would take as much time as the server.
    """

    async def main() -> list[Reply]:
        found = [Reply(0, b"")] * len(asked)
        left = iter(enumerate(asked))

        async def one() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for place, (kind, body) in left:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                writer.write(HEAD.format(ROUTES[kind], len(raw)).encode() + raw)
                try:
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                    found[place] = Reply(int(head.split()[1]), await reader.readexactly(length))
                except (OSError, asyncio.IncompleteReadError):  # lost: on with a new connection
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()

        await asyncio.gather(*(one() for _ in range(clients)))
        return found

    return asyncio.run(main())


def speed(safety: SafetyAttachment, rounds: int, requests: int) -> dict[str, list[float]]:
    """Seconds of each case in each round, for so many requests."""
    drawn = list(pocket.make("benign", 2 * requests, split="validation"))
    verdicts = safety.classify([one.load_image() for one in drawn], [one.question for one in drawn])
    records = [one for one, verdict in zip(drawn, verdicts, strict=True) if not verdict.flagged][:requests]
    guarded = [("chat", chat(record)) for record in records]
    off = [("chat", chat(record, safety={"mode": "off"})) for record in records]
    judged = [("moderation", moderated(record)) for record in records]
    pixels = safety.backbone.pixel_values([record.image for record in records])
    size = ServeSettings().max_batch

    def tower() -> None:
        with torch.no_grad():
            for start in range(0, len(pixels), size):
                safety.backbone.encode_images(pixels[start : start + size])

    with served(safety) as together, served(safety, max_batch=1, batch_wait=0) as alone:

        def asking(port: int, asked: Sequence[tuple[str, Any]]) -> Callable[[], None]:
            def ask() -> None:
                bad = [reply for reply in send(port, asked, CLIENTS) if reply.status != 200]
                if bad:
                    raise SafetyModulesError(f"not measured: expected answers, got status {bad[0].status}.")

            return ask

        return measure(
            {
                "guarded": asking(together, guarded),
                "off": asking(together, off),
                "one by one": asking(alone, guarded),
                "moderation": asking(together, judged),
                "tower": tower,
            },
            rounds,
        )


def alone(safety: SafetyAttachment, record: Any, policy: Any) -> tuple[str, Any]:
    """Text and verdict of a call with nothing beside it."""
    processor = safety.backbone.processor
    prompt = pocket.prompt(processor, record.question)
    inputs = processor(images=[record.image.convert("RGB")], text=[prompt], return_tensors="pt")
    output = safety.generate(**inputs, policy=policy, do_sample=False, max_new_tokens=TOKENS)
    new = output.sequences[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip(), output.verdicts[0]


def load(safety: SafetyAttachment, requests: int, clients: int) -> dict[str, Any]:
    """A mixed load: answers that are wrong, lost or a server's failure; memory at its end over near its beginning."""
    records = [*pocket.make("attack", 16, split="validation"), *pocket.make("benign", 16, split="validation")]
    changes = [None, *({"rules": {type: {"action": "refuse"}}} for type in safety.config.taxonomy.types)]
    policies = [safety.policy if change is None else safety.policy.changed(change) for change in changes]
    expected = {
        (place, choice): alone(safety, record, policy)
        for place, record in enumerate(records)
        for choice, policy in enumerate(policies)
    }
    draw = torch.Generator().manual_seed(0)
    asked, wanted = [], []
    for malformed in (torch.rand(requests, generator=draw) < MALFORMED).tolist():
        place, choice = (int(torch.randint(n, (), generator=draw)) for n in (len(records), len(changes)))
        asked.append(
            ("chat", b'{"messages": 1}' if malformed else chat(records[place], safety=_asked(changes[choice])))
        )
        wanted.append(None if malformed else (*expected[place, choice], policies[choice].digest))
    counts = {"requests": requests, "wrong": 0, "lost": 0, "failed": 0}
    early = max(clients, round(requests * EARLY))
    with served(safety) as port:
        replies = send(port, asked[:early], clients)
        memory = _memory()
        replies += send(port, asked[early:], clients)
        counts["memory"] = _memory() / memory
    for reply, own in zip(replies, wanted, strict=True):
        if not reply.status:
            counts["lost"] += 1
        elif reply.status >= 500:
            counts["failed"] += 1
        elif not _right(reply, own):
            counts["wrong"] += 1
    return counts


def _asked(change: Any) -> Any:
    return None if change is None else {"policy": change}


def _right(reply: Reply, own: Any) -> bool:
    if own is None or reply.status != 200:
        return own is None and reply.status == 400
    text, verdict, digest = own
    body = reply.json
    (judged,) = body["safety"]["verdicts"]
    same = (judged["type"], judged["action"], judged["level"]) == (verdict.type, verdict.action, verdict.level)
    close = all(abs(judged["scores"][type] - score) < 1e-2 for type, score in verdict.scores.items())
    return body["choices"][0]["message"]["content"] == text and body["safety"]["policy"] == digest and same and close


def _memory() -> float:
    """Bytes of this process, now where the system says so, else at its peak."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(
    rounds: Annotated[int, typer.Option(min=1, help="In each, every case runs once.")] = 3,
    requests: Annotated[int, typer.Option(min=20, help="Of the mixed load.")] = 200,
    clients: Annotated[int, typer.Option(min=1, help="Of the mixed load.")] = 32,
    size: Annotated[int, typer.Option(min=16, help="Requests of each case in a round.")] = 32,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """A guarded server against itself unguarded, one by one, and the bare tower; then a mixed load."""
    model, processor = pocket.load()
    safety = attach_safety(model, processor, adapter=pocket.adapter_dir())
    times = speed(safety, rounds, size)
    rates = {name: size / median(seconds) for name, seconds in times.items()}
    ratios = {
        "guarded over off": ratio(times, "off", "guarded"),
        "batches over one by one": ratio(times, "one by one", "guarded"),
        "moderation over tower": ratio(times, "tower", "moderation"),
    }
    found = load(safety, requests, clients)
    table = Table("", "", title=f"{CLIENTS} clients, {size} requests a round, {rounds} rounds")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f} requests/s" if name != "tower" else f"{rate:.1f} pictures/s")
    for name, value in ratios.items():
        table.add_row(name, str(value))
    for name, count in found.items():
        table.add_row(name, f"{count:.3f} x" if name == "memory" else f"{count:,}")
    Console().print(table)
    ratios_json = {name: value._asdict() for name, value in ratios.items()}
    keep({"rates": rates, "ratios": ratios_json, "load": found, "environment": environment("cpu")}, json_file)


app = command_line(serve)

if __name__ == "__main__":
    run(app)
