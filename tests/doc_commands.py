"""Commands that pages show, as words."""

import re
import shlex

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = (
    "safety-modules",
    "accelerate",
    "python",
    "make",
    "pip",
    "lmms-eval",
    "hf",
    "open",
    "export",
    "cat",
    "cp",
    "git",
)
"""What a command of a page may begin with, after variables of the environment (NAME=value)."""


def commands(text: str) -> list[str]:
    """Every command of a page, one line each.

    Indented lines are commands. A fenced block without a language is a block of commands if a line of it begins with
    one of PROGRAMS, else a listing.

    Raises:
        AssertionError: a line among commands that begins with none of PROGRAMS.
    """
    found = []
    for block in blocks(text):
        if block[0] == "command":
            found.append(block[1])
    return found


def blocks(text: str) -> list[tuple[str, str]]:
    """Commands (`command`) and Python (`python`) of a page, in order."""
    found: list[tuple[int, str, str]] = []
    for fence in FENCE.finditer(text):
        language, body = fence.groups()
        if language == "python":
            found.append((fence.start(), "python", body))
        elif language in ("", "sh", "bash") and any(_program(line) in PROGRAMS for line in _lines(body)):
            found += [(fence.start() + place, "command", _checked(line)) for place, line in enumerate(_lines(body))]
    plain = FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]).replace(" ", ".", 1), text)
    plain = re.sub(r"\\\n {4,}", lambda cut: " " * len(cut[0]), plain)
    for line in re.finditer(r"^ {4}([^\s#].*)$", plain, re.MULTILINE):
        found.append((line.start(), "command", _checked(re.sub(r" {2,}", " ", line[1]))))
    return [(kind, body) for _, kind, body in sorted(found)]


def words_of(command: str) -> list[str]:
    """The words behind `safety-modules`, whichever way it is started."""
    words = shlex.split(command, comments=True)
    start = "safety_modules" if _program(command) == "accelerate" else "safety-modules"
    return words[words.index(start) + 1 :]


def _lines(body: str) -> list[str]:
    return [line for line in re.sub(r"\\\n *", "", body).splitlines() if line.strip() and line[0] != "#"]


def _program(line: str) -> str:
    words = [word for word in line.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    return words[0] if words else ""


def _checked(line: str) -> str:
    assert _program(line) in PROGRAMS, f"neither a command that a test knows nor Python: {line}"
    return line
