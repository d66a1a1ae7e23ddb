"""The scripts that built the embedded base import each other as siblings, as when one of them is run."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "checkpoints" / "llava-pocket" / "build"))
