"""What the tests of the demo's page share: a guarded pocket with two adapters, its page, and a server for it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from safety_modules import attach_safety, pocket
from safety_modules.paths import adapter_dir, checkpoint_dir

FIRST, SECOND = "llava-pocket-safe", "later"
OFF = ("adashield-s", "ecso")
LATER = 9.0
"""Every threshold of the second adapter: above what most pictures reach."""


@cache
def second_adapter() -> Path:
    """The shipped adapter with other thresholds."""
    model, processor = pocket.load()
    safety = attach_safety(model, processor, adapter=adapter_dir())
    safety.thresholds = dict.fromkeys(safety.thresholds, LATER)
    return Path(safety.save_pretrained(Path(mkdtemp()) / SECOND))


@cache
def playground() -> Any:
    """One for all tests of a process: nothing they do changes it."""
    from safety_modules.web.playground import Playground

    model, processor = pocket.load()
    safety = attach_safety(model, processor, adapter=adapter_dir(), defence=["guard", *OFF], adapter_name=FIRST)
    return Playground(safety, {SECOND: second_adapter()})


@cache
def page() -> Any:
    """The page, with two examples: risky things, and harmless ones."""
    from safety_modules.web.audits import Audits
    from safety_modules.web.page import Example, Page

    place = Path(mkdtemp())
    examples = [Example(kind, picture(kind), record(kind).question) for kind in ("attack", "benign")]
    audits = Audits(checkpoint_dir(), {FIRST: adapter_dir(), SECOND: second_adapter()}, place)
    return Page(playground(), audits, "llava-pocket", examples, None, OFF)


@cache
def record(kind: str) -> Any:
    """A record of pocket's validation split; the attack is flagged at the shipped thresholds, not at LATER."""
    return pocket.make(kind, 1, split="validation")[0]


@cache
def picture(kind: str) -> Path:
    path = Path(mkdtemp()) / f"{kind}.png"
    record(kind).load_image().save(path)
    return path


def folder(count: int, *more: tuple[str, bytes]) -> Path:
    """Pictures to audit, half of them risky, and other files."""
    place = Path(mkdtemp())
    for number, one in enumerate(pocket.make("verdict", count, split="validation")):
        one.load_image().save(place / f"{number}.png")
    for name, data in more:
        (place / name).write_bytes(data)
    return place


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An application on a free port of this machine; its address."""
    from safety_modules.web.server import make_server

    ports: list[int] = []
    server = make_server(app, 0, ports.append)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not ports:
        assert thread.is_alive() and time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        server.should_exit = True
        thread.join(30)
