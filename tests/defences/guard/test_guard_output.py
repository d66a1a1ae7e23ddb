"""What comes back: prompts, verdicts, scores, streams. The hint never does."""

import threading

import pytest
import torch
from guard_cases import NEW, ROWS, Recorder, answers
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, TextIteratorStreamer
from transformers.generation import StoppingCriteriaList

from safety_modules.defences.answer import GuardedOutput
from safety_modules.policy import Policy

pytestmark = pytest.mark.matrix

MODES = pytest.mark.parametrize("batch_mode", ["split", "merged"])
EVEN = [("what is this", [1]), ("what is that", [5]), ("what is here", [1])]


@MODES
@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "num_return_sequences": 2}])
def test_prompts_come_back_as_they_were_and_nothing_leaks(guarded, model, ask, processor, batch_mode, options):
    inputs = ask(*ROWS)
    sequences = model.generate(**inputs, **NEW, **options, batch_mode=batch_mode)
    prompts = inputs["input_ids"].repeat_interleave(options.get("num_return_sequences", 1), 0)
    assert torch.equal(sequences[:, : prompts.shape[1]], prompts)
    # Three words of the hint: a random model may well say one of them by itself.
    hints = ["image carries a", "decline and say"]
    assert all(words in guarded.policy.hint("illegal", "high") for words in hints)
    lines = processor.batch_decode(sequences, skip_special_tokens=True)
    assert not any(words in line for line in lines for words in hints)


@MODES
def test_an_output_object_carries_the_verdicts(guarded, model, ask, batch_mode):
    inputs, flags = ask(*ROWS), {"return_dict_in_generate": True, "batch_mode": batch_mode}
    output = model.generate(**inputs, **NEW, **flags)
    assert isinstance(output, GuardedOutput) and output.past_key_values is None
    assert [v and v.type for v in output.verdicts] == [
        "illegal", "clean", None, "privacy", "clean", "privacy", "illegal"
    ]  # fmt: skip
    assert [[v.type for v in found] for found in output.image_verdicts] == [
        ["illegal"], ["clean"], [], ["clean", "privacy"], ["clean"], ["privacy"], ["clean", "privacy", "illegal"]
    ]  # fmt: skip
    assert torch.equal(output.sequences, model.generate(**inputs, **NEW, batch_mode=batch_mode))


@MODES
def test_scores_and_beam_indices_fit_the_callers_rows(guarded, model, ask, batch_mode):
    inputs = ask(*EVEN)
    flags = {"return_dict_in_generate": True, "output_scores": True, "batch_mode": batch_mode}
    greedy = model.generate(**inputs, **NEW, **flags)
    assert [score.shape for score in greedy.scores] == [(3, model.config.text_config.vocab_size)] * 6
    picked = torch.stack([score.argmax(-1) for score in greedy.scores], 1)
    assert torch.equal(picked, answers(greedy.sequences, inputs))
    beams = model.generate(**inputs, **NEW, **flags, num_beams=2)
    scores = model.compute_transition_scores(beams.sequences, beams.scores, beams.beam_indices)
    assert torch.allclose(scores.sum(1) / 6, beams.sequences_scores, atol=1e-5)
    refused = model.generate(**inputs, **NEW, **flags, policy=Policy.default().with_rule("illegal", action="refuse"))
    assert refused.scores[0][[0, 2]].isnan().all() and not refused.scores[0][1].isnan().any()


@pytest.mark.parametrize("action", ["hint", "refuse", "log"])
def test_streamers_see_the_callers_prompt_and_the_answer_only(guarded, model, ask, action):
    inputs, streamer = ask(ROWS[0]), Recorder()
    policy = Policy.default().with_rule("illegal", action=action)
    sequences = model.generate(**inputs, **NEW, policy=policy, streamer=streamer)
    assert torch.equal(streamer.values[0], inputs["input_ids"])
    assert torch.equal(torch.cat([v.flatten() for v in streamer.values[1:]]), answers(sequences, inputs)[0])
    assert streamer.ended == 1


