"""The guarded call on bases in other forms: half precision, offloaded."""

import copy

import torch
from accelerate import cpu_offload
from guard_cases import NEW, ROWS

from safety_modules.attach import attach_safety


def test_bfloat16_base_is_guarded(tiny_base, processor, ask):
    model = copy.deepcopy(tiny_base).bfloat16()
    safety = attach_safety(model, processor)
    inputs = ask(*ROWS[:3])
    thresholds = dict.fromkeys(safety.config.taxonomy.types, 0.0)
    safety.thresholds = thresholds
    output = safety.generate(**inputs, **NEW)
    assert [v and v.flagged for v in output.verdicts] == [True, True, None]
    assert safety.modules.dtype == torch.float32


def test_offloaded_language_model_is_guarded_like_one_in_memory(guarded, model, tiny_base, processor, ask, tmp_path):
    inputs = ask(*ROWS)
    guarded.thresholds = dict.fromkeys(guarded.config.taxonomy.types, 0.0)
    folder = guarded.save_pretrained(tmp_path / "adapter")
    in_memory = attach_safety(copy.deepcopy(tiny_base), processor, adapter=folder)
    expected = in_memory.generate(**inputs, **NEW)
    offloaded = copy.deepcopy(tiny_base)
    cpu_offload(offloaded.model.language_model.layers, execution_device="cpu")
    safety = attach_safety(offloaded, processor, adapter=folder)
    assert not any(p.is_meta for p in safety.parameters())
    assert torch.equal(safety.generate(**inputs, **NEW).sequences, expected.sequences)
    assert torch.equal(offloaded.generate(**inputs, **NEW, safety=False), tiny_base.generate(**inputs, **NEW))
