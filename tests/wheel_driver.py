"""Runs a page's commands, one after the other, in this folder, with the installed package: see test_wheel_commands.py.

    python wheel_driver.py TASKS RESULTS

Data, a base and an adapter by the names that pages use are laid out first, of pocket's records, so that what pages write
in capitals is really there. What a page's own commands make (an adapter by `train --out`) is not.
"""

import json
import shlex
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import safety_modules
from safety_modules import paths
from safety_modules.cli import app
from safety_modules.pocket import splits

SETS = {"DATA": 24, "HELD_OUT": 24, "LABELLED": 60, "DIR": 24, "FOLDER": 12, "pictures": 8}
"""Labelled pictures, in folders by type and level."""


def lay_out(wanted: str) -> None:
    """Everything that the commands name and do not make themselves."""
    for seed, (name, count) in enumerate(SETS.items()):
        if name in wanted:
            records = splits.make("attack", count, split="train", seed=seed)
            _save(name, [*records, *splits.make("benign", count, split="train", seed=seed)])
    if "BENIGN" in wanted:
        _save("BENIGN", splits.make("benign", 330, split="train", seed=50))
    if "NAME" in wanted:
        _rename("DIR", "NAME")
    for name in ("train.jsonl", "test.csv"):
        if name in wanted:
            _table(Path(name), splits.make("benign", 6, split="train", seed=len(name)))
    for place in ("BASE", "bases/llava"):
        if place in wanted:
            shutil.copytree(paths.checkpoint_dir(), place)
    made = [words for words in wanted.split("\n") if "--out ADAPTER" in words]
    for place in ("ADAPTER", "adapters/mine"):
        if place in wanted and not made:
            shutil.copytree(paths.adapter_dir(), place)


def _save(name: str, records: Any) -> None:
    for number, record in enumerate(records):
        where = Path(name) / ("clean" if record.type == "clean" else f"{record.type}/{record.level}")
        where.mkdir(parents=True, exist_ok=True)
        record.load_image().save(where / f"{number}.png")


def _rename(folder: str, type: str) -> None:
    """One of the types in a folder becomes a new one."""
    for path in sorted(Path(folder).iterdir()):
        if path.name != "clean":
            path.rename(path.with_name(type.lower()))
            break


def _table(path: Path, records: Any) -> None:
    pictures = Path(f"{path.stem}-pictures")
    pictures.mkdir()
    lines = []
    for number, record in enumerate(records):
        record.load_image().save(pictures / f"{number}.png")
        turns = [{"from": "USER", "value": f"<image>\n{record.question}"}]
        lines.append({"image": f"{pictures}/{number}.png", "safe_type": 6, "safe_level": 0, "conversations": turns})
    if path.suffix == ".csv":
        rows = [f"{line['image']},{records[n].question},clean,safe" for n, line in enumerate(lines)]
        path.write_text("\n".join(["image,question,type,level", *rows]) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One command or piece of Python: whether it went well, and what it said if not."""
    if "python" in task:
        try:
            exec(compile(task["python"], "page", "exec"), {"__name__": "page"})  # noqa: S102 (our own page)
        except Exception:
            return {"ok": False, "error": traceback.format_exc()}
        return {"ok": True, "error": ""}
    done = CliRunner().invoke(app, task["words"])
    error = done.output
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        error += "".join(traceback.format_exception(done.exception))
    return {"ok": done.exit_code == 0, "error": error}


def main() -> None:
    tasks = json.loads(sys.argv[1])
    lay_out("\n".join(shlex.join(task["words"]) for task in tasks if "words" in task))
    told = []
    for task in tasks:
        told.append(run(task))
        print("ok" if told[-1]["ok"] else "FAILED", task.get("command", "python"), flush=True)
    results = {"package": safety_modules.__file__, "tasks": told}
    Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
