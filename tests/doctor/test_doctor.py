"""The doctor finds nothing on a base that is well, names what is broken, and leaves nothing behind."""

import copy
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from guard_cases import attach_as_trained
from real_llava import IMAGE, load_processor, save_processor, small_model
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from safety_modules.attach import SafetyAttachment, attach_safety, detach_safety
from safety_modules.backbones.base import is_guarded
from safety_modules.cli import app
from safety_modules.config import LoraSettings, SafetyConfig, ViewsSettings
from safety_modules.defences.lora_tuning import LoraTuningSettings
from safety_modules.defences.registry import KINDS
from safety_modules.doctor import examine as examination
from safety_modules.doctor import guarded
from safety_modules.doctor.check import Failed, NotApplicable, look
from safety_modules.doctor.cost import stage_1
from safety_modules.doctor.examine import checks, examine, print_findings
from safety_modules.doctor.subject import Snapshot, Subject
from safety_modules.errors import ConfigError
from safety_modules.records import Record

INST = (
    "{% for m in messages %}[INST] {% for c in m['content'] if c['type']=='image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type']=='text' %}{{ c['text'] }}{% endfor %} [/INST]{% endfor %}"
)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return load_processor(tmp_path_factory.mktemp("processor"), image_size=56)


@pytest.fixture(scope="module")
def well():
    """Do not break this one: take `base`."""
    return small_model()


@pytest.fixture
def base(well):
    return copy.deepcopy(well)


@pytest.fixture
def quick(monkeypatch):
    """Without what takes long and does not depend on what is broken here."""
    slow = ("time_and_memory", "stage_1", "stage_2", "round_trip", "toggles")
    monkeypatch.setattr(examination, "LOOKS", [one for one in examination.LOOKS if one.__name__ not in slow])
    monkeypatch.setattr(guarded, "KINDS", {})


def results(record):
    return {one["name"]: one["result"] for one in record["checks"]}


def failures(record):
    return {one["name"]: one for one in record["checks"] if one["result"] == "failed"}


@pytest.mark.matrix
def test_a_base_that_is_well_passes_every_check_and_is_as_before(base, processor, make_image):
    Subject(base, processor).base_answer()  # transformers adds hooks of its own at the first call
    before = Snapshot(base)
    records = [Record(image=make_image(1), question="why?", answer=None, type="clean", level="safe")]
    record = examine(Subject(base, processor, records=records))
    assert failures(record) == {}
    assert [name for name, result in results(record).items() if result == "not applicable"] == ["adapter"]
    assert record["passed"] == len(record["checks"]) - 1 == len([*checks()]) and record["versions"]["transformers"]
    assert {f"defence_{kind}" for kind in KINDS} < set(results(record))
    assert json.loads(json.dumps(record)) == record
    assert not is_guarded(base)
    assert Snapshot(base).changed(before) == []


