"""Point-cloud classification and segmentation with external attention, at linear cost.

Names are imported on first use, so ``import ea_pointcloud`` itself takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ea_pointcloud.datasets import collate as collate
    from ea_pointcloud.inference import Predictor as Predictor
    from ea_pointcloud.io import Cloud as Cloud
    from ea_pointcloud.io import CloudFileError as CloudFileError
    from ea_pointcloud.io import read_cloud as read_cloud
    from ea_pointcloud.io import write_cloud as write_cloud
    from ea_pointcloud.io import write_mesh as write_mesh
    from ea_pointcloud.models import EAClassifier as EAClassifier
    from ea_pointcloud.models import EASegmenter as EASegmenter
    from ea_pointcloud.models import create_model as create_model
    from ea_pointcloud.models import list_models as list_models
    from ea_pointcloud.models import list_pretrained as list_pretrained
    from ea_pointcloud.training.api import evaluate as evaluate
    from ea_pointcloud.training.api import train as train

__version__ = "0.1.0"

_HOME = {
    "Cloud": "io",
    "CloudFileError": "io",
    "EAClassifier": "models",
    "EASegmenter": "models",
    "Predictor": "inference",
    "collate": "datasets",
    "create_model": "models",
    "evaluate": "training.api",
    "list_models": "models",
    "list_pretrained": "models",
    "read_cloud": "io",
    "train": "training.api",
    "write_cloud": "io",
    "write_mesh": "io",
}
_MODULES = (
    "augment", "datasets", "inference", "io", "metrics", "models", "nn", "ops", "robustness",
    "training", "viz",
)  # fmt: skip

__all__ = [*_HOME, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _MODULES:
        return import_module(f"ea_pointcloud.{name}")
    if name in _HOME:
        return getattr(import_module(f"ea_pointcloud.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ea_pointcloud' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
