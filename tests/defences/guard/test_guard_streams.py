"""A streamer that tells rows apart hears each row of a batch, in whichever parts it is answered."""

import pytest
import torch
from guard_cases import CLEAN, NEW, RISKY, ROWS

from safety_modules.backbones.generation import RowStreamer
from safety_modules.policy import Policy


class Heard(RowStreamer):
    """Notes the tokens of each row, and what was known of it when its part began."""

    def __init__(self, rows, parts=None, records=None):
        self.rows, self.tokens, self.prompts = [*rows], {row: [] for row in rows}, None
        self.parts, self.records = parts if parts is not None else [], records

    def of_rows(self, rows, records):
        part = Heard(rows, self.parts, records)
        self.parts.append(part)
        return part

    def put(self, value):
        if self.prompts is None:
            self.prompts = value
            if self.records is not None:
                self.known = {row: (self.records[row].verdict, self.records[row].refusal) for row in self.rows}
        else:
            for row, token in zip(self.rows, value.tolist(), strict=True):
                self.tokens[row].append(token)

    def end(self):
        self.ended = True


def whole(ids, ends, pad):
    """An answer without what stands behind its end."""
    ids = ids[: next((place + 1 for place, one in enumerate(ids) if one in ends), len(ids))]
    while ids and ids[-1] == pad:
        ids = ids[:-1]
    return ids


@pytest.mark.parametrize("action", ["hint", "refuse", "log"])
@pytest.mark.parametrize("batch_mode", ["split", "merged"])
def test_every_row_hears_its_own_answer_and_its_verdict_before(guarded, model, ask, action, batch_mode):
    policy, inputs, heard = Policy.default().with_rule("illegal", action=action), ask(*ROWS), Heard(range(len(ROWS)))
    options = {**NEW, "policy": policy, "batch_mode": batch_mode, "return_dict_in_generate": True}
    output = model.generate(**inputs, **options, streamer=heard)
    silent = model.generate(**inputs, **options)
    assert torch.equal(output.sequences, silent.sequences)
    assert sorted(row for part in heard.parts for row in part.rows) == [*range(len(ROWS))]
    assert all(part.ended for part in heard.parts) and not any(heard.tokens.values())
    config, width = model.generation_config, inputs["input_ids"].shape[1]
    for part in heard.parts:
        assert torch.equal(part.prompts, inputs["input_ids"][part.rows])
        for row in part.rows:
            verdict, refusal = part.known[row]
            assert verdict == output.verdicts[row]
            assert (refusal is not None) == (verdict is not None and verdict.action == "refuse")
            said, ends = output.sequences[row, width:].tolist(), {config.eos_token_id}
            pad = config.pad_token_id
            assert whole(part.tokens[row], ends, pad) == whole(said, ends, pad)
    if action == "refuse":
        assert {row for part in heard.parts for row in part.rows if part.known[row][1]} <= {*RISKY}
    known = {row: part.known[row][0] for part in heard.parts for row in part.rows}
    assert not any(known[row].flagged for row in CLEAN if known[row] is not None)


def test_a_batch_that_is_off_streams_as_the_bases_own(guarded, model, ask):
    """Nothing is told apart, because nothing is judged."""
    heard = Heard(range(2))
    output = model.generate(**ask(*ROWS[:2]), **NEW, streamer=heard, safety=False)
    width = len(output[0]) - len(heard.tokens[0])
    assert [heard.tokens[row] for row in range(2)] == output[:, width:].tolist() and not heard.parts
