__all__ = [
    "Flossing",
    "History",
    "Learner",
    "Member",
    "Omega",
    "Record",
    "TrainSpec",
    "advance",
    "begin",
    "blanked",
    "ends",
    "left",
    "make_train",
    "observe",
    "solved_at",
]

from .ending import ends as ends
from .ending import left as left
from .learner import Learner as Learner
from .learner import advance as advance
from .learner import begin as begin
from .record import Record as Record
from .record import blanked as blanked
from .record import observe as observe
from .spec import Flossing as Flossing
from .spec import Member as Member
from .spec import Omega as Omega
from .spec import TrainSpec as TrainSpec
from .train import History as History
from .train import make_train as make_train
from .train import solved_at as solved_at
