"""Training, evaluation and prediction: the loop that joins data, models, labels and `bilevel`."""

from .._provenance import versions
from .config import TrainConfig
from .corpus import Corpus, as_in_run, cluster_images, load_corpus
from .detector import Detector, choose_role, load_detector
from .evaluation import evaluate, probability_maps
from .image_files import find_images
from .pack_cache import packed
from .prediction import Predictions, PredictOptions, predict_images
from .run_folder import RunFolder, read_lines
from .runtime import choose_device, tune_allocator
from .state_file import load_state, save_state
from .tiling import Tiling
from .trainer import Trainer

__all__ = [
    "Corpus",
    "Detector",
    "PredictOptions",
    "Predictions",
    "RunFolder",
    "Tiling",
    "TrainConfig",
    "Trainer",
    "as_in_run",
    "choose_device",
    "choose_role",
    "cluster_images",
    "evaluate",
    "find_images",
    "load_corpus",
    "load_detector",
    "load_state",
    "packed",
    "predict_images",
    "probability_maps",
    "read_lines",
    "save_state",
    "tune_allocator",
    "versions",
]
