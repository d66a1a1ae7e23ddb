"""Libraries that were never tried with the package are told, once; those that are pinned here were."""

import re
import sys
import warnings
from pathlib import Path

import pytest

from safety_modules import version
from safety_modules.backbones import find_backbone
from safety_modules.version import TRIED, installed, never_tried, tell_never_tried

REQUIREMENTS = Path(__file__).parents[1] / "requirements"


@pytest.fixture(autouse=True)
def anew():
    """Nothing was told yet."""
    tell_never_tried.cache_clear()
    yield
    tell_never_tried.cache_clear()


@pytest.mark.parametrize("file", ["oldest", "middle", "run", "quant"])
def test_what_is_pinned_for_this_python_was_tried(file):
    pins = re.findall(r"^([a-z-]+)==(\d+\.\d+)(?!.*<)", (REQUIREMENTS / f"{file}.txt").read_text(), re.MULTILINE)
    known = {name: series for name, series in pins if name in TRIED}
    assert known and {name: series for name, series in known.items() if series not in TRIED[name]} == {}


@pytest.mark.matrix
@pytest.mark.skipif(sys.version_info < (3, 11), reason="its newest transformers, 5.20, was never tried")
def test_every_environment_of_the_matrix_is_one_that_was_tried():
    assert never_tried() == []
    assert {"safety-modules", "torch", "transformers", "peft"} <= set(installed())


def test_a_version_nobody_tried_is_one_warning_with_what_was_and_the_next_step(monkeypatch, model, processor):
    monkeypatch.setattr(version, "version", lambda name: {"transformers": "5.40.1", "peft": "1.0"}.get(name, "2.13.0"))
    monkeypatch.setattr(version, "TRIED", {name: TRIED[name] for name in ("torch", "transformers", "peft")})
    with pytest.warns(UserWarning) as told:
        find_backbone(model, processor)
        find_backbone(model, processor)
    (message,) = [str(one.message) for one in told if "never tried" in str(one.message)]
    assert "transformers 5.40.1 was never tried (tried: 4.57, 5.17, 5.23, 5.24); peft 1.0 was never tried" in message
    assert "torch" not in message and "`safety-modules doctor MODEL`" in message


def test_nothing_is_told_where_all_was_tried(monkeypatch, model, processor):
    monkeypatch.setattr(version, "TRIED", {"transformers": (".".join(installed()["transformers"].split(".")[:2]),)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_never_tried()
