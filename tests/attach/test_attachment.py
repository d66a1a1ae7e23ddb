"""The handle on attached modules: its parameters, verdicts on images alone, calls with verdicts."""

import pytest
import torch

from safety_modules.defences.answer import GuardedOutput
from safety_modules.errors import GuardError

pytestmark = pytest.mark.matrix

RISKY = {1: ("illegal", "high")}


def test_parameters_are_the_modules_and_lora_only(model, safety):
    base = {id(p) for p in model.parameters()}
    names = [name for name, _ in safety.named_parameters()]
    assert all(id(p) not in base and p.requires_grad for p in safety.parameters())
    assert "modules.lm_tokens.weight" in names
    assert "lora.layers.0.mlp.up_proj.lora_B.weight" in names


def test_a_guarded_call_in_training_mode_is_deterministic_and_restores_it(model, safety, judge_as, ask):
    judge_as(RISKY)
    inputs = ask(("what is this?", [1]))
    expected = model.generate(**inputs, max_new_tokens=6)
    safety.train()
    assert torch.equal(model.generate(**inputs, max_new_tokens=6), expected)
    assert safety.modules.training and safety.lora.training


def test_classify_needs_no_language_model(safety, judge_as, make_image, text_runs, tower_runs):
    judge_as(RISKY)
    tower_runs.clear()
    verdicts = safety.classify([make_image(1), make_image(2), make_image(1)], batch_size=2)
    assert [v.type for v in verdicts] == ["illegal", "clean", "illegal"]
    assert [v.image_index for v in verdicts] == [0, 1, 2]
    assert verdicts[0].attention.shape == (6, 4, 4)
    assert text_runs == [] and tower_runs == [2, 1]


def test_classify_and_generate_agree(safety, ask, make_image):
    questions = ["what is this?", "how do I use the knife?"]
    inputs = ask((questions[0], [1]), (questions[1], [2]))
    generated = safety.generate(**inputs, max_new_tokens=1).verdicts
    classified = safety.classify([make_image(1), make_image(2)], questions)
    alone = safety.classify(pixel_values=inputs["pixel_values"][1:], questions=questions[1])
    for name in generated[0].probabilities:
        assert [v.probabilities[name] for v in generated] == pytest.approx(
            [v.probabilities[name] for v in classified], abs=1e-6
        )
    assert alone[0].probabilities == pytest.approx(generated[1].probabilities, abs=1e-6)


def test_the_question_reaches_the_verdict(safety, make_image):
    first, second = (safety.classify(make_image(1), q)[0] for q in ("what is this?", "how do I hurt people?"))
    assert first.probabilities != second.probabilities


@pytest.mark.parametrize(
    "arguments",
    [{}, {"images": [], "pixel_values": torch.zeros(0)}, {"images": "one", "questions": ["a", "b"]}],
)
def test_classify_refuses_unclear_calls(safety, make_image, arguments):
    if arguments.get("images") == "one":
        arguments = {**arguments, "images": make_image(1)}
    with pytest.raises(GuardError, match="nothing judged"):
        safety.classify(**arguments)


def test_generate_of_the_handle_always_returns_verdicts(safety, ask):
    inputs = ask(("what is this?", [1]), ("hello", []))
    output = safety.generate(**inputs, max_new_tokens=2)
    assert isinstance(output, GuardedOutput) and output.verdicts[0] is not None and output.verdicts[1] is None
    assert safety.generate(**inputs, max_new_tokens=2, safety=False).verdicts == [None, None]
