"""The option --device: the tiny model and everything that is put into it are there."""

from guard_cases import attach_as_trained


def test_model_inputs_and_safety_modules_are_on_the_chosen_device(model, processor, ask, device):
    safety = attach_as_trained(model, processor)
    tensors = [*model.parameters(), *safety.parameters(), *ask(("what is this?", [1])).values()]
    assert {tensor.device.type for tensor in tensors} == {device.type}


def test_trained_parts_follow_a_base_that_is_moved_or_cast_after_attaching(model, processor, make_image, device):
    safety = attach_as_trained(model, processor)
    model.to("cpu").bfloat16()
    verdict = safety.classify(make_image(1), "what is this?")[0]
    assert abs(sum(verdict.probabilities.values()) - 1) < 1e-5
    assert {parameter.device.type for parameter in safety.parameters()} == {"cpu"}
    model.to(device)
    safety.classify(make_image(1))
    assert {parameter.device.type for parameter in safety.parameters()} == {device.type}
