__all__ = [
    "Sample",
    "Task",
    "error_of",
    "loss_of",
    "make_task",
]

from .make import make_task as make_task
from .score import error_of as error_of
from .score import loss_of as loss_of
from .task import Sample as Sample
from .task import Task as Task