@pytest.mark.slow
def test_pocket_and_its_adapter_are_well(tmp_path):
    told = ["doctor", "llava-pocket", "--adapter", "llava-pocket-safe", "--json", str(tmp_path / "found.json")]
    done = CliRunner().invoke(app, told, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "0 failed" in done.output
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["failed"] == 0 and results(record)["adapter"] == "passed"


def test_right_padding_is_named_with_the_next_step(quick, base, processor, capsys):
    broken = copy.copy(processor)
    broken.tokenizer = copy.deepcopy(processor.tokenizer)
    broken.tokenizer.padding_side = "right"
    record = examine(Subject(base, broken))
    (found,) = failures(record).values()
    assert found["name"] == "left_padding"
    assert found["expected"] == "padding_side 'left'" and found["got"] == "'right'"
    print_findings(record)
    shown = "".join(capsys.readouterr().out.split())
    assert "Setprocessor.tokenizer.padding_side='left'" in shown and "1failed" in shown


def test_another_chat_template_is_named_and_every_place_it_costs(quick, base, processor):
    broken = copy.copy(processor)
    broken.chat_template = INST
    found = failures(examine(Subject(base, broken)))
    steered = {"risky", "detach", "mixed_batch", "tower_runs_once"}
    assert {"chat_template", "hint", "question"} <= set(found) <= {"chat_template", "hint", "question", *steered}
    assert "USER: <image> ... ASSISTANT:" in found["chat_template"]["expected"]
    assert "[INST]" in found["chat_template"]["got"] and "own checkpoint" in found["chat_template"]["next_step"]
    assert "no place for the safe hint" in found["hint"]["got"]


def test_a_tokenizer_without_the_image_token_is_named_and_hides_no_other_check(quick, base, processor):
    spec = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    spec["added_tokens"] = [one for one in spec["added_tokens"] if one["content"] not in ("<image>", "<pad>")]
    broken = copy.copy(processor)
    broken.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="</s>", padding_side="left",
    )  # fmt: skip
    record = examine(Subject(base, broken))
    found = failures(record)
    assert found["image_token"]["expected"] == f"'<image>' with id {IMAGE}" and found["image_token"]["got"] == "id 0"
    assert "AutoProcessor" in found["image_token"]["next_step"]
    assert set(found) <= {"supported", "image_token", "image_tokens"}
    assert results(record)["finite_weights"] == "passed" == results(record)["left_padding"]
    blocked = [one["seen"] for one in record["checks"] if one["result"] == "not applicable"]
    assert "needs supported, which failed" in blocked


def test_a_tower_that_is_run_twice_is_named(quick, base, processor):
    tower = base.model.vision_tower

    def twice(*args, **kwargs):
        type(tower).forward(tower, *args, **kwargs)
        return type(tower).forward(tower, *args, **kwargs)

    tower.forward = twice
    (found,) = failures(examine(Subject(base, processor))).values()
    assert found["name"] == "tower_runs_once" and found["expected"] == "1 run a call"
    assert "2 in base calls" in found["got"] and "Take off" in found["next_step"]


def test_an_adapter_that_judges_by_views_is_examined_as_one(base, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(guarded, "KINDS", {})
    safety = attach_as_trained(base, processor, config=SafetyConfig(views=ViewsSettings(count=2)))
    adapter = safety.save_pretrained(tmp_path / "voting")
    safety.detach()
    record = examine(Subject(base, processor, adapter=adapter))
    assert not failures(record)
    seen = {one["name"]: one["seen"] for one in record["checks"]}
    assert seen["tower_runs_once"] == "1 a call, and 2 views"


def test_weights_that_are_no_numbers_are_named_and_nothing_else_is_blamed(quick, base, processor):
    with torch.no_grad():
        base.model.language_model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    found = failures(examine(Subject(base, processor)))
    assert "layers.1.mlp.up_proj.weight" in found["finite_weights"]["got"]
    assert set(found) == {"finite_weights", "base_answers"}


def test_an_adapter_of_another_base_is_named_once(quick, base, processor, tmp_path):
    other = copy.deepcopy(base)
    with torch.no_grad():
        other.model.multi_modal_projector.linear_1.weight.mul_(2)
    design = SafetyConfig(lora=LoraSettings(r=2))
    folder = attach_as_trained(other, processor, config=design).save_pretrained(tmp_path / "adapter")
    record = examine(Subject(base, processor, adapter=folder))
    (found,) = failures(record).values()
    assert (
        found["name"] == "adapter"
        and "digest" in found["got"]
        and "Load the base it was made for" in found["next_step"]
    )
    assert results(record)["hint"] == "passed"
    assert {one["seen"] for one in record["checks"] if one["name"] in ("off", "risky")} == {
        "needs adapter, which failed"
    }


def test_an_adapter_without_a_guard_is_checked_as_far_as_it_goes(quick, base, processor, tmp_path):
    one = LoraTuningSettings(lora=LoraSettings(r=2))
    folder = attach_as_trained_defence(base, processor, one).save_pretrained(tmp_path / "adapter")
    detach_safety(base)
    record = examine(Subject(base, processor, adapter=folder))
    assert failures(record) == {}
    assert {one["seen"] for one in record["checks"] if one["name"] in ("off", "gradients", "sizes")} == {
        "the adapter has no guard"
    }


def test_a_training_that_does_not_fit_the_device_is_named(well, monkeypatch):
    subject = SimpleNamespace(
        model=SimpleNamespace(dtype=torch.float32, device=torch.device("cuda"), config=well.config),
        quantize=None,
        with_guard=lambda: nullcontext(SimpleNamespace(guard=SimpleNamespace(config=SafetyConfig()))),
    )
    for memory, result in ((10**6, "failed"), (10**12, "passed")):
        there = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device, there=there: there)
        found = look(stage_1, subject, "stage_1", "It fits.")
        assert found.result == result, found
        assert result == "passed" or (found.expected == "at most 0.0 GB" and "batch_size" in found.next_step)


