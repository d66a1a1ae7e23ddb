"""Training: feature cache, losses, one loop for both stages, calibration.

The public names are imported on first use.
"""

from typing import TYPE_CHECKING

from safety_modules.io.lazy import lazy_exports

if TYPE_CHECKING:
    from safety_modules.training.calibration import Calibration, calibrate
    from safety_modules.training.features import FeatureStore, cache_features
    from safety_modules.training.predictions import verdict_probabilities
    from safety_modules.training.recipe import Recipe
    from safety_modules.training.train import train_safety

__all__ = [
    "Calibration",
    "FeatureStore",
    "Recipe",
    "cache_features",
    "calibrate",
    "train_safety",
    "verdict_probabilities",
]

_HOMES = {
    "Calibration": "calibration",
    "FeatureStore": "features",
    "Recipe": "recipe",
    "cache_features": "features",
    "calibrate": "calibration",
    "train_safety": "train",
    "verdict_probabilities": "predictions",
}

__getattr__, __dir__ = lazy_exports(globals(), _HOMES)
