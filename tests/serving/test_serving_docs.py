"""docs/serving.md as it stands: its server as a process, its curl lines, its Python."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("openai", reason="needs the extra eval")

from serving_cases import records

from safety_modules.serving.settings import PREFIX, ServeSettings

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```shell\n(.*?)```", PAGE, re.DOTALL)
STARTS, ASKS = [[block for block in SHELL if block.startswith(word)] for word in ("safety-modules", "curl")]
SECONDS = 600


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a picture, and the page's server; gives the folder and the port."""
    folder = tmp_path_factory.mktemp("serving")
    records("attack")[0].image.save(folder / "picture.png")
    (start,) = STARTS
    words = start.split()
    assert words[:2] == ["safety-modules", "serve"] and words[-2:] == ["--port", "8000"]
    command = [sys.executable, "-m", "safety_modules", *words[1:-1], "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stderr:
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    break
            assert found, "the server did not start"
            yield folder, found[1]
            server.send_signal(signal.SIGINT)
            out, _ = server.communicate(timeout=SECONDS)
        finally:
            server.kill()
    assert [json.loads(line)["status"] for line in out.splitlines()] and server.returncode in (0, 130, -signal.SIGINT)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("block", ASKS)
def test_curl_as_the_page_shows_it(place, block):
    folder, port = place
    lines = block.replace("localhost:8000", f"localhost:{port}").replace("curl -s", "curl -sS --fail-with-body")
    done = subprocess.run(["bash", "-e", "-c", lines], cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    if "chat" in block:
        reply = json.loads(done.stdout)
        assert reply["safety"]["flagged"] and reply["choices"][0]["message"]["content"]
        refused = '"refuse"' in block and reply["safety"]["type"] == "privacy"
        assert reply["choices"][0]["finish_reason"] == ("content_filter" if refused else "stop")
    elif "moderations" in block:
        assert json.loads(done.stdout)["results"][0]["flagged"]


def test_python_as_the_page_shows_it(place, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code.replace("localhost:8000", f"localhost:{place[1]}"), "docs/serving.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.endswith(" 0\n")


def test_the_page_names_every_limit_with_its_default():
    table = "".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    named = re.findall(r"`([A-Z_]+)`", table)
    defaults = ServeSettings()
    fields = {name.upper() for name in ServeSettings.model_fields} - {"HOST", "PORT", "ACCESS", "WORKERS", "LOG"}
    assert {*named} == fields and PREFIX in PAGE
    for line in (line for line in PAGE.splitlines() if line.startswith("| `")):
        names, values = line.split("|")[1:3]
        told = [value.replace(",", "") for value in values.strip().split(", ")]
        for name, value in zip(re.findall(r"`([A-Z_]+)`", names), told, strict=True):
            found = getattr(defaults, name.lower()) or "none"
            assert value == (f"{found:g}" if isinstance(found, float) else str(found))
