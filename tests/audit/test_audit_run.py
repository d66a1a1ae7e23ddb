"""An audit from data to files: equal to classify, counts that add up, interruptions that leave no trace."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from data_samples import llava, write_json
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from typer.testing import CliRunner

from safety_modules import attach_safety
from safety_modules.audit import audit, shards
from safety_modules.audit import run as runs
from safety_modules.audit.store import PARTS, SEEN, SUMMARY, Store
from safety_modules.cli import app
from safety_modules.errors import ConfigError, DataError
from safety_modules.taxonomy import DEFAULT_TAXONOMY

pq = pytest.importorskip("pyarrow.parquet")
Run = Callable[..., dict[str, Any]]
ROWS = 24


@pytest.fixture
def data(tmp_path: Path, make_image: Callable[[int], Image.Image]) -> Path:
    """Rows 3 and 13: copies of row 1; 5 and 15: unreadable; 7: words alone; 9: row 1's picture, another question."""
    items: list[Any] = []
    for number in range(ROWS):
        make_image(number).save(tmp_path / f"{number}.png")
        items.append(llava(f"{number}.png", question=f"what is {number}?"))
    items[3] = items[13] = items[1]
    items[9] = llava("1.png", question="another?")
    items[7] = llava(image=None)
    items[15] = {"image": "gone.png", "conversations": []}
    (tmp_path / "5.png").write_bytes((tmp_path / "4.png").read_bytes()[:200])
    return write_json(tmp_path / "data.json", items)


