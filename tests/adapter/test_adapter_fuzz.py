"""Adapters spoilt at random are refused with AdapterError or load to exactly the tensors in their files.

Never another exception, a hang or a changed model. 10,000 of them, with a count at the end:

    make test-all ARGS="tests/adapter/test_adapter_fuzz.py -s"
"""

import copy
import hashlib
import json
import os
import shutil
import time
from collections import Counter

import numpy as np
import pytest
import torch
from guard_cases import attach_as_trained
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from adapters import BOTH, FILES, TENSORS, join, split
from safety_modules.adapter.format import lora_files, tensor_file
from safety_modules.attach.adapters import fit_adapter
from safety_modules.backbones.bases import LORA_PREFIX
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.defences.meta_token import MetaTokenSettings
from safety_modules.errors import AdapterError

CONFIG_FILE = FILES[0]
SECONDS = 60  # far more than any example takes, far less than a hang

numbers = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([2**31, 2**53, 2**63 - 1, 2**63, 10**400, -(2**63)]),
    st.floats(),
    st.booleans(),
)
words = st.one_of(
    st.sampled_from(
        [
            "",
            "F16",
            "F32",
            "float32",
            "LORA",
            "guard",
            "lora",
            "language_model",
            "../x",
            "/etc/passwd",
            "\x00",
            "\x1b[2J",
            "\ud800",
            "__metadata__",
        ]
    ),
    st.text(max_size=8),
)
values = st.recursive(
    st.one_of(st.none(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)


def places(value, path=()):
    """Every place in a JSON value, from the top down."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def mutate_json(draw, value):
    """One change: another value, a key or item removed, one added, or a whole branch copied elsewhere."""
    value = copy.deepcopy(value)
    *outer, last = draw(st.sampled_from([path for path in places(value) if path]))
    parent = value
    for key in outer:
        parent = parent[key]
    how = draw(st.sampled_from(["replace", "nudge", "remove", "add", "copy"]))
    if how == "replace":
        parent[last] = draw(values)
    elif how == "nudge":
        old = parent[last]
        near = {int: lambda: old + draw(st.sampled_from([-1, 1, 2**40])), str: lambda: old + draw(words)}
        parent[last] = near.get(type(old), lambda: [old])()
    elif how == "remove":
        del parent[last]
    elif isinstance(parent, dict):
        parent[draw(words)] = copy.deepcopy(parent[last]) if how == "copy" else draw(values)
    else:
        parent.append(copy.deepcopy(parent[last]) if how == "copy" else draw(values))
    return value


def dump(draw, value):
    """As JSON text; now and then with a key said twice."""
    text = json.dumps(value, indent=draw(st.sampled_from([None, 2])))
    if isinstance(value, dict) and value and draw(st.integers(0, 9)) == 0:
        key = draw(st.sampled_from(sorted(value)))
        text = text.rstrip()[:-1] + f", {json.dumps(key)}: {json.dumps(value[key])}}}"
    return text.encode("utf-8", "surrogatepass")


def mutate_bytes(draw, data):
    start = draw(st.integers(0, len(data)))
    end = min(len(data), start + draw(st.sampled_from([0, 1, 2, 8, 100])))
    how = draw(st.sampled_from(["put", "cut", "twice", "shorten", "anything"]))
    if how == "put":
        return data[:start] + draw(st.binary(max_size=8)) + data[end:]
    if how == "cut":
        return data[:start] + data[end:]
    if how == "twice":
        return data[:end] + data[start:]
    return data[:start] if how == "shorten" else draw(st.binary(max_size=64))


@st.composite
def spoilt(draw, valid):
    """An adapter's files after one to three changes; a value that is no bytes is a kind of file."""
    files = dict(valid)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(valid)))
        how = draw(st.sampled_from(["json", "json", "json", "bytes", "numbers", "file"]))
        data = files[name]
        if how == "file":
            files[name] = draw(st.sampled_from([None, "folder", "pipe", "link", "other"]))
        elif isinstance(data, bytes):
            try:
                if how == "bytes":
                    files[name] = mutate_bytes(draw, data)
                elif name in TENSORS:
                    header, body = split(data)
                    if how == "numbers":
                        place = draw(st.integers(0, max(0, len(body) // 2 - 1))) * 2
                        body = body[:place] + draw(st.binary(min_size=2, max_size=2)) + body[place + 2 :]
                    files[name] = join(dump(draw, header if how == "numbers" else mutate_json(draw, header)), body)
                else:
                    files[name] = dump(draw, mutate_json(draw, json.loads(data)))
            except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
                files[name] = mutate_bytes(draw, data)  # spoilt too much already for a cleverer change
    if draw(st.booleans()):
        fix_digests(files)
    return files


def fix_digests(files):
    """As an attacker would."""
    try:
        record = json.loads(files[CONFIG_FILE])
        for name in TENSORS:
            if isinstance(files.get(name), bytes) and name in record["files"]:
                record["files"][name] = hashlib.sha256(files[name]).hexdigest()
        files[CONFIG_FILE] = json.dumps(record).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # the config itself is spoilt


def write(files, folder):
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            path.write_bytes(data)
        elif data == "folder":
            path.mkdir()
        elif data == "pipe":
            os.mkfifo(path)
        elif data == "link":
            path.symlink_to(folder.parent / "valid" / name)
        elif data == "other":
            path.write_bytes((folder.parent / "valid" / CONFIG_FILE).read_bytes())


def stored(data, prefix=""):
    """The float16 tensors of a file, read by nothing that is under test: bits by name."""
    header, body = split(data)
    return {
        name.removeprefix(prefix): np.frombuffer(body[slice(*entry["data_offsets"])], np.int16).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def bits(tensors):
    return {name: tensor.detach().half().view(torch.int16).numpy() for name, tensor in tensors.items()}


class Range:
    """A live attachment that strangers' adapters are thrown at."""

    def __init__(self, model, processor, folder, two_parts):
        design = LoraSettings(r=1, target_modules=("q_proj",))
        config = SafetyConfig(width=8, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=design)
        inner = [MetaTokenSettings(tokens=1, hidden=0.1, lora=design)] if two_parts else []
        self.safety = attach_as_trained(model, processor, config=config, defence=["guard", *inner])
        for defence in self.safety.defences:
            defence.trained = True
        self.safety.thresholds = dict.fromkeys(config.taxonomy.types, 0.5)
        self.model, self.folder = model, folder / "stranger"
        valid = self.safety.save_pretrained(folder / "valid")
        self.valid = {name: (valid / name).read_bytes() for name in (BOTH if two_parts else FILES)}
        self.before = self.state()
        self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.seen = Counter()

    def state(self):
        """Changes if a module, parameter or flag of the model is replaced or written to."""
        modules = [(name, type(part), part.training) for name, part in self.model.named_modules()]
        parameters = [(id(p), p._version, p.requires_grad) for p in self.model.parameters()]
        return modules, parameters, self.safety.adapters, set(vars(self.model))

    def throw(self, files):
        write(files, self.folder)
        started = time.monotonic()
        try:
            fitted = fit_adapter(self.safety.backbone, self.folder)
        except AdapterError as error:
            self.seen["refused"] += 1
            assert error.problems and all(problem.isprintable() for problem in error.problems)
        else:
            self.seen["loaded"] += 1
            said = json.loads((self.folder / CONFIG_FILE).read_bytes())["parts"]
            assert [part["kind"] for part in said] == [one.kind for one in fitted]
            for one in fitted:
                self.compare(one.modules, files.get(tensor_file(one.kind)), "")
                self.compare(one.lora, files.get(lora_files(one.kind)[1]), LORA_PREFIX)
        assert time.monotonic() - started < SECONDS
        assert self.state() == self.before

    def compare(self, owner, file, prefix):
        mine, theirs = bits(owner.state_dict()) if owner else {}, stored(file, prefix) if owner else {}
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)

    def close(self):
        """The model's weights are still those it had."""
        state = self.model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in self.weights.items())
        assert self.seen["refused"] and self.seen["loaded"]


def fuzz(range_, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(spoilt(range_.valid))
    def throw(files):
        range_.throw(files)

    throw()
    # Few of the random ones load, and by chance none of two hundred: this one does, for its metadata say nothing.
    record = json.loads(range_.valid[CONFIG_FILE]) | {"metadata": {"x": [1, "\u202e"]}}
    range_.throw({**range_.valid, CONFIG_FILE: json.dumps(record).encode()})
    range_.close()
    print(f"\n{sum(range_.seen.values())} spoilt adapters: {dict(range_.seen)}")


@pytest.fixture(params=["one part", "two parts"])
def strangers(model, processor, tmp_path, request):
    return Range(model, processor, tmp_path, two_parts=request.param == "two parts")


def test_the_unspoilt_adapter_loads(strangers):
    strangers.throw(strangers.valid)
    assert strangers.seen == {"loaded": 1}


def test_spoilt_adapters_are_refused_or_load_to_what_they_hold(strangers):
    fuzz(strangers, 100)


@pytest.mark.slow
def test_ten_thousand_spoilt_adapters_are_refused_or_load_to_what_they_hold(strangers):
    fuzz(strangers, 10_000)
