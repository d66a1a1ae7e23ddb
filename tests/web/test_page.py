"""The page's own functions, without a browser: what each event shows."""

import asyncio
from typing import NamedTuple

import pytest

pytest.importorskip("gradio", reason="needs the extra demo: its libraries are in a folder of their own, see make test")

from web_cases import FIRST, OFF, SECOND, folder, page, picture, playground, record

from safety_modules.web import panels
from safety_modules.web.page import DECIDING, NO_MAP, NOTHING, STALE

GUARD_ALONE = ["guard"]


def values(kind="attack", heat=NO_MAP, beside=NOTHING, on=GUARD_ALONE, **moved):
    """Of all inputs; `moved` are places among the policy's controls with their values, as p3=..."""
    policy = page()._values()
    for place, value in moved.items():
        policy[int(place[1:])] = value
    shown = (str(picture(kind)), record(kind).question) if kind else (None, "")
    return [*shown, heat, beside, on, *policy]


def asked(*inputs):
    async def collected():
        return [shown async for shown in page().ask(*inputs)]

    return asyncio.run(collected())


def test_asking_shows_the_verdict_first_then_growing_answers():
    first, *others = asked(*values())
    assert "sm-risky" in first[0] and "-&gt; hint" in first[0] and first[4:] == ["", "", ""]
    assert "Answering." in first[3]
    bases, guarded = ([shown[place] for shown in others] for place in (4, 5))
    assert len(set(bases)) > 3 and len(set(guarded)) > 3
    assert bases[-1] and guarded[-1] and bases[-1] != guarded[-1]
    assert others[-1][3] == panels.note() and others[-1][6] == ""


def test_a_clean_picture_gets_the_bases_answer():
    *_, last = asked(*values("benign"))
    assert last[4] == last[5] != ""
    panel, *_ = page().judge("", *values("benign"))
    assert "sm-risky" not in panel and "No rule fired" in panel


def test_every_type_has_its_bar_and_only_the_one_that_fired_is_marked():
    panel, *_ = page().judge("", *values())
    assert panel.count("sm-track") == 6 and panel.count('class="sm-fired"') == 1
    panel, *_ = page().judge("", *values(p0=False))
    assert panel.count("sm-tick") == 5 and panel.count('class="sm-off"') == 1 and " / off" in panel


def test_words_of_a_verdict_are_never_markup():
    assert "&lt;b&gt;" in panels.note("<b>") and "&lt;b&gt;" in panels.verdict_panel(None, "<b>", 12)


def test_the_guard_off_is_said():
    panel, *_ = page().judge("", *values(on=[]))
    assert "Nothing: the guard is switched off." in panel
    *_, last = asked(*values(on=[]))
    assert last[4] == last[5] != ""


def test_changes_of_the_policy_are_told_and_old_answers_are_called_old():
    _, _, told, note = page().judge("an answer", *values(p1="log"))
    assert "changed on this page" in told and "politics: action log, not hint." in told and STALE in note
    _, _, told, note = page().judge("", *values())
    assert "as it was given" in told and note == panels.note()


def test_the_heat_map_of_a_type_is_by_the_adapter_that_has_it():
    class Known(NamedTuple):
        scores: dict[str, float]

        def overlay(self, picture, type):
            return f"{type} of {len(self.scores)}"

    shown = page()._asked(values(heat="politics"))
    one, other = Known({"illegal": 0.0}), Known({"illegal": 0.0, "politics": 0.0})
    assert page()._overlay(shown, [one, other])["value"] == "politics of 2"
    assert not page()._overlay(shown, [one, None])["visible"]
    assert page()._overlay(page()._asked(values(heat=DECIDING)), [one, other])["value"] == "None of 1"


def test_the_heat_map_is_of_the_type_that_was_chosen():
    pictures = []
    for heat in (DECIDING, "politics", "privacy"):
        update, _ = page().heat(*values(heat=heat))
        assert update["visible"]
        pictures.append(update["value"].tobytes())
    assert len(set(pictures)) == 3 or pictures[0] in pictures[1:]
    assert len(set(pictures)) > 1
    assert not page().heat(*values())[0]["visible"]
    verdict = playground().safety.classify(record("attack").load_image(), record("attack").question)[0]
    assert pictures[0] == verdict.overlay(record("attack").load_image()).tobytes()


def test_two_adapters_are_two_verdicts_and_two_answers():
    panel, *_ = page().judge("", *values(beside=SECOND))
    assert panel.count("<section") == 2 and panel.count("sm-risky") == 1 and FIRST in panel and SECOND in panel
    *_, last = asked(*values(beside=SECOND))
    assert last[6] == last[4] != last[5]
    assert page().compared(SECOND) == {
        "visible": True,
        "label": f"Guarded: {SECOND}",
        "value": "",
        "__type__": "update",
    }
    assert not page().compared(NOTHING)["visible"]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (values(None), "expected a question, got none"),
        (["/no/picture.png", *values()[1:]], "the server failed"),
        (values(p18="Beware of {everything}."), "unknown place {everything}"),
    ],
    ids=["nothing asked", "no file", "a hint that cannot be filled"],
)
def test_what_goes_wrong_is_a_sentence_on_the_page(inputs, told):
    *_, last = asked(*inputs)
    assert told in last[3] and 'role="alert"' in last[3]


def test_nothing_yet_is_no_mistake():
    panel, _, _, note = page().judge("", *values(None))
    assert "Nothing judged" in panel and note == panels.note()


def test_a_question_without_a_picture_is_answered_unjudged():
    inputs = [None, "What is a trumpet?", *values()[2:]]
    first, *_, last = asked(*inputs)
    assert "Nothing judged" in first[0] and last[4] == last[5] != ""


def test_an_audit_judges_a_folder_by_the_policy_of_the_page():
    place = folder(12, ("broken.png", b"words"), ("notes.txt", b"words"))
    policy = page()._values()
    found = page().audited(str(place), "", FIRST, *policy)
    assert "13 pictures" in found and "1 unreadable" in found and "<iframe" in found
    flagged = int(found.split(": ")[1].split(" flagged")[0])
    assert 0 < flagged < 12
    fewer = page().audited(str(place), "", SECOND, *policy)
    assert int(fewer.split(": ")[1].split(" flagged")[0]) < flagged
    none = [False if place % 3 == 0 and place < 18 else value for place, value in enumerate(policy)]
    assert ": 0 flagged" in page().audited(str(place), "", FIRST, *none)
    for wrong in ("", "/no/such/folder"):
        assert "expected a folder on this machine" in page().audited(wrong, "", FIRST, *policy)


def test_the_controls_are_in_the_order_in_which_they_are_read():
    blocks = page().blocks()
    inputs = next(fn.inputs for fn in blocks.fns.values() if fn.name == "ask")
    assert [one.elem_id for one in inputs[:5]] == ["picture", "question", "heat", "beside", "defences"]
    types = list(playground().policy.rules)
    expected = [f"{what}-{type}" for type in types for what in ("on", "action", "threshold")]
    assert [one.elem_id for one in inputs[5:]] == [*expected, "hint-low", "hint-medium", "hint-high", "refusal"]
    assert [one.value for one in inputs[5:]] == page()._values()
    assert inputs[4].value == [kind for kind in ("guard", *OFF) if kind not in OFF]


def test_nothing_is_reported_or_offered_to_programs():
    blocks = page().blocks()
    assert not blocks.analytics_enabled
    assert {fn.api_visibility for fn in blocks.fns.values()} <= {"private", "undocumented"}
