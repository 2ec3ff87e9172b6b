"""Which of Hydra's launchers a sweep may use: what is installed, and nothing that names other code."""

import importlib.util
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradient_horizon.rules import SettingError


@dataclass(frozen=True)
class Launcher:
    """A plugin: its module and class, and the extra that installs it."""

    module: str
    name: str
    extra: str

    @property
    def target(self) -> str:
        """What the plugin's own settings name."""
        return f"hydra_plugins.{self.module}.{self.name}"


JOBLIB = Launcher("hydra_joblib_launcher.joblib_launcher", "JoblibLauncher", "joblib")
SLURM = Launcher("hydra_submitit_launcher.submitit_launcher", "SlurmLauncher", "slurm")
RAY = Launcher("hydra_ray_launcher.ray_launcher", "RayLauncher", "ray")
NAMES = {"joblib": JOBLIB, "slurm": SLURM, "submitit_slurm": SLURM, "ray": RAY}


def check_name(name: Any) -> None:
    """Raise `SettingError` where there is no such launcher, or it is not installed."""
    if name == "basic":
        return
    if name not in NAMES:
        raise SettingError("hydra/launcher", name, f"basic (this process), {', '.join(NAMES)}")
    launcher = NAMES[name]
    if importlib.util.find_spec("hydra_plugins") is None or not _is_installed(launcher):
        raise SettingError(
            "hydra/launcher", name, f"what is installed (pip install gradient-horizon[{launcher.extra}])"
        )


def _is_installed(launcher: Launcher) -> bool:
    return importlib.util.find_spec(f"hydra_plugins.{launcher.module.partition('.')[0]}") is not None


def checked(settings: DictConfig) -> dict[str, Any] | None:
    """The settings of a launcher other than this process, or None; `SettingError` where they name code."""
    try:
        plain = OmegaConf.to_container(settings, resolve=True)
    except OmegaConfBaseException as error:
        raise SettingError("hydra.launcher", error.full_key, because=str(error).splitlines()[0]) from None
    assert isinstance(plain, dict)
    target = plain.get("_target_")
    if target == ConfigStore.instance().load("hydra/launcher/basic.yaml").node["_target_"]:
        return None
    if target not in [launcher.target for launcher in NAMES.values()]:
        raise SettingError("hydra.launcher", target, f"basic, {', '.join(NAMES)}")
    if str(plain).count("_target_") > 1:
        raise SettingError("hydra.launcher", "_target_", "settings that name no code")
    return {str(key): value for key, value in plain.items()}
