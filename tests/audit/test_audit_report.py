"""The audit's report: one offline file, with everything flagged in it and nothing in it that could run."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_samples import GRID, verdict, write_audit

from safety_modules.audit import report
from safety_modules.audit.report import groups, write_report
from safety_modules.audit.review_audit import read_audit
from safety_modules.errors import DataError
from safety_modules.policy.scores import log_odds

pytest.importorskip("pyarrow")

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- <script> <!-- blocks -->",
    "line\u2028and\u2029paragraph",
    "]]>\x00\ud800\"'&amp;{{ 7 * 7 }}",
]


class Page(HTMLParser):
    """Elements, and the text of each script by its id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.words = ""
        self._id: str | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.words += " "
        if tag == "script":
            self._id = dict(attrs).get("id") or "own"
            self.scripts[self._id] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._id = None

    def handle_data(self, data: str) -> None:
        if self._id is None:
            self.words += data
        else:
            self.scripts[self._id] += data

    def block(self, name: str) -> Any:
        return json.loads(self.scripts[name])


def make(tmp_path: Path, count: int = 5, **known: Any) -> Path:
    judged = [verdict(k, f"d.jsonl:{k + 1}", type="illegal" if k % 2 else "privacy", **known) for k in range(count)]
    return write_audit(tmp_path / "out", [*judged, verdict(count, f"d.jsonl:{count + 1}")])


def page(out: Path) -> Page:
    return Page(write_report(out))


def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    path = write_report(make(tmp_path))
    assert path == tmp_path / "out" / "report.html"
    for tag, attrs in Page(path).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not {"src", "href", "srcset", "action"} & attrs.keys()
    assert not re.search(r"https?://|@import|url\(", path.read_text(encoding="utf-8"))


def test_only_the_page_s_own_script_may_run(tmp_path: Path) -> None:
    found = page(make(tmp_path))
    (policy,) = [attrs["content"] or "" for tag, attrs in found.tags if attrs.get("http-equiv")]
    own = base64.b64encode(hashlib.sha256(found.scripts["own"].encode()).digest()).decode()
    assert f"script-src 'sha256-{own}'" in policy
    assert policy.startswith("default-src 'none';")
    assert all(attrs.get("type") == "application/json" for tag, attrs in found.tags if tag == "script" and attrs)
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]


def test_words_of_the_data_never_become_markup(tmp_path: Path) -> None:
    plain = {tag for tag, _ in page(make(tmp_path / "plain")).tags}
    judged = []
    for row, text in enumerate(HOSTILE):
        words = text.encode("utf-8", "replace").decode()
        judged.append(
            verdict(row, words, type="illegal", question=words, answer=words, label=words, rule=words, error=None)
        )
    judged.append(verdict(len(HOSTILE), HOSTILE[0], error=HOSTILE[1]))
    doubts = [
        {"row": 0, "source": HOSTILE[0], "question": HOSTILE[1], "label": "x", "verdict": "y", "probability": 0.5}
    ]
    out = write_audit(
        tmp_path / "out",
        judged,
        data={"path": HOSTILE[0], "format": HOSTILE[1]},
        adapter={"path": HOSTILE[0]},
        label_disagreements={"count": 1, "rows": doubts},
    )
    found = page(out)
    expected = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
    assert sorted(found.block("index")["question"]) == sorted(expected)
    assert {found.block(f"d{k}")["answer"] for k in range(len(HOSTILE))} == set(expected)
    assert {tag for tag, _ in found.tags} - plain <= {"details", "summary", "table"}
    assert len([tag for tag, _ in found.tags if tag == "img"]) == 0
    assert len([tag for tag, _ in found.tags if tag == "script"]) == len(HOSTILE) + 3
    assert HOSTILE[0] in found.words and HOSTILE[1] in found.words
    assert re.fullmatch(r"[\x00-\x7f]*", found.scripts["index"])


