"""A SLURM of one node, on loopback alone, that lives in a folder of the tests.

It is installed where that can be done (as root, with apt-get), since no SLURM can be had otherwise.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gradient_horizon.ensembles import devices

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "munged")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
JobRequeue=1
KillWait=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=2000 State=UNKNOWN
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _path() -> str:
    return f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"


def _missing() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _install() -> None:
    if not _missing():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"no SLURM here ({', '.join(_missing())}), and only root can install one with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        ran = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            pytest.skip(f"SLURM cannot be installed: {ran.stderr.strip().splitlines()[-1:]}")


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two:
        for place in (one, two):
            place.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


@contextmanager
def one_node(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """`environment`, in which `sbatch` and its kin speak to a cluster of this machine alone."""
    _install()
    if os.geteuid() != 0:
        pytest.skip("the daemons of SLURM have to be started by root")
    host = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    ports = _free_ports()
    configuration.write_text(CONFIGURATION.format(host=host, folder=folder, cores=devices.cpu_count(), ports=ports))
    environment = {**environment, "PATH": _path(), "SLURM_CONF": str(configuration)}
    (folder / "munge").mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    ours = [f"--{name}-file={folder / 'munge' / name}" for name in ("key", "pid", "log", "seed")]
    ours.append(f"--socket={folder / 'munge' / 'socket'}")
    configuration.write_text(configuration.read_text() + f"AuthInfo=socket={folder / 'munge' / 'socket'}\n")
    (folder / "munge").chmod(0o755)
    try:
        for command in (["munged", "--force", *ours], ["slurmctld", "-c"], ["slurmd", "-c"]):
            subprocess.run(command, env=environment, check=True, capture_output=True)
        asked = ["sinfo", "--noheader", "--format=%t"]
        end = time.monotonic() + 30
        while (told := subprocess.run(asked, env=environment, capture_output=True, text=True)).stdout.strip() != "idle":
            assert time.monotonic() < end, f"the node does not become idle: {told.stdout} {told.stderr}"
            time.sleep(0.2)
        yield environment
    finally:
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            if (folder / name).exists():
                os.kill(int((folder / name).read_text()), 15)
