"""Where the numbers of training go: console, JSON lines, TensorBoard, or one's own sink."""

from ._log_to import LogTo, Sink, scalars
from .console import Console
from .jsonl import JsonLines
from .tensorboard import TensorBoard

__all__ = ["Console", "JsonLines", "LogTo", "Sink", "TensorBoard", "scalars"]
