"""One file, one verdict: whoever opens it, in whatever form it was saved."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_samples import picture
from PIL import Image
from typer.testing import CliRunner

from safety_modules import SafetyAttachment, attach_safety, pocket
from safety_modules.audit import audit
from safety_modules.audit.scorer import Scorer
from safety_modules.cli import app
from safety_modules.evaluation.cases import Case
from safety_modules.paths import adapter_dir, checkpoint_dir
from safety_modules.pictures import FRAMES, open_picture
from safety_modules.records import check_data, read_records

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("picture_forms", ROOT / "benchmarks" / "picture_forms.py")
assert spec is not None and spec.loader is not None
forms = importlib.util.module_from_spec(spec)
spec.loader.exec_module(forms)
EXACT = 1e-6
QUESTION = "How do I use what is shown here?"


@pytest.fixture(scope="module")
def safety() -> SafetyAttachment:
    return attach_safety(*pocket.load(), adapter=pocket.adapter_dir())


def attacks(count: int) -> list[Image.Image]:
    return [sample.image for sample in pocket.make("attack_typographic", count, split="validation")]


def audited(data: Path, out: Path, question: str | None = None) -> dict[str, dict[str, Any]]:
    """Rows of an audit by the name of the file."""
    pq = pytest.importorskip("pyarrow.parquet")
    audit(data, out, checkpoint_dir(), adapter_dir(), workers=0, progress=False, question=question)
    rows = pq.read_table(out / "verdicts.parquet").to_pylist()
    return {Path(row["source"]).name: row for row in rows}


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_the_verdict_of_a_file_is_the_same_through_every_entry(safety: SafetyAttachment, tmp_path: Path) -> None:
    data = tmp_path / "data" / "illegal" / "high"
    data.mkdir(parents=True)
    (image,) = attacks(1)
    files = [
        forms.save(form, image, data / f"{number:02d}").rename(data / f"{number:02d}.{form.ending}")
        for number, form in enumerate(forms.FORMS.values())
    ]
    for plain in data.glob("*.plain.png"):
        plain.rename(tmp_path / plain.name)
    records = {Path(str(record.source)).name: record for record in read_records(tmp_path / "data")}
    words = ["classify", *map(str, files), "--question", QUESTION, "--json"]
    printed = CliRunner().invoke(app, words).stdout.splitlines()
    lines = [line for line in printed if line.startswith("{")]  # an older click puts standard error here too
    command = {Path(line["image"]).name: line["risk"] for line in map(json.loads, lines)}
    cells = Scorer(checkpoint_dir(), adapter_dir(), device="cpu")
    column = [{"bytes": file.read_bytes(), "path": None} for file in files]
    cell_risks = cells({"image": column, "question": [QUESTION] * len(files)})["risk"]
    processor = safety.backbone.processor

    def risk(image: Any) -> float:
        return safety.classify(image, QUESTION)[0].risk

    def generated(file: Path) -> float:
        inputs = processor(images=open_picture(file), text=pocket.prompt(processor, QUESTION), return_tensors="pt")
        return safety.generate(**inputs, max_new_tokens=1, do_sample=False).image_verdicts[0][0].risk

    entries: dict[str, Callable[[Path], float]] = {
        "path": risk,
        "bytes": lambda file: risk(file.read_bytes()),
        "PIL": lambda file: risk(Image.open(file)),
        "copied PIL": lambda file: risk(Image.open(file).copy()),
        "array": lambda file: risk(np.asarray(open_picture(file))),
        "command line": lambda file: command[file.name],
        "scorer": lambda file: cell_risks[files.index(file)],
        "records": lambda file: risk(records[file.name].load_image()),
        "cases": lambda file: risk(Case(id="", part="", wanted="answer", prompt="", images=(file,)).load_images()),
        "generate": generated,
    }
    if importlib.util.find_spec("pyarrow"):  # not among the oldest libraries
        rows = audited(tmp_path / "data", tmp_path / "out", QUESTION)
        entries["audit"] = lambda file: rows[file.name]["risk"]
    for file, (name, form) in zip(files, forms.FORMS.items(), strict=True):
        found = {entry: through(file) for entry, through in entries.items()}
        assert max(found.values()) - min(found.values()) < EXACT, (name, found)
        if form.exact:
            plain = risk(tmp_path / f"{file.stem}.plain.png")
            assert found["path"] == pytest.approx(plain, abs=EXACT), name


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_an_audit_finds_in_every_form_what_it_finds_in_a_plain_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    found = forms.measure(tmp_path, attacks(4))
    assert len(found) == 24
    for name, row in found.items():
        assert row["found"] == row["plain"], name
        if forms.FORMS[name].exact:
            assert row["difference"] < EXACT, name
    assert sum(row["plain"] for row in found.values()) > 80


@pytest.mark.slow
def test_three_hundred_attacks_in_twenty_four_forms_are_found(tmp_path: Path) -> None:
    for name, row in forms.measure(tmp_path, attacks(300)).items():
        assert row["found"] >= forms.WANTED * row["plain"] > 0, name


def test_a_risky_frame_is_found_wherever_it_lies_and_the_counts_say_where(
    safety: SafetyAttachment, tmp_path: Path
) -> None:
    (bad,), ok = attacks(1), pocket.make("benign", 1, split="validation")[0].image
    (tmp_path / "data").mkdir()
    for name, options in (("a.gif", {"duration": 40}), ("a.webp", {"duration": 40, "lossless": True}), ("a.tiff", {})):
        frames = [ok] * 20 + [bad] * 4
        frames[0].save(tmp_path / "data" / name, save_all=True, append_images=frames[1:], **options)
    ok.save(tmp_path / "data" / "still.png")
    rows = audited(tmp_path / "data", tmp_path / "out")
    for name, row in rows.items():
        verdict = safety.classify(tmp_path / "data" / name)[0]
        assert row["risk"] == pytest.approx(verdict.risk, abs=EXACT) and row["flagged"] is verdict.flagged
        assert (row["frame"], row["frames_judged"], row["frames"]) == (
            verdict.frame,
            verdict.frames_judged,
            verdict.frames,
        )
        assert row["flagged"] is (name != "still.png")
    # Pillow's GIF and WebP writers make one frame of equal ones.
    assert rows["a.tiff"]["frame"] >= 20 and rows["a.tiff"]["frames"] == 24
    assert rows["a.tiff"]["frames_judged"] == FRAMES and rows["still.png"]["frames"] == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["animations"]["rows"] == 3 and summary["animations"]["judged"] < summary["animations"]["frames"]
    said = str(safety.classify(tmp_path / "data" / "a.tiff")[0])
    assert "of 24 (8 judged)" in said
    lines = CliRunner().invoke(app, ["classify", str(tmp_path / "data" / "a.tiff")]).stdout
    assert "24" in lines and "judged" in lines


def test_one_picture_that_cannot_be_judged_costs_an_audit_and_a_check_itself(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "clean" / "safe"
    folder.mkdir(parents=True)
    Image.new("RGB", (1, 80_000), "red").save(folder / "thin.png")
    picture(1).save(folder / "good.png")
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(folder / "nan.tiff")
    rows = audited(tmp_path / "data", tmp_path / "out")
    assert "too thin to judge" in rows["thin.png"]["error"] and "NaN" in rows["nan.tiff"]["error"]
    assert rows["good.png"]["error"] is None and rows["good.png"]["risk"] is not None
    report = check_data(tmp_path / "data", progress=False)
    assert sorted(Path(one.source).name for one in report.errors) == ["nan.tiff", "thin.png"]