@pytest.mark.parametrize("action", ["hint", "refuse"])
@pytest.mark.parametrize("n", [1, 2])
def test_rows_answered_together_stream_together(guarded, model, ask, action, n):
    inputs, streamer = ask(EVEN[0], EVEN[2]), Recorder()
    options = {"max_new_tokens": 6, "do_sample": True, "top_k": 1, "num_return_sequences": n, "streamer": streamer}
    sequences = model.generate(**inputs, **options, policy=Policy.default().with_rule("illegal", action=action))
    assert torch.equal(streamer.values[0], inputs["input_ids"].repeat_interleave(n, 0))
    assert torch.equal(torch.stack(streamer.values[1:], 1), answers(sequences, inputs))


def test_a_merged_batch_streams_as_one(guarded, model, ask):
    inputs, streamer = ask(*EVEN), Recorder()
    sequences = model.generate(**inputs, **NEW, streamer=streamer, batch_mode="merged")
    assert torch.equal(torch.cat([streamer.values[0], torch.stack(streamer.values[1:], 1)], 1), sequences)


def test_text_streamed_from_another_thread_is_the_answer(guarded, model, ask, processor):
    inputs = ask(ROWS[0])
    expected = processor.decode(answers(model.generate(**inputs, **NEW), inputs)[0], skip_special_tokens=True)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    thread = threading.Thread(target=model.generate, kwargs={**inputs, **NEW, "streamer": streamer})
    thread.start()
    assert "".join(streamer).strip() == expected.strip()
    thread.join()


class SeesPrompt(StoppingCriteria, LogitsProcessor):
    """Both a criterion and a processor: notes the prompts it is shown."""

    def __init__(self, width):
        self.width, self.prompts, self.lengths = width, [], []

    def __call__(self, input_ids, scores, **kwargs):
        self.prompts.append(input_ids[:, : self.width].clone())
        self.lengths.append(input_ids.shape[1] - self.width)
        return scores


class StopsAfterThree(SeesPrompt):
    def __call__(self, input_ids, scores, **kwargs):
        super().__call__(input_ids, scores)
        return torch.full((len(input_ids),), self.lengths[-1] >= 3)


@MODES
def test_the_callers_callbacks_see_the_callers_prompts(guarded, model, ask, batch_mode):
    inputs = ask(ROWS[1], ROWS[2], ROWS[4])
    guarded.guard.mode = "always"  # steered without a risk, where a caller may still choose tokens
    width = inputs["input_ids"].shape[1]
    stop, process, allowed = StopsAfterThree(width), SeesPrompt(width), []

    def allow(row, ids):
        allowed.append(torch.equal(ids[:width], inputs["input_ids"][row]))
        return list(range(6, 100))

    sequences = model.generate(
        **inputs,
        **NEW,
        stopping_criteria=StoppingCriteriaList([stop]),
        logits_processor=LogitsProcessorList([process]),
        prefix_allowed_tokens_fn=allow,
        batch_mode=batch_mode,
    )
    assert sequences.shape[1] == width + 3
    parts = [[1], [0, 2]] if batch_mode == "split" else [[0, 1, 2]]
    assert torch.equal(stop.prompts[0], inputs["input_ids"][parts[0]])
    assert torch.equal(stop.prompts[-1], inputs["input_ids"][parts[-1]])
    assert torch.equal(process.prompts[-1], inputs["input_ids"][parts[-1]]) and process.lengths[-1] == 2
    assert allowed and all(allowed)


@MODES
@pytest.mark.parametrize("sampling", [{"do_sample": True, "num_return_sequences": 2}, {"num_beams": 2}])
def test_allowed_tokens_are_asked_for_by_the_bases_row_numbers(guarded, model, tiny_base, ask, batch_mode, sampling):
    inputs = ask(*((question, [seed]) for (question, _), seed in zip(EVEN, (5, 6, 7), strict=True)))
    guarded.guard.mode = "always"

    def rows_asked(base, **options):
        asked = set()

        def allow(row, ids):
            asked.add(row)
            return list(range(6, 100))

        base.generate(**inputs, max_new_tokens=2, prefix_allowed_tokens_fn=allow, **sampling, **options)
        return asked

    assert rows_asked(model, batch_mode=batch_mode) == rows_asked(tiny_base)
