"""Runs a page's commands, one after the other, in this folder, with the installed package: see test_wheel_commands.py.

    python wheel_driver.py TASKS RESULTS

Data, a base and an adapter by the names that pages use are laid out first, of pocket's records, so that what pages
write in capitals is really there. What a page's own commands make (an adapter by `train --out`) is not.
"""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import traceback
from pathlib import Path
from typing import Any

from data_samples import lay_out_page
from typer.testing import CliRunner

import safety_modules
from safety_modules import paths
from safety_modules.cli import app
from safety_modules.errors import SafetyModulesError
from safety_modules.pocket import splits
from safety_modules.taxonomy import DEFAULT_TAXONOMY

SETS = {"DATA": 24, "HELD_OUT": 24, "LABELLED": 60, "DIR": 24, "FOLDER": 12, "pictures": 8}
SETS |= {"unlabelled": 12, "todays_pictures": 60}
"""Risky pictures, and as many clean ones, in folders by type and level."""
WORDS = "extends: true\ntypes:\n  privacy:\n    high: [a photo of a key]\nharmless: [a photo of a desk]\n"
VALUES = {"NAME": "name", "$FROM": "000000", "$TO": "000001", "$I": "00", "/shared/": "shared/"}
"""What a reader would put for a word of a page."""


def lay_out(wanted: str) -> None:
    """Everything that the commands name and do not make themselves."""
    for seed, (name, count) in enumerate(SETS.items()):
        if name in wanted:
            records = splits.make("attack", count, split="train", seed=seed)
            _save(name, [*records, *splits.make("benign", count, split="train", seed=seed)])
    for name in ("BENIGN", "FILE"):
        if f"--benign {name}" in wanted:
            _save(name, splits.make("benign", 330, split="train", seed=50))
    if "NAME" in wanted:
        _rename("DIR", "name")
    if "gentle.yaml" in wanted:
        Path("gentle.yaml").write_text("stage: 1\nsteps: 1\nbatch_size: 4\nlearning_rate: 1.0e-4\nbalance: none\n")
    shards = re.search(r"shards/\{0+\.\.(\d+)\}", wanted)
    if shards:
        _shards(Path("shards"), int(shards[1]) + 1, len(shards[1]))
        shutil.copytree("shards", "s3-mount/shards")
    if "types.yaml" in wanted:
        Path("types.yaml").write_text(WORDS)
    for name in ("train.jsonl", "test.csv", "labelled.csv", "benign.jsonl", "benign.csv"):
        if name in wanted:
            benign = 1000 if "--like" in wanted else 330
            count = benign if name.startswith("benign") else 420 if f"--known {name}" in wanted else 6
            labelled = name == "labelled.csv" or (name == "train.jsonl" and f"audit {name}" in wanted)
            risky = splits.make("attack", 40, split="train", seed=9) if labelled else []
            _table(Path(name), [*splits.make("benign", count, split="train", seed=len(name)), *risky])
    for place in ("BASE", "bases/llava"):
        if place in wanted:
            shutil.copytree(paths.checkpoint_dir(), place)
    for place in ("ADAPTER", "adapters/mine", "my-adapter", "my-pocket-adapter"):
        if place in wanted and not re.search(rf"--out {place}(?!\S)", wanted):
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
        type = [*DEFAULT_TAXONOMY.labels].index(record.type)
        level = [*DEFAULT_TAXONOMY.levels].index(record.level)
        item = {"image": f"{pictures}/{number}.png", "safe_type": type, "safe_level": level}
        lines.append({**item, "conversations": turns})
    if path.suffix == ".csv":
        rows = [
            f'{line["image"]},"{one.question}",{one.type},{one.level},'
            for line, one in zip(lines, records, strict=True)
        ]
        path.write_text("\n".join(["image,question,type,level,answer", *rows]) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def _shards(folder: Path, count: int, digits: int) -> None:
    """Tars of one picture each."""
    folder.mkdir()
    for number, record in enumerate(splits.make("benign", count, split="train")):
        with tarfile.open(folder / f"{number:0{digits}}.tar", "w") as tar:
            picture = io.BytesIO()
            record.load_image().save(picture, "PNG")
            words = json.dumps({"question": record.question, "type": "clean", "level": "safe"}).encode()
            for suffix, data in (("png", picture.getvalue()), ("json", words)):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One command or piece of Python: whether it went well, and what it said if not."""
    if "python" in task:
        try:
            exec(compile(task["python"], "page", "exec"), {"__name__": "page"})  # noqa: S102 (our own page)
        except Exception:
            return {"ok": False, "error": traceback.format_exc()}
        return {"ok": True, "error": ""}
    if "shell" in task:
        shelled = subprocess.run(task["shell"], shell=True, capture_output=True, text=True)
        return {"ok": shelled.returncode == 0, "error": shelled.stderr}
    words = [VALUES.get(word, word) for word in task["words"]]
    for name, value in VALUES.items():
        words = [word.replace(name, value) if name[0] in "$/" else word for word in words]
    try:
        before(words)
    except SafetyModulesError as error:
        return {"ok": False, "error": str(error)}
    done = CliRunner().invoke(app, words)
    error = done.output
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        known = isinstance(done.exception, SafetyModulesError)
        error += str(done.exception) if known else "".join(traceback.format_exception(done.exception))
    return {"ok": done.exit_code == 0, "error": error}


def before(words: list[str]) -> None:
    """What only a person, or another night of training, could have put there."""
    if "marks.json" in words and not Path("marks.json").exists():
        _judge_all(Path(words[words.index("--out") + 1]))


def _judge_all(out: Path) -> None:
    """Marks of somebody who confirms a random sample of everything but one picture."""
    from safety_modules.audit.review_audit import read_audit
    from safety_modules.audit.review_marks import read_flagged

    audit = read_audit(out)
    flagged = list(read_flagged(audit).values())
    marks = [
        {"row": row.row, "image_digest": row.image_digest, "mark": mark, "time": "2026-01-31T12:00:00Z", "sample": True}
        for row, mark in zip(flagged, ["reject", *["confirm"] * len(flagged)], strict=False)
    ]
    given = {
        "format": "safety-modules marks",
        "version": 1,
        "audit": audit.digest,
        "sample": len(marks),
        "marks": marks,
    }
    Path("marks.json").write_text(json.dumps(given), encoding="utf-8")


def main() -> None:
    tasks = json.loads(sys.argv[1])
    if "files" in tasks[0]:
        lay_out_page(Path(), tasks.pop(0)["files"])
    else:
        lay_out("\n".join(shlex.join(task["words"]) for task in tasks if "words" in task))
    told = []
    for task in tasks:
        told.append(run(task))
        print("ok" if told[-1]["ok"] else "FAILED", task.get("command", "python"), flush=True)
    results = {"package": safety_modules.__file__, "tasks": told}
    Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
