"""What every defence keeps to, on bases that cut pictures into tiles: the tests of `defences/test_contract.py`."""

import pytest
from test_contract import *  # noqa: F403


@pytest.fixture(params=[("guard",), ("external",), ("meta-token",), ("guard", "ecso"), ("lora", "guard")], ids="+".join)
def names(request):
    return request.param
