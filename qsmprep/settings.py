"""One frozen description of a run, resolved once and passed down explicitly."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsmprep.core.methods import METHODS
from qsmprep.core.parameters.inversion import TAKEN_AFTER_TFI, WhqsmParams
from qsmprep.core.registry import Method
from qsmprep.errors import UsageError

STEPS = ("mask", "artefacts", "offset", "unwrap", "combine", "quality", "relaxometry", "swi", "background")
"""Steps before the inversion that have one method each; their names are fields of :class:`Settings`."""

SEPARATING = "whqsm"
"""The inversion that finds the same as the step ``remainder`` does by default."""

UNIT_GB = {"": 1e-3, "m": 1e-3, "mb": 1e-3, "g": 1.0, "gb": 1.0, "t": 1e3, "tb": 1e3}


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on.

    Paths are absolute. Method names are those of :data:`qsmprep.core.methods.METHODS`; their
    parameters that differ from the defaults stand in ``parameters`` as
    ``{method: {parameter: value}}``.
    """

    bids_dir: Path
    out_dir: Path
    analysis_level: str
    work_dir: Path
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    acquisitions: tuple[str, ...] = ()
    bids_filters: dict[str, dict[str, Any]] = field(default_factory=dict)
    skip_bids_validation: bool = False
    derivatives: tuple[Path, ...] = ()
    level: str = "full"
    mask: str = METHODS.names("mask")[0]
    artefacts: str = METHODS.names("artefacts")[0]
    offset: str = METHODS.names("offset")[0]
    unwrap: str = METHODS.names("unwrap")[0]
    combine: str = METHODS.names("combine")[0]
    quality: str = METHODS.names("quality")[0]
    relaxometry: str = METHODS.names("relaxometry")[0]
    swi: str = METHODS.names("swi")[0]
    with_swi: bool | None = None
    background: str = METHODS.names("background")[0]
    remainder: str = METHODS.names("remainder")[0]
    inversions: tuple[str, ...] = (METHODS.names("inversion")[0],)
    reference: str = METHODS.names("reference")[0]
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    segmentation: str = "auto"
    atlas: tuple[Path, ...] = ()
    template_maps: bool = False
    coregistration: str = METHODS.names("coregistration")[0]
    roi: str = METHODS.names("roi")[0]
    formula: str = ""
    roi_statistic: str = "mean"
    b0_t: float | None = None
    phase_sign: int = 1
    device: str = "auto"
    nprocs: int = 1
    omp_nthreads: int = 1
    mem_gb: float = 4.0
    use_plugin: Path | None = None
    stop_on_first_crash: bool = False
    reports_only: bool = False
    boilerplate_only: bool = False
    write_graph: bool = False
    random_seed: int = 0
    verbose: int = 0

    def __post_init__(self) -> None:
        METHODS.get("remainder", self.remainder)  # a slip is told even where no inversion needs it
        for step, name in self.chosen():
            self.params(step, name)
        known = {method.name for method in METHODS}
        chosen = {name for _, name in self.chosen()}
        for name, given in self.parameters.items():
            if name not in known:
                raise UsageError(f"no method is called {name!r}", expected=f"one of {', '.join(sorted(known))}")
            if name == "bet" and self.mask == "auto":
                raise UsageError(
                    "`bet` alone does not run: the mask is `auto`",
                    remedy="add --mask bet, or say --param auto.fraction=…",
                )
            if name not in chosen:  # a slip is told even where the method does not run
                _check_any([method for method in METHODS if method.name == name], given)

    def chosen(self) -> list[tuple[str, str]]:
        """Step and name of every chosen method, in the order in which they run."""
        before = [(step, str(getattr(self, step))) for step in STEPS]
        left = [("remainder", self.remainder)] if self.treats_remainder else []
        after = [("reference", self.reference), ("roi", self.roi)]
        made = ("nuclei", "unetr") if self.segmentation == "unetr" else ("segmentation", "atlas")
        after += [("coregistration", self.coregistration), made]
        if self.sees_t1w:
            after.append(("sighting", "t1wunetr"))
        if self.template_maps and made[0] == "nuclei":
            after.append(("segmentation", "atlas"))
        return [*before, *left, *(("inversion", name) for name in self.inversions), *after]

    def params(self, step: str, name: str) -> Any:
        """The resolved parameters of a method."""
        params = METHODS.get(step, name).configure(self.parameters.get(name))
        if isinstance(params, WhqsmParams):  # the fields of a run come from phase, by background removal
            little = step == "remainder" and self.background == "tfi"
            taken = params.taken or (TAKEN_AFTER_TFI if little else 1.0)
            return dataclasses.replace(params, harmonic="yes", taken=taken)
        return params

    @property
    def idle_parameters(self) -> tuple[str, ...]:
        """Methods that do not run, though parameters of theirs were given."""
        chosen = {name for _, name in self.chosen()}
        return tuple(name for name in self.parameters if name not in chosen)

    @property
    def treats_remainder(self) -> bool:
        """Whether any inversion takes the local field without looking for what background removal left in it."""
        return any(METHODS.get("inversion", name).takes == "local" for name in self.inversions)

    @property
    def remainder_from(self) -> str:
        """The node that finds for them what background removal left: that inversion where it is wanted with the same
        parameters, else a step of its own; empty where nothing is taken off."""
        if not self.treats_remainder or self.remainder == "keep":
            return ""
        same = self.params("remainder", self.remainder) == self.params("inversion", SEPARATING)  # the part taken, too
        return f"invert_{SEPARATING}" if same and SEPARATING in self.inversions else "remainder"

    @property
    def sees_t1w(self) -> bool:
        """Whether a network helps to bring the atlas to the head: the embedded one only, whose structures it knows."""
        return self.segmentation in ("atlas", "first") and not self.atlas  # FIRST's remedy without a T1w image

    @property
    def makes_swi(self) -> bool:
        """Whether susceptibility-weighted images are wanted: as said, else at the full level."""
        return self.level == "full" if self.with_swi is None else self.with_swi

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON types, with every parameter of every chosen method resolved."""
        result = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        result["parameters"] = {name: dataclasses.asdict(self.params(step, name)) for step, name in self.chosen()}
        return result

    def to_json(self) -> str:
        """The same as text, sorted; a later run takes it with ``--config-file``."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


