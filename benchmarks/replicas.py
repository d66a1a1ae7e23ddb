"""What replicas give on one machine: `safety-modules serve --replicas N` against one process, by turns.

    python benchmarks/replicas.py
    python benchmarks/replicas.py --replicas 2 --rounds 7 --size 128 --json replicas.json

Both servers run all the time, as processes of their own, on llava-pocket; in each round each of them answers the same
questions about clean pictures, from so many clients at once. They share the machine's cores, with each other and with
the clients: a ratio near 1 on few cores says that these were busy before.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from script import command_line, keep, run
from serve import chat, moderated, send
from side_by_side import environment, measure, ratio

from safety_modules import pocket
from safety_modules.errors import SafetyModulesError


@contextlib.contextmanager
def started(count: int) -> Iterator[int]:
    """A server with so many replicas; gives its port."""
    words = [sys.executable, "-m", "safety_modules", "serve", "--port", "0", "--replicas", str(count)]
    quiet = {**os.environ, "SAFETY_MODULES_SERVE_LOG": "false"}
    with subprocess.Popen(words, env=quiet, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            told = ""
            for line in server.stderr:
                told += line
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                raise SafetyModulesError(f"not measured: expected a server, got {told.strip()}. See above.")
            yield int(found[1])
        finally:
            server.send_signal(signal.SIGINT)


def replicas(
    count: Annotated[int, typer.Option("--replicas", min=2, help="Of the second server.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="In each, every case runs once.")] = 5,
    clients: Annotated[int, typer.Option(min=1, help="At once.")] = 16,
    size: Annotated[int, typer.Option(min=16, help="Requests of each case in a round.")] = 64,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """Several replicas against one process."""
    records = list(pocket.make("benign", size, split="validation"))
    asked: dict[str, list[tuple[str, Any]]] = {
        "chat": [("chat", chat(record)) for record in records],
        "moderation": [("moderation", moderated(record)) for record in records],
    }
    with started(1) as one, started(count) as several:

        def asking(port: int, kind: str) -> Callable[[], None]:
            def ask() -> None:
                bad = [reply for reply in send(port, asked[kind], clients) if reply.status != 200]
                if bad:
                    raise SafetyModulesError(f"not measured: expected answers, got status {bad[0].status}.")

            return ask

        ports = {"one process": one, f"{count} replicas": several}
        cases = {f"{kind}, {name}": asking(port, kind) for kind in asked for name, port in ports.items()}
        times = measure(cases, rounds)
    rates = {name: size / median(seconds) for name, seconds in times.items()}
    ratios = {kind: ratio(times, f"{kind}, one process", f"{kind}, {count} replicas") for kind in asked}
    table = Table("", "", title=f"{clients} clients, {size} requests a round, {rounds} rounds, {os.cpu_count()} cores")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f} requests/s")
    for kind, value in ratios.items():
        table.add_row(f"{kind}, {count} replicas over one process", str(value))
    Console().print(table)
    found = {kind: value._asdict() for kind, value in ratios.items()}
    keep({"rates": rates, "ratios": found, "environment": environment("cpu")}, json_file)


app = command_line(replicas)

if __name__ == "__main__":
    run(app)