def test_the_index_and_the_blocks_hold_what_was_flagged_by_falling_risk(tmp_path: Path) -> None:
    out = make(tmp_path)
    found = page(out)
    index, rows = (
        found.block("index"),
        read_audit(out).flagged("row", "source", "risk", "answer", "thumbnail").to_pylist(),
    )
    rows.sort(key=lambda row: -row["risk"])
    assert index["row"] == [row["row"] for row in rows]
    assert index["score"] == sorted(index["score"], reverse=True)
    for place, row in enumerate(rows):
        block = found.block(f"d{place}")
        assert base64.b64decode(block["picture"]) == row["thumbnail"]
        assert len(base64.b64decode(block["attention"])) == GRID * GRID and block["grid"] == [GRID, GRID]
        assert sum(block["probabilities"]) == pytest.approx(1, abs=1e-3)


def test_the_page_counts_by_type_and_level(tmp_path: Path) -> None:
    out = write_audit(
        tmp_path / "out",
        [verdict(0, "a", type="illegal", level="low"), verdict(1, "b", type="illegal", level="high"), verdict(2, "c")],
    )
    words = " ".join(page(out).words.split())
    assert "illegal 1 1 2" in words
    assert "flagged 2 66.67 % of the scored" in words and "type low medium high all" in words


def test_finds_whose_level_is_safe_are_counted_too(tmp_path: Path) -> None:
    words = " ".join(page(write_audit(tmp_path / "out", [verdict(0, "a", type="illegal", level="safe")])).words.split())
    assert "type safe low medium high all" in words and "illegal 1 1" in words


def test_unreadable_rows_are_listed_with_their_reason(tmp_path: Path) -> None:
    faults = [verdict(k, f"broken{k}.jpg", error="truncated") for k in range(1, 3)]
    words = " ".join(page(write_audit(tmp_path / "out", [verdict(0, "a", type="illegal"), *faults])).words.split())
    assert "2 unreadable rows, and why" in words and "broken2.jpg truncated" in words


def test_labels_in_doubt_are_listed(tmp_path: Path) -> None:
    doubt = {"row": 7, "source": "d:8", "question": None, "label": "clean", "verdict": "privacy", "probability": 0.9}
    out = write_audit(tmp_path / "out", [verdict(0, "a")], label_disagreements={"count": 3, "rows": [doubt]})
    words = " ".join(page(out).words.split())
    assert "3 labels that the verdict contradicts" in words and "7 d:8 clean privacy 0.900" in words


def test_an_audit_that_flags_nothing_has_a_report(tmp_path: Path) -> None:
    found = page(write_audit(tmp_path / "out", [verdict(0, "a")]))
    assert found.block("index")["row"] == [] and "flagged 0" in " ".join(found.words.split())


def test_too_many_rows_leave_the_riskiest_and_the_sample_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "SHOWN", 10)
    monkeypatch.setattr(report, "SAMPLE", 5)
    out = make(tmp_path, 40)
    audit, found = read_audit(out), page(out)
    index = found.block("index")
    risks = sorted(audit.flagged("risk")["risk"].to_pylist(), reverse=True)
    assert index["score"][:10] == pytest.approx([log_odds(risk) for risk in risks[:10]], abs=1e-3)
    sample = [row for _, row in sorted(zip(index["sample"], index["row"], strict=True)) if _ >= 0]
    assert sample == audit.sample_order(list(range(40)))[:5]
    assert f"40 rows are flagged; this page has the {len(index['row'])} with the highest scores" in found.words
    assert len([name for name in found.scripts if name.startswith("d")]) == len(index["row"]) <= 15


def test_near_duplicates_are_grouped_by_few_bits() -> None:
    assert groups(["00", "0f", "1f", None, "ff00", "", "ff01", "00"]) == [0, 0, 0, 3, 4, 5, 4, 0]


def test_pictures_that_differ_in_a_bit_are_grouped_among_many_others() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 300, dtype=np.uint64)
    near = hashes[:100] ^ (np.uint64(1) << random.integers(0, 64, 100, dtype=np.uint64))
    found = groups([f"{one:x}" for one in (*hashes, *near)])
    assert found == [*range(300), *range(100)]


def test_a_failed_write_leaves_the_report_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make(tmp_path)
    before = write_report(out).read_bytes()
    monkeypatch.setattr(report, "_base64", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(out)
    assert (out / "report.html").read_bytes() == before


def test_without_a_finished_audit_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished audit"):
        write_report(tmp_path)
