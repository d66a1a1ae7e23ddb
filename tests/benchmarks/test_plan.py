"""The plan of a stage as a command: what it prints, and whether it fits."""

import json
import re
import shlex

import plan
import pytest
from plan import base_config
from plan_cases import small
from scripts import invoke
from transformers import LlamaConfig

from safety_modules.errors import ConfigError


def test_the_command_prints_a_plan_and_says_whether_it_fits(tmp_path):
    small().save_pretrained(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text("stage: 2\nsteps: 5\nbatch_size: 4\nlearning_rate: 1.0e-3\n", encoding="utf-8")
    command = ["plan.py", tmp_path, "--recipe", file, "--text-tokens", "40", "--answer-tokens", "10"]
    done = invoke(*command, "--json", "--tflops", "0.5", catch_exceptions=False)
    record = json.loads(done.stdout)
    assert record["total_gb"] == pytest.approx(sum(record["memory_gb"].values()))
    assert record["seconds_a_step"] == pytest.approx(record["step_tflop"] / 0.5)
    assert invoke(*command, "--gpu-memory", "1").exit_code == 0
    tight = invoke(*command, "--gpu-memory", "0.00001")
    assert tight.exit_code == 1
    assert "does not fit in 1e-05" in tight.stdout


def test_the_example_of_the_script_runs():
    (example,) = re.findall(r"^    python benchmarks/(plan\.py .*)$", plan.__doc__, re.MULTILINE)
    done = invoke(*shlex.split(example))
    assert done.exit_code == 0, done.output
    assert "fits in 16" in done.output


def test_a_text_that_is_all_answer_is_refused(tmp_path):
    done = invoke("plan.py", "llava-1.5-7b", "--recipe", "llava-1.5-7b/stage2", "--text-tokens", 40)
    assert isinstance(done.exception, ConfigError) and "expected fewer answer tokens than the 40" in str(done.exception)


def test_a_base_nobody_knows_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"expected one of llava-1.5-7b, llava-1.5-13b, a folder"):
        base_config("llava-1.5-70b")
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"expected a LLaVA-1\.5, LLaVA-NeXT or LLaVA-OneVision, got llama"):
        base_config(str(tmp_path))
