"""Every file in `attacks/` is laid over valid adapters, which are then refused in the words the file names.

The adapters: a guard as version 4 said it, a guard, a guard with meta tokens inside of it (the only one for part-*).

An attack is YAML: `about` what a naive reader would do, `refusal` words of the expected problem, `file` which of
the adapter's files is spoilt, and one way to do it:
    replace: [old, new]   in the text of a JSON file, or of a tensor file's header
    text: ...             the whole content (`repeat: n` says it n times)
    base64: ...           the same as bytes
    link: target          a symlink there
The digests in the config are made to match, as an attacker would make them.
"""

import base64
from pathlib import Path

import pytest
import yaml

from adapters import BOTH, TENSORS, as_version, make_meta, problems_of, replace, save

ATTACKS = sorted((Path(__file__).parent / "attacks").glob("*.yaml"))


def lay(attack, folder):
    """Spoil the adapter in this folder."""
    path = folder / attack["file"]
    if "link" in attack:
        path.unlink()
        path.symlink_to(attack["link"])
        return
    if "replace" in attack:
        old, new = (text.encode() for text in attack["replace"])
        data = path.read_bytes()
        assert data.count(old), f"{old!r} is not in {attack['file']}: the attack is out of date"
        if attack["file"] in TENSORS:
            length = int.from_bytes(data[:8], "little")
            header = data[8 : 8 + length].replace(old, new, 1)
            data = len(header).to_bytes(8, "little") + header + data[8 + length :]
        else:
            data = data.replace(old, new, 1)
    elif "text" in attack:
        data = attack["text"].encode() * attack.get("repeat", 1)
    else:
        data = base64.b64decode(attack["base64"], validate=True)
    if attack["file"] in TENSORS:
        replace(folder, data, attack["file"])
    else:
        path.write_bytes(data)


ADAPTERS = {
    "version 4": lambda path: as_version(save(path), 4),
    "one part": save,
    "two parts": lambda path: save(path, inner=[make_meta()]),
}


@pytest.mark.parametrize(
    ("path", "adapter"),
    [
        pytest.param(path, adapter, id=f"{path.stem}-{adapter}")
        for path in ATTACKS
        for adapter in (["two parts"] if path.stem.startswith("part") else ADAPTERS)
    ],
)
def test_an_attack_is_refused_in_the_words_it_names(path, adapter, tmp_path):
    attack = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert attack["file"] in BOTH and path.stat().st_size < 4000
    folder = ADAPTERS[adapter](tmp_path / "adapter")
    refusal = attack["refusal"]
    if adapter != "version 4":
        refusal = refusal.replace("safety.lora", "guard.design.lora")
    lay(attack, folder)
    problems = problems_of(folder)
    assert any(refusal in problem for problem in problems), problems


def test_there_are_attacks_on_every_file():
    assert {yaml.safe_load(path.read_text(encoding="utf-8"))["file"] for path in ATTACKS} == set(BOTH)
