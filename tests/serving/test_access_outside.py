"""What the server lets callers ask about pictures from outside of what was trained."""

import pytest

from safety_modules.policy import Policy

pytest.importorskip("fastapi")


def test_a_request_that_only_reports_changes_no_answer_for_a_picture_from_outside() -> None:
    from safety_modules.serving.access import only_reported

    refusing = Policy.default().changed({"outside": "refuse"})
    assert only_reported(refusing).outside == "log"
    assert {rule.action for rule in only_reported(refusing).rules.values()} == {"log"}
