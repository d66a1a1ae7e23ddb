"""Arguments of the lmms-eval model, checked before a base is loaded; and the package without lmms-eval."""

import importlib
import subprocess
import sys

import pytest

from safety_modules.errors import ConfigError
from safety_modules.evaluation.lmms import TASKS
from safety_modules.evaluation.lmms.arguments import choose_system, new_tokens


@pytest.mark.parametrize(
    ("arguments", "system"),
    [
        ({}, "gated"),
        ({"mode": "always"}, "always"),
        ({"allow": "privacy+politics"}, "gated"),
        ({"safety": "off"}, "none"),
        ({"safety": False}, "none"),
        ({"defence": "ecso"}, "ecso"),
        ({"defence": "lora=runs/lora"}, "lora=runs/lora"),
    ],
)
def test_arguments_name_a_system(arguments, system):
    given = {"safety": "on", "mode": None, "defence": None, "allow": ""} | arguments
    assert choose_system(**given) == system


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"safety": "maybe"}, "expected on or off, got 'maybe'"),
        ({"mode": "merged"}, "expected gated or always, got 'merged'"),
        ({"safety": "off", "mode": "always"}, "expected mode=always only where our safety is on"),
        ({"defence": "ecso", "allow": "privacy"}, "expected allow=privacy only where our safety is on"),
        ({"safety": "off", "defence": "ecso"}, "expected safety=off or defence=ecso, got both"),
    ],
)
def test_arguments_that_would_have_no_effect_are_errors(arguments, words):
    given = {"safety": "on", "mode": None, "defence": None, "allow": ""} | arguments
    with pytest.raises(ConfigError, match=words):
        choose_system(**given)


@pytest.mark.parametrize(
    ("decoding", "limit"),
    [
        ({}, 7),
        ({"max_new_tokens": 16, "temperature": 0, "top_p": None, "num_beams": 1, "until": ["\n"]}, 16),
        ({"do_sample": False, "temperature": 0.7}, 7),
        ({"do_sample": True, "temperature": 0.0}, 7),
        ({"max_new_tokens": None, "num_beams": None}, 7),
    ],
)
def test_greedy_decoding_is_taken_from_the_task_and_its_limit_before_ours(decoding, limit):
    assert new_tokens(decoding, 7) == limit


@pytest.mark.parametrize("decoding", [{"temperature": 0.2}, {"do_sample": True, "temperature": 1}, {"num_beams": 5}])
def test_any_other_decoding_is_an_error(decoding):
    with pytest.raises(ConfigError, match="expected greedy decoding"):
        new_tokens(decoding, 7)


def test_the_package_needs_lmms_eval_for_the_model_alone(monkeypatch):
    home = "safety_modules.evaluation.lmms"
    for name in ("docs", "manifest", "model"):
        monkeypatch.delitem(sys.modules, f"{home}.{name}", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lmms_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    importlib.import_module(f"{home}.docs")
    assert importlib.import_module(f"{home}.manifest").MODEL == "safety_llava"
    with pytest.raises(ModuleNotFoundError, match="lmms_eval"):
        importlib.import_module(f"{home}.model")


def test_the_folder_of_tasks_is_printed_for_include_path():
    found = subprocess.run(
        [sys.executable, "-m", "safety_modules.evaluation.lmms"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(TASKS) and (TASKS / "safety_vlguard.yaml").is_file()
