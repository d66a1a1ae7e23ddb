"""What one guarded answer runs through: every file and function of the package between `model.generate` and its return.

    python benchmarks/call_path.py
    python benchmarks/call_path.py --json call_path.json

The shipped adapter is attached to llava-pocket, and two pictures are asked about in a call each: one whose answer gets
the safe hint, one that is clean. A file counts with all its lines and with those of its functions that ran; what runs
because a module is imported for the first time does not count.
"""

import argparse
import ast
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

import safety_modules
from safety_modules import attach_safety, pocket
from safety_modules.pocket import splits

PACKAGE = Path(safety_modules.__file__).parent
ACTIONS = ("hint", "allow")


def codes_run(call: Callable[[], Any]) -> set[CodeType]:
    """The code of the package's own functions that ran during a call."""
    found: set[CodeType] = set()
    importing: list[FrameType] = []

    def record(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(f"{PACKAGE}/"):
            if code.co_name == "<module>":
                importing.append(frame)
            elif not importing:
                found.add(code)
        elif event == "return" and importing and importing[-1] is frame:
            importing.pop()

    sys.setprofile(record)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def measure(codes: Iterable[CodeType]) -> dict[str, dict[str, Any]]:
    """By file, as a path in the package: its lines, those of the functions that ran, and the functions' names."""
    by_file: dict[Path, list[CodeType]] = {}
    for code in codes:
        by_file.setdefault(Path(code.co_filename), []).append(code)
    found = {}
    for path, ran in sorted(by_file.items()):
        text = path.read_text(encoding="utf-8")
        spans = function_spans(text)
        lines: set[int] = set()
        for code in ran:  # a lambda or comprehension has no `def`: the lines of its code count
            own = {line for _, _, line in code.co_lines() if line is not None}
            lines |= spans.get(code.co_firstlineno, own)
        names = sorted({code.co_qualname if sys.version_info >= (3, 11) else code.co_name for code in ran})
        found[str(path.relative_to(PACKAGE))] = {
            "lines": len(text.splitlines()),
            "lines_run": len(lines),
            "functions": names,
        }
    return found


def function_spans(text: str) -> dict[int, set[int]]:
    """The lines of every `def`, decorators and docstring with it, by its first."""
    spans = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            spans[first] = set(range(first, (node.end_lineno or first) + 1))
    return spans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()

    model, processor = pocket.load()
    safety = attach_safety(model, processor, adapter=pocket.adapter_dir())
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
    chosen: dict[str, Any] = {}
    for record in (record for kind in ("attack", "benign") for record in splits.make(kind, 8, split="test")):
        text = f"USER: <image>\n{record.question} ASSISTANT:"
        inputs = processor(images=record.load_image(), text=text, return_tensors="pt")
        verdict = safety.generate(**inputs, **options).verdicts[0]
        chosen.setdefault(verdict.action, inputs)
    safety.detach()

    attach_safety(model, processor, adapter=pocket.adapter_dir())  # anew: nothing is kept from the calls before
    codes: set[CodeType] = set()
    for action in ACTIONS:
        inputs = chosen[action]
        codes |= codes_run(lambda inputs=inputs: model.generate(**inputs, **options))
    files = measure(codes)
    totals = {key: sum(file[key] for file in files.values()) for key in ("lines", "lines_run")}

    table = Table(header_style="bold")
    table.add_column("file", overflow="fold")
    for title in ("lines", "of functions that ran", "functions"):
        table.add_column(title, justify="right")
    for name, file in files.items():
        table.add_row(name, str(file["lines"]), str(file["lines_run"]), str(len(file["functions"])))
    Console().print(table)
    print(f"{len(files)} files, {totals['lines']:,} lines; {totals['lines_run']:,} lines of functions that ran")
    if args.json is not None:
        args.json.write_text(json.dumps({"files": files, "count": len(files), **totals}, indent=1) + "\n")


if __name__ == "__main__":
    main()
