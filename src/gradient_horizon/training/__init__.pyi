__all__ = [
    "Flossing",
    "History",
    "Learner",
    "Member",
    "Omega",
    "TrainSpec",
    "TrainingRecord",
    "blanked",
    "ends",
    "make_advance",
    "make_init",
    "make_record",
    "make_train",
    "remaining",
    "solved_at",
]

from .ending import ends as ends
from .ending import remaining as remaining
from .learner import Learner as Learner
from .learner import make_advance as make_advance
from .learner import make_init as make_init
from .record import TrainingRecord as TrainingRecord
from .record import blanked as blanked
from .record import make_record as make_record
from .spec import Flossing as Flossing
from .spec import Member as Member
from .spec import Omega as Omega
from .spec import TrainSpec as TrainSpec
from .train import History as History
from .train import make_train as make_train
from .train import solved_at as solved_at
