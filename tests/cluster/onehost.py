"""A real SLURM on this one machine: munged, slurmctld and slurmd, started in a folder of their own.

Nothing of the machine's own configuration is read or changed: keys, sockets, ports, spool and logs are those of the
folder, and the three daemons are ended by their process ids.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

CONF = """\
ClusterName=onehost
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
JobRequeue=1
KillWait=20
MinJobAge=600
ReturnToService=2
SchedulerParameters=sched_interval=5,bf_interval=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN
PartitionName=main Nodes=node1 Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why SLURM cannot be started here; empty when it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{SBIN}") is None]
    if missing:
        return f"no {', '.join(missing)} here: install Debian's slurm-wlm and munge"
    if os.geteuid() != 0:
        return "slurmd must be started by root"
    return ""


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OneHost:
    """The three daemons; a context that ends them.

    Parameters
    ----------
    folder : Path
        Empty, for everything they keep.
    cpus, memory_mb : int
        What the one node says it has.
    """

    def __init__(self, folder: Path, cpus: int = 2, memory_mb: int = 16000) -> None:
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)
        values = {"host": socket.gethostname(), "folder": folder, "cpus": cpus, "memory_mb": memory_mb}
        (folder / "slurm.conf").write_text(CONF.format(**values, ctld_port=free_port(), slurmd_port=free_port()))
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SQUEUE"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{SBIN}",
        }

    def __enter__(self) -> OneHost:
        where = self.folder
        try:
            munge = [f"--{name}={where}/munge.{ending}" for name, ending in MUNGE_FILES.items()]
            self._start(["munged", "--foreground", "--force", *munge])
            self._wait(lambda: (where / "munge.socket").exists(), "munged opens its socket")
            self._start(["slurmctld", "-D", "-c", "-f", f"{where}/slurm.conf"])
            self._start(["slurmd", "-D", "-c", "-f", f"{where}/slurm.conf"])
            self._wait(self._node_is_idle, "the node is idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, command: list[str]) -> None:
        program = shutil.which(command[0], path=self.environment["PATH"])
        with (self.folder / f"{command[0]}.out").open("wb") as out:
            self.daemons.append(
                subprocess.Popen(
                    [str(program), *command[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                )
            )

    def _wait(self, ready: object, what: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if any(daemon.poll() is not None for daemon in self.daemons):
                break
            if ready():  # type: ignore[operator]
                return
            time.sleep(0.2)
        logs = "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}"
            for log in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        )
        raise AssertionError(f"not within {seconds:g} s: {what}\n{logs}")

    def _node_is_idle(self) -> bool:
        return self.run("sinfo", "--noheader", "--format=%t", check=False).strip() == "idle"

    def run(self, *command: str, check: bool = True) -> str:
        """What a program of SLURM's prints."""
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """End all jobs and the daemons, the last one started first."""
        if len(self.daemons) > 2:
            self.run("scancel", "--quiet", "--user=root", check=False)
            end = time.monotonic() + 30
            while self.run("squeue", "--noheader", check=False).strip() and time.monotonic() < end:
                time.sleep(0.5)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()


MUNGE_FILES = {
    "key-file": "key",
    "socket": "socket",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}
