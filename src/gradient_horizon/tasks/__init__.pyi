__all__ = [
    "Sample",
    "Task",
    "error_of",
    "loss_of",
    "make_task",
]

from .loss import error_of as error_of
from .loss import loss_of as loss_of
from .make import make_task as make_task
from .task import Sample as Sample
from .task import Task as Task
