"""What an audit says of pictures unlike those of training and calibration, and where."""

from pathlib import Path

import numpy as np
import pytest
from audit_samples import verdict, write_audit

from safety_modules.audit.report import write_report
from safety_modules.audit.review_audit import read_audit
from safety_modules.audit.summary import summarise
from safety_modules.policy.outside import Calibrated, Outsiders
from safety_modules.taxonomy import DEFAULT_TAXONOMY

pytest.importorskip("pyarrow")
MANY = Outsiders(100, 0.5, 0.01, 300, 0.6, 1e-9, True)
WARNING = "unlike anything the head was trained on"


def page_of(folder: Path, known: Outsiders | None) -> str:
    found = {} if known is None else {"outside": known._asdict()}
    write_audit(folder, [verdict(0, "d.jsonl:1", type="illegal"), verdict(1, "d.jsonl:2")], **found)
    assert read_audit(folder).summary.outside == known
    page = write_report(folder).read_text(encoding="utf-8")
    return page[page.index("<main>") :]


def test_where_much_is_outside_the_report_says_so_before_everything_else(tmp_path: Path) -> None:
    page = page_of(tmp_path, MANY)
    assert 0 < page.index(f"50.0% of these pictures are {WARNING}") < page.index("Promise void") < page.index("tiles")


def test_a_void_promise_is_said_first_too(tmp_path: Path) -> None:
    page = page_of(tmp_path, MANY._replace(share=0.01))
    assert WARNING not in page and page.index("Promise void") < page.index("tiles")


def test_where_nothing_is_wrong_it_is_one_number_among_the_others(tmp_path: Path) -> None:
    page = page_of(tmp_path / "few", MANY._replace(share=0.01, void=False))
    assert WARNING not in page and "Promise void" not in page and "unlike the training" in page
    assert "unlike the training" not in page_of(tmp_path / "unknown", None)  # of adapters that do not know


@pytest.mark.parametrize(("riskier", "void"), [(0.0, False), (1.0, True)])
def test_pictures_that_look_alike_but_are_judged_riskier_void_the_promise(riskier: float, void: bool) -> None:
    import pyarrow as pa

    rng = np.random.default_rng(0)
    odds, p_values = rng.normal(-6, 1, 400) + riskier, rng.random(400)
    nothing = {"duplicate_of": None, "error": None, "frames": 1, "frames_judged": 1}
    rows = [
        verdict(row, "d.jsonl", risk=1 / (1 + np.exp(-at)), outside=p, **nothing)
        for row, (at, p) in enumerate(zip(odds, p_values, strict=True))
    ]
    known = Calibrated(rng.random(500), rng.normal(-6, 1, 500), 3.0)
    found = summarise([pa.Table.from_pylist(rows)], DEFAULT_TAXONOMY, calibrated=known)["outside"]
    assert found["void"] is void and found["p"] > 0.01 and (found["risk_p"] <= 0.005) is void
