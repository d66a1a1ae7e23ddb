"""A new classifier is one file and one line: done here on a copy of the package, as CONTRIBUTING says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import safety_modules

HEAD = """
import torch
from torch import nn

from safety_modules.policy.scores import HeadOutput


class MeanHead(nn.Module):
    needs_question = False
    reads = "turns"

    def __init__(self, width, text_width, num_types, num_levels, attention_heads):
        super().__init__()
        self.types, self.level = nn.Linear(width, num_types + 1), nn.Linear(width, num_levels)
        self.num_types = num_types

    def forward(self, features, tokens, question=None, question_mask=None):
        mean = features.mean(1)  # (B, D_s)
        batch, patches, _ = features.shape
        even = features.new_full((batch, self.num_types, patches), 1 / patches)
        return HeadOutput(self.types(mean), self.level(mean), even)
"""

USE = """
import sys
from pathlib import Path

from PIL import Image

from safety_modules import SafetyConfig, attach_safety, pocket
from safety_modules.adapter import read_adapter

model, processor = pocket.load()
safety = attach_safety(model, processor, config=SafetyConfig(query="mean"))
safety.trained = True
folder = safety.save_pretrained(Path(sys.argv[1]))
safety.detach()
again = attach_safety(model, processor, folder)
(verdict,) = again.classify([Image.new("RGB", (64, 64))])
print(type(again.modules.head).__name__, again.config.query, len(verdict.probabilities))
"""


def test_a_new_head_is_one_file_and_one_line(tmp_path: Path) -> None:
    package = Path(safety_modules.__file__).parent
    copy = tmp_path / "safety_modules"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for data in ("checkpoints", "adapters", "training", "pyproject.toml"):
        (tmp_path / data).symlink_to(package.parent / data)
    (copy / "defences" / "guard" / "mean.py").write_text(HEAD)
    config = copy / "config.py"
    text, line = config.read_text(), '    "concept": "concept:ConceptHead",\n'
    assert text.count(line) == 1
    config.write_text(text.replace(line, line + '    "mean": "mean:MeanHead",\n'))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "adapter")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["MeanHead", "mean", "7"]