def attach_as_trained_defence(model, processor, settings):
    attachment = attach_safety(model, processor, defence=settings)
    for one in attachment.defences:
        one.trained = True
    return attachment


def test_a_guard_that_leaves_something_on_the_model_is_found(quick, base, processor, monkeypatch):
    detach = SafetyAttachment.detach

    def forgetful(self):
        detach(self)
        with torch.no_grad():
            base.lm_head.weight[0, 0] += 1

    monkeypatch.setattr(SafetyAttachment, "detach", forgetful)
    found = failures(examine(Subject(base, processor)))
    assert {"detach", "nothing_left"} <= set(found)
    assert "numbers of lm_head.weight" in found["detach"]["got"]


def test_a_guard_that_changes_clean_answers_is_found(quick, base, processor, monkeypatch):
    generate = SafetyAttachment._generate

    def other(self, **kwargs):
        output = generate(self, **kwargs)
        output.sequences[:, -1] += 1
        return output

    monkeypatch.setattr(SafetyAttachment, "_generate", other)
    found = failures(examine(Subject(base, processor)))
    assert {"off", "clean", "mixed_batch"} <= set(found) and "1 tensors" in found["clean"]["got"]


def raising(error):
    def check(_subject):
        """It holds."""
        raise error

    return check


def test_whatever_a_check_raises_is_its_finding():
    found = look(raising(RuntimeError("odd")), None, "name", "It holds.")
    assert (found.result, found.got) == ("failed", "RuntimeError: odd") and "report it" in found.next_step
    found = look(raising(ConfigError("no: expected a, got b.")), None, "name", "It holds.")
    assert (found.result, found.got) == ("failed", "no: expected a, got b.")
    found = look(raising(Failed("a", "b", "Do c.")), None, "name", "It holds.")
    assert (found.expected, found.got, found.next_step) == ("a", "b", "Do c.")
    found = look(raising(NotApplicable("none here")), None, "name", "It holds.")
    assert (found.result, found.seen) == ("not applicable", "none here")
    assert look(lambda _: "3 of 3", None, "name", "It holds.").seen == "3 of 3"


def test_every_check_has_a_name_of_its_own_and_says_what_it_expects():
    names = [name for name, _, _ in checks()]
    assert len(set(names)) == len(names)
    assert all(about.strip().endswith(".") for _, about, _ in checks())


def test_the_exit_code_is_for_ci(quick, well, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder, file = tmp_path / "base", tmp_path / "found.json"
    save_processor(folder, image_size=56)
    well.save_pretrained(folder)
    done = CliRunner().invoke(app, ["doctor", str(folder), "--json", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(file.read_text())["failed"] == 0
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "right"}))
    done = CliRunner().invoke(app, ["doctor", str(folder)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "expected padding_side 'left', got 'right'" in done.stdout and "1 failed" in done.stdout
    with pytest.raises(ConfigError, match="Name another, or --overwrite"):
        CliRunner().invoke(app, ["doctor", str(folder), "--json", str(file)], catch_exceptions=False)
