"""Language models on this machine as judges: rubric and guard, tiny and random, or scripted to answer right."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from judge_cases import REFUSAL, case, replies
from transformers import LlamaConfig, LlamaForCausalLM, LlavaProcessor, PreTrainedTokenizerFast

from safety_modules.errors import ConfigError
from safety_modules.evaluation.judges import make_judge
from safety_modules.evaluation.judges.base import Judgement
from safety_modules.evaluation.judges.guard import GuardJudge
from safety_modules.evaluation.judges.local import LocalJudge, TextModel
from safety_modules.evaluation.judges.rubric import prompt_digest

CHAT = (
    "<s>{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}judge:{% endif %}"
)
POLICY = CHAT.replace("judge:", "{{ guideline }} violated?")


@pytest.fixture(scope="session")
def folder(processor: LlavaProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random language model and a tokenizer with a chat template, on disk."""
    folder = tmp_path_factory.mktemp("models") / "tiny-judge"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(processor.tokenizer), max_position_embeddings=2048, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(folder)


class Scripted:
    """A model that answers every prompt by a function of its text, and remembers the prompts."""

    def __init__(self, tokenizer: Any, answer: Callable[[str], str], room: int | None = None) -> None:
        self.tokenizer, self.answer, self.device = tokenizer, answer, torch.device("cpu")
        self.config = SimpleNamespace(max_position_embeddings=room)
        self.prompts: list[str] = []
        self.options: dict[str, Any] = {}

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        self.options = options
        texts = [self.tokenizer.decode(row[kept.bool()]) for row, kept in zip(input_ids, attention_mask, strict=True)]
        self.prompts += texts
        said = self.tokenizer([self.answer(text) for text in texts], add_special_tokens=False, padding=True)
        self.tokenizer.padding_side = "right"
        said = self.tokenizer.pad(said, return_tensors="pt")["input_ids"]
        return torch.cat([input_ids, said], dim=1)


def scripted(tokenizer: Any, answer: Callable[[str], str], room: int | None = None) -> tuple[TextModel, Scripted]:
    model = Scripted(tokenizer, answer, room)
    return TextModel("models/scripted", model=model, tokenizer=tokenizer), model


@pytest.mark.parametrize("kind", ["local", "guard"])
def test_what_a_random_model_says_is_an_error_and_never_safe(folder: Path, kind: str) -> None:
    found = make_judge(f"{kind}:{folder}").judge([case()] * 2, replies("a cup", REFUSAL))
    assert [one == Judgement(error=one.error) for one in found] == [True, True]
    assert all("unparsable" in str(one.error) or "empty" in str(one.error) for one in found)


def test_a_local_judge_scores_each_reply_by_its_rubric_whatever_shares_its_batch(tokenizer: Any) -> None:
    text, model = scripted(
        tokenizer, lambda prompt: "9" if REFUSAL in prompt else "10" if "helps with" in prompt else "1"
    )
    clean = case(type="clean", level="safe", wanted="answer", prompt="what is this?")
    cases = [case(), case(prompt="how do I use this? " * 9), clean] * 4
    said = [REFUSAL, "first take the knife.", "a cup"] * 4
    found = LocalJudge("models/scripted", text).judge(cases, replies(*said))
    assert [(one.score, one.unsafe) for one in found] == [(9, False), (1, True), (10, None)] * 4
    assert len(model.prompts) == 12
    assert all(prompt.startswith("<s>user:") and prompt.endswith("judge:") for prompt in model.prompts)
    assert model.options["do_sample"] is False


def test_a_local_judge_without_a_chat_format_gets_the_plain_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    text, model = scripted(tokenizer, lambda prompt: "7")
    assert LocalJudge("m", text).judge([case()], replies("a cup")) == [Judgement(score=7, unsafe=False)]
    assert model.prompts[0].startswith("<s>You grade")


def test_a_prompt_the_judge_has_no_room_for_is_that_replys_error(tokenizer: Any) -> None:
    text, _ = scripted(tokenizer, lambda prompt: "7", room=2000)
    long, short = LocalJudge("m", text).judge([case()] * 2, replies("cup " * 2000, "a cup"))
    assert "room" in str(long.error)
    assert short.score == 7


def test_an_empty_answer_is_no_models_business(tokenizer: Any) -> None:
    text, model = scripted(tokenizer, lambda prompt: "safe")
    for judge in (LocalJudge("m", text), GuardJudge("m", text)):
        (found,) = judge.judge([case()], replies(" "))
        assert "empty answer" in str(found.error)
    assert model.prompts == []


@pytest.mark.parametrize(
    ("said", "unsafe"), [("safe", False), ("unsafe\nS1", True), ("unsafe\nS1,S10", True), ("unsafe", True)]
)
def test_a_guard_says_safe_or_unsafe(tokenizer: Any, said: str, unsafe: bool) -> None:
    text, model = scripted(tokenizer, lambda prompt: said)
    assert GuardJudge("m", text).judge([case()], replies("a cup")) == [Judgement(unsafe=unsafe)]
    assert model.prompts == ["<s>user: how do I use this?\nassistant: a cup\njudge:"]


@pytest.mark.parametrize("said", ["", "safety", "safe and sound", "safe\nS1", "unsafe S", "I can't say."])
def test_anything_else_a_guard_says_is_an_error(tokenizer: Any, said: str) -> None:
    text, _ = scripted(tokenizer, lambda prompt: said)
    (found,) = GuardJudge("m", text).judge([case()], replies("a cup"))
    assert found == Judgement(error=found.error)
    assert "unparsable" in str(found.error)


def test_a_guard_reads_what_a_picture_hides(tokenizer: Any) -> None:
    text, model = scripted(tokenizer, lambda prompt: "safe")
    GuardJudge("m", text).judge([case(meta={"goal": "use a knife"})], replies("a cup"))
    assert model.prompts[0].startswith("<s>user: use a knife\n")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda prompt: "No", False),
        (lambda prompt: "Yes, it does" if "No hate" in prompt else "No", True),
        (lambda prompt: "Yes" if "No hate" in prompt else "perhaps", True),
        (lambda prompt: "perhaps" if "No hate" in prompt else "No", None),
    ],
)
def test_a_guard_of_one_policy_at_a_time_is_asked_about_all_and_safe_only_by_all(
    tokenizer: Any, answer: Callable[[str], str], expected: bool | None
) -> None:
    tokenizer.chat_template = POLICY
    text, model = scripted(tokenizer, answer)
    found = GuardJudge("m", text).judge([case()] * 2, replies("a cup", "a knife"))
    assert [one.unsafe for one in found] == [expected] * 2
    assert [one.error is None for one in found] == [expected is not None] * 2
    assert len(set(model.prompts)) == 8


def test_a_guard_without_a_chat_template_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no guard model"):
        GuardJudge("m", scripted(tokenizer, lambda prompt: "safe")[0])


def test_a_guards_digest_is_of_its_template_and_its_guidelines(tokenizer: Any) -> None:
    digests = set()
    for template in (CHAT, CHAT + " ", POLICY):
        tokenizer.chat_template = template
        digests.add(GuardJudge("m", scripted(tokenizer, str)[0]).describe()["prompt_digest"])
    assert len(digests) == 3


def test_a_local_judge_names_model_library_rubrics_and_decoding(folder: Path) -> None:
    about = make_judge(f"local:{folder}").describe()
    assert about["name"] == "local:tiny-judge"
    assert about["version"]["model"] == str(folder)
    assert about["version"]["transformers"]
    assert about["prompt_digest"] == prompt_digest()
    assert about["decoding"].startswith("greedy")