@pytest.fixture
def run(data: Path, saved_base: Path, saved_adapter: Path, tmp_path: Path, monkeypatch: Any) -> Run:
    """An audit with parts of 8 rows and batches of 3 pictures, decoded in this process."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 8)
    monkeypatch.setattr(shards, "CHUNK_ROWS", 4)

    def start(out: str = "out", **options: Any) -> dict[str, Any]:
        settings = {"batch_size": 3, "workers": 0, "progress": False, **options}
        return audit(data, tmp_path / out, saved_base, saved_adapter, **settings)

    return start


def verdicts(out: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(out / "verdicts.parquet").to_pylist())


def test_verdicts_are_those_of_classify(
    run: Run,
    tmp_path: Path,
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    saved_adapter: Path,
    make_image: Callable[[int], Image.Image],
) -> None:
    run()
    safety = attach_safety(model, processor, adapter=saved_adapter)
    scored = [row for row in verdicts(tmp_path / "out") if row["risk"] is not None]
    images = [make_image(1 if row["row"] == 9 else row["row"]) for row in scored]
    wanted = safety.classify(images, [row["question"] for row in scored])
    assert len({verdict.flagged for verdict in wanted}) == 2
    for row, verdict in zip(scored, wanted, strict=True):
        assert (row["type"], row["level"], row["flagged"]) == (verdict.type, verdict.level, verdict.flagged)
        assert (row["rule"] is None) == (verdict.rule is None)
        assert row["risk"] == pytest.approx(verdict.risk, abs=1e-5)
        for name, value in verdict.probabilities.items():
            assert row[f"p_{name}"] == pytest.approx(value, abs=1e-5)
        for name, value in verdict.level_probabilities.items():
            assert row[f"level_{name}"] == pytest.approx(value, abs=1e-5)
    flagged = pq.read_table(tmp_path / "out" / "flagged.parquet").to_pylist()
    assert [row["row"] for row in flagged] == [row["row"] for row in scored if row["flagged"]]
    heat = safety.classify([make_image(flagged[0]["row"])], [flagged[0]["question"]])[0].heatmap(flagged[0]["type"])
    shape = flagged[0]["grid_rows"], flagged[0]["grid_columns"]
    assert tuple(heat.shape) == shape and max(flagged[0]["attention"]) == 255
    assert flagged[0]["attention"].index(255) == int(heat.argmax())
    assert flagged[0]["thumbnail"][8:12] == b"WEBP" and len(flagged[0]["phash"]) == 16
    assert flagged[0]["answer"] == "a cup"


def test_counts_add_up_and_every_row_says_what_became_of_it(run: Run, tmp_path: Path) -> None:
    summary = run()
    found = verdicts(tmp_path / "out")
    assert [row["row"] for row in found] == list(range(ROWS))
    assert {row["row"]: row["duplicate_of"] for row in found if row["duplicate_of"] is not None} == {3: 1, 13: 1}
    assert [row["row"] for row in found if row["error"] is not None] == [5, 7, 15]
    assert [error["row"] for error in summary["errors"]] == [5, 15]
    assert "Pillow can decode" in summary["errors"][0]["reason"] and "gone.png" in summary["errors"][1]["reason"]
    parts = {name: summary[name] for name in ("scored", "duplicates", "unreadable", "text_only")}
    assert parts == {"scored": 19, "duplicates": 2, "unreadable": 2, "text_only": 1}
    assert summary["rows"] == sum(parts.values()) == ROWS
    assert summary["flagged"] == sum(summary["by_type"].values()) == sum(summary["by_level"].values())
    assert summary["flagged"] == pq.read_metadata(tmp_path / "out" / "flagged.parquet").num_rows
    assert len(summary["histogram"]) == 50 and sum(summary["histogram"]) == 19
    assert summary == json.loads((tmp_path / "out" / SUMMARY).read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "flagged.parquet",
        "run.json",
        "summary.json",
        "verdicts.parquet",
    }


def test_batches_stay_full_across_rows_that_need_no_verdict(run: Run, monkeypatch: Any) -> None:
    sizes: list[int] = []
    judge = runs.Auditor

    def watched(parts: Any, *others: Any) -> Any:
        start = parts.start
        parts.start = lambda pixels, *rest: sizes.append(len(pixels)) or start(pixels, *rest)
        return judge(parts, *others)

    monkeypatch.setattr(runs, "Auditor", watched)
    summary = run()
    # Of 8 rows each, without copies and faults: 0 1 2 4 6; 8 9 10 11 12 14; 16 to 23. A part's last batch is smaller.
    assert sizes == [3, 2, 3, 3, 3, 3, 2]
    assert summary["pictures"] == sum(sizes)


@contextmanager
def killed_at(count: int, monkeypatch: Any) -> Iterator[None]:
    """The audit ends, as by a kill, when it writes for the nth time."""
    calls = 0
    name = "write" if count > 0 else "finish"
    write = getattr(Store, name)

    def dying(self: Store, *args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == abs(count):
            raise KeyboardInterrupt
        write(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, name, dying)
        yield


@pytest.mark.parametrize("count", [1, 2, 3, -1])
def test_an_interrupted_audit_ends_with_the_very_files_of_one_that_was_not(
    run: Run, tmp_path: Path, count: int, monkeypatch: Any
) -> None:
    whole = run("whole")
    with killed_at(count, monkeypatch):
        run("cut")
    seen: list[int] = []
    add = shards._Shard.add
    monkeypatch.setattr(
        shards._Shard, "add", lambda self, chunk, *rest: seen.append(len(chunk)) or add(self, chunk, *rest)
    )
    again = run("cut")
    assert sum(seen) == (ROWS - 8 * (count - 1) if count > 0 else 0), "what is done is not done again"
    for name in ("verdicts.parquet", "flagged.parquet"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    changing = {"seconds", "images_per_second", "time"}
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in whole.items() if k not in changing
    }


def test_what_was_noted_for_a_part_that_is_not_there_is_forgotten(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    run("whole")
    with killed_at(-1, monkeypatch):
        run("cut")
    for path in (tmp_path / "cut" / PARTS).glob("00000[12].verdicts.parquet"):
        path.unlink()  # as if killed between the note and the file
    run("cut")
    assert verdicts(tmp_path / "cut") == verdicts(tmp_path / "whole")


def test_a_finished_audit_is_not_run_again_and_another_one_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    first = run()
    shutil.rmtree(tmp_path / "out" / PARTS, ignore_errors=True)
    assert run() == first
    with pytest.raises(DataError, match=r"not resumed: expected the batch that .* was begun with, got another batch"):
        run(batch_size=2)
    data.write_text(data.read_text() + " ")
    with pytest.raises(DataError, match="got another file"):
        run()


def test_two_audits_do_not_write_to_one_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    other = Store(tmp_path / "out", DEFAULT_TAXONOMY)
    with pytest.raises(DataError, match="for this run alone"):
        run()
    other.close()
    assert (tmp_path / "out" / SEEN).is_file()
    run()


def test_data_without_rows_is_refused(saved_base: Path, saved_adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to audit"):
        audit(tmp_path / "empty", tmp_path / "out", saved_base, saved_adapter, workers=0, progress=False)


def test_labels_the_verdict_contradicts_are_listed(
    saved_base: Path, saved_adapter: Path, tmp_path: Path, make_image: Callable[[int], Image.Image]
) -> None:
    for seed in range(12):
        folder = tmp_path / "data" / ("clean" if seed % 2 else "illegal")
        folder.mkdir(parents=True, exist_ok=True)
        make_image(seed).save(folder / f"{seed}.png")
    summary = audit(tmp_path / "data", tmp_path / "out", saved_base, saved_adapter, workers=0, progress=False)
    wanted = []
    for row in verdicts(tmp_path / "out"):
        best = max((row[f"p_{name}"], name) for name in DEFAULT_TAXONOMY.labels)
        if best[0] >= 0.5 and best[1] != row["label"] and (row["flagged"] or best[1] == "clean"):
            wanted.append((row[f"p_{row['label']}"], row["row"]))
    assert wanted, "the fixture's head is sure of some"
    assert summary["label_disagreements"]["count"] == len(wanted)
    assert [row["row"] for row in summary["label_disagreements"]["rows"]] == [row for _, row in sorted(wanted)]


def test_the_command_audits_and_writes_a_report(
    data: Path, saved_base: Path, saved_adapter: Path, tmp_path: Path
) -> None:
    where = ["--model", str(saved_base), "--adapter", str(saved_adapter), "--workers", "0"]
    result = CliRunner().invoke(
        app, ["audit", str(data), "--out", str(tmp_path / "out"), *where], catch_exceptions=False
    )
    assert f"{ROWS} rows: 19 scored, 2 duplicates, 2 unreadable, 1 text only" in result.output
    assert (tmp_path / "out" / "report.html").is_file()
    refused = CliRunner().invoke(app, ["audit", "--out", str(tmp_path / "out")])
    assert isinstance(refused.exception, ConfigError) and "expected DATA" in str(refused.exception)
