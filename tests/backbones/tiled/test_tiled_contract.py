"""What every defence keeps to, on bases that cut pictures into tiles: the tests of `defences/test_contract.py`."""

import pytest
from test_contract import *  # noqa: F403

ALWAYS, SLOW = [("guard",), ("lora", "guard")], [("external",), ("meta-token",), ("guard", "ecso")]


@pytest.fixture(params=cases([*ALWAYS, *SLOW], SLOW.__contains__))  # noqa: F405
def names(request):
    return request.param
