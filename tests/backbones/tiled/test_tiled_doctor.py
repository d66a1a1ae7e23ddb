"""The doctor finds nothing on bases with tiles that are well."""

import copy

import pytest

from safety_modules.attach import attach_safety
from safety_modules.attach.attachment import attached_to
from safety_modules.doctor import examine as examination
from safety_modules.doctor import guarded
from safety_modules.doctor.check import NotApplicable
from safety_modules.doctor.examine import examine
from safety_modules.doctor.subject import Subject
from safety_modules.errors import AttachError
from safety_modules.records import Record

pytestmark = pytest.mark.matrix


def test_a_base_that_is_well_passes(tiny_base, processor, make_image, monkeypatch):
    slow = ("time_and_memory",)
    monkeypatch.setattr(examination, "LOOKS", [one for one in examination.LOOKS if one.__name__ not in slow])
    monkeypatch.setattr(guarded, "KINDS", {})
    data = [Record(image=make_image(2), question="what is this?", answer="a cup of tea", type="clean", level="safe")]
    found = examine(Subject(copy.deepcopy(tiny_base), processor, records=data))
    assert [one for one in found["checks"] if one["result"] == "failed"] == []
    passed = {one["name"] for one in found["checks"] if one["result"] == "passed"}
    assert {"chat_template", "image_tokens", "prompt_ids", "question", "hint", "data", "seam", "gradients"} <= passed


def test_a_template_without_marks_is_told(tiny_base, processor):
    other = copy.deepcopy(processor)
    other.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] or '<image>' }}{% endfor %}{% endfor %}"
    )
    subject = Subject(copy.deepcopy(tiny_base), other)
    findings = {one["name"]: one for one in examine(subject)["checks"]}
    assert findings["chat_template"]["result"] == "failed" and findings["hint"]["result"] == "failed"


def test_a_defence_that_is_not_for_tiles_says_so_and_is_no_failure(tiny_base, processor):
    model = copy.deepcopy(tiny_base)
    with pytest.raises(AttachError, match=r"davsp not attached: expected .* one whole square picture .* got tiles"):
        attach_safety(model, processor, defence="davsp")
    with pytest.raises(NotApplicable, match="got tiles"):
        guarded.kind(Subject(model, processor), "davsp")
    assert attached_to(model) is None