NOT_FROM_CONFIG = frozenset({"bids_dir", "out_dir", "analysis_level", "work_dir", "reports_only", "boilerplate_only"})
"""Settings that a configuration file never restores: they belong to one call."""


def _check_any(methods: list[Method], given: dict[str, Any]) -> None:
    """Refuse parameters that no method takes, of those that share a name."""
    for method in methods[:-1]:
        with suppress(UsageError):
            method.configure(given)
            return
    methods[-1].configure(given)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def parse_memory_gb(text: str) -> float:
    """Gigabytes from ``16G``, ``1.5GB``, ``16000MB`` or a bare number, which is in MB as in the NiPreps.

    Raises
    ------
    UsageError
        When the text is not an amount of memory.
    """
    stripped = text.strip().lower()
    number = stripped.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = stripped[len(number) :].strip()
    try:
        amount = float(number) * UNIT_GB[unit]
    except (ValueError, KeyError):
        raise UsageError(f"`--mem` is {text!r}", expected="an amount such as 16G, 1.5GB or 16000 (MB)") from None
    if not amount > 0:
        raise UsageError(f"`--mem` is {text!r}", expected="a positive amount of memory")
    return amount


def usable_cpus() -> int:
    """CPUs that this process may use: the affinity mask and SLURM's allocation, not the machine's."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allotted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(cpus, int(allotted)) if allotted.isdigit() else cpus)


def _slurm(name: str) -> int:
    """A number from SLURM's environment; 0 where it says nothing."""
    text = os.environ.get(f"SLURM_{name}", "")
    return int(text) if text.isdigit() else 0


def _slurm_cpus() -> int:
    """CPUs of the job on this node, each of which has its share of memory."""
    return _slurm("CPUS_ON_NODE") or _slurm("CPUS_PER_TASK") or usable_cpus()


def usable_memory_gb() -> float:
    """Memory that this process may use, in GB: SLURM's and the cgroup's limit, else 90 % of what is available."""
    limits = [
        amount for amount in (_slurm("MEM_PER_NODE") / 1e3, _slurm_cpus() * _slurm("MEM_PER_CPU") / 1e3) if amount
    ]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 50:
            limits.append(0.9 * int(text) / 1e9)
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        meminfo = Path("/proc/meminfo")
        if meminfo.exists():
            for line in meminfo.read_text().splitlines():
                if line.startswith("MemAvailable:"):
                    pages = int(line.split()[1]) * 1024
        limits.append(0.9 * pages / 1e9)
    except (OSError, ValueError):
        limits.append(4.0)
    return max(0.5, min(limits))
