"""What ``networks.py`` compares: how each method is run, tuned and measured, and how results are kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import commit, keep_rows, read_rows
from network_heads import FINE_MM, RECIPE, Volume
from network_scans import RAD_PER_PPM, Case
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.methods import METHODS
from qsmprep.core.metrics import evaluate, linear_fit
from qsmprep.core.parameters import ConeNetParams, LoopNetParams, MetaQSMParams, PedQNetParams, QSMInvNetParams
from qsmprep.errors import QSMPrepError
from qsmprep.networks.card import read_card
from qsmprep.networks.inference import invert

Row = dict[str, Any]
Settings = dict[str, Any]


def grid_of(**values: tuple[float, ...]) -> tuple[Settings, ...]:
    """Every combination of values, as settings."""
    found: list[Settings] = [{}]
    for name, choices in values.items():
        found = [{**one, name: value} for one in found for value in choices]
    return tuple(found)


GRIDS: dict[str, tuple[Settings, ...]] = {
    "tkd": grid_of(threshold=(0.1, 0.15, 0.2, 0.25, 0.3)),
    "l2": grid_of(weight=(0.003, 0.01, 0.02, 0.03, 0.06)),
    "rts": grid_of(weight=(1e-3, 2e-3, 4e-3, 6e-3)),
    "tv": grid_of(weight=(1e-4, 2e-4, 4e-4, 6e-4, 8e-4)),
    "ilsqr": grid_of(cone=(0.1, 0.15, 0.2, 0.3, 0.4), max_iter=(10, 15)),
    "medi": grid_of(weight=(2e-4, 4e-4, 8e-4), edge_fraction=(0.15, 0.3)),
}
"""Classical methods, and what is tried of each on the tuning head of a scan; the lowest NRMSE wins."""

LEARNED = ("conenet", "loopnet", "metaqsm", "qsminvnet", "pedqnet", "unet")
"""Networks of the main tables."""

TITLES = {
    "tkd": "TKD",
    "l2": "L2",
    "rts": "RTS",
    "tv": "TV",
    "ilsqr": "iLSQR",
    "medi": "MEDI (sees the magnitude)",
}
PARAMS = {
    "conenet": ConeNetParams,
    "loopnet": LoopNetParams,
    "unet": LoopNetParams,
    "metaqsm": MetaQSMParams,
    "mesaqsm": MetaQSMParams,
    "qsminvnet": QSMInvNetParams,
    "qsminvnet1": QSMInvNetParams,
    "pedqnet": PedQNetParams,
    "nnunet": PedQNetParams,
}
"""Run-time parameters by architecture."""

METRICS = {"nrmse": "NRMSE %", "dnrmse": "dNRMSE %", "xsim": "XSIM", "hfen": "HFEN %", "psnr_db": "pSNR dB"}
"""Metrics of ``core.metrics.evaluate`` and their columns."""

MIN_NUCLEUS_MM3 = 30.0
"""Smaller parts of nuclei, cut by the edge of the block, are left out of the slope."""


@dataclass(frozen=True)
class Trial:
    """A method with its settings.

    Parameters
    ----------
    method : str
        Name of a classical inversion, or of weight files.
    title : str
        In tables.
    settings : dict
        What differs from the defaults.
    folder : Path, optional
        Of the weight files; default: the shipped ones.
    network : str
        Architecture; empty for classical methods.
    code : str
        SHA-256 sum of the weights.
    """

    method: str
    title: str
    settings: Settings = field(default_factory=dict)
    folder: Path | None = None
    network: str = ""
    code: str = ""

    def run(self, case: Case) -> Volume:
        """The map in ppm."""
        inputs = (case.field_ppm, case.mask, case.grid)
        extra = {"weights": case.weights, "magnitude": case.magnitude, "rad_per_ppm": RAD_PER_PPM}
        if self.network:
            params = PARAMS[self.network](weights=str(self.folder or ""), **self.settings)
            return invert(self.method, *inputs, params, **extra).chi_ppm
        method = METHODS.get("inversion", self.method)
        params = dataclasses.replace(method.configure(), **self.settings)
        result: Volume = method.load()(*inputs, params, **extra).chi_ppm
        return result


def classical(name: str, settings: Settings | None = None) -> Trial:
    """A classical method."""
    return Trial(name, TITLES[name], settings or {})


def learned(name: str, folder: Path | None, settings: Settings | None = None, title: str = "") -> Trial | str:
    """A network, or the reason why it cannot be measured."""
    try:
        card = read_card(name, folder)
    except QSMPrepError as problem:
        return f"{name}: {problem}".splitlines()[0]
    if card.network not in PARAMS:
        return f"{name}: no parameters are known for the architecture {card.network}"
    return Trial(name, title or card.title, settings or {}, folder, card.network, card.sha256)


def measure(case: Case, trial: Trial) -> Row:
    """Run a method on a case and compare with the truth."""
    start = time.perf_counter()
    chi = trial.run(case)
    seconds = time.perf_counter() - start
    return {**scores(chi, case), "seconds": seconds}


def scores(chi_ppm: Volume, case: Case) -> Row:
    """All measures of a map; map and truth have mean zero in the mask first, which the field does not tell."""
    mask = case.mask
    chi, truth = (np.where(mask, v - v[mask].mean(dtype=np.float64), 0) for v in (chi_ppm, case.chi_ppm))
    values = evaluate(chi, truth, mask)
    row = {title: float(values[name]) for name, title in METRICS.items()}
    return {**row, "slope": grey_slope(chi, truth, case), **lesion_error(chi, truth, case)}


def grey_slope(chi: NDArray[np.floating], truth: NDArray[np.floating], case: Case) -> float:
    """Slope of the mean over each deep grey nucleus against the true mean."""
    least = MIN_NUCLEUS_MM3 / case.grid.voxel_volume_mm3
    counts = np.bincount(case.nuclei.ravel())
    present = [i for i in range(1, len(counts)) if counts[i] >= least]
    if len(present) < 2:
        return float("nan")
    x, t = (np.array(ndimage.mean(v, case.nuclei, present)) for v in (chi, truth))
    return linear_fit(x, t, np.ones(len(present), dtype=bool))[0]


def lesion_error(chi: NDArray[np.floating], truth: NDArray[np.floating], case: Case) -> Row:
    """Relative error of the moment of each lesion, in percent; no entry where there is none.

    The moment is the sum over the lesion and 1.5 mm around it, less the median of the shell from
    2 to 5 mm.
    """
    errors = []
    for index in range(1, int(case.lesions.max()) + 1):
        lesion = case.lesions == index
        if not lesion.any():
            continue
        away = ndimage.distance_transform_edt(~lesion, sampling=case.grid.voxel_mm)
        near, shell = (away <= 1.5) & case.mask, (away > 2) & (away < 5) & case.mask
        found, true = (float((v[near] - np.median(v[shell])).sum()) for v in (chi, truth))
        errors.append(100 * abs(found - true) / abs(true))
    return {"lesion %": float(np.mean(errors))} if errors else {}


class Results:
    """Rows kept in a JSON-lines file, so that what was measured is not measured again.

    Parameters
    ----------
    folder : Path
        Of the file.
    block_mm : tuple
        Part of what a row is of.
    """

    def __init__(self, folder: Path, block_mm: Iterable[float]) -> None:
        self.folder = folder
        self.about = [RECIPE, FINE_MM, *block_mm]
        self.rows: dict[str, Row] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for row in read_rows(self.path):
            self.rows[row.pop("key")] = row

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "results.jsonl"

    def key(self, head: str, scan: str, trial: Trial) -> str:
        """What a row is of."""
        parts = [*self.about, head, scan, trial.method, sorted(trial.settings.items()), trial.code]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]

    def get(self, head: str, scan: str, trial: Trial, case: Callable[[], Case]) -> Row:
        """The row of a method on a case, measured when it is not there yet."""
        key = self.key(head, scan, trial)
        if key not in self.rows:
            about = {"head": head, "scan": scan, "method": trial.method, "settings": trial.settings}
            row = {**about, **measure(case(), trial), "commit": commit()}
            self.rows[key] = row
            keep_rows([{"key": key, **row}], self.path)
        return {**self.rows[key], "title": trial.title}


def tuned(name: str, scan: str, results: Results, case: Callable[[], Case], head: str) -> Trial:
    """The best settings of a classical method on the tuning head."""
    trials = [classical(name, settings) for settings in GRIDS[name]]
    rows = [results.get(head, scan, trial, case) for trial in trials]
    return min(zip(trials, rows, strict=True), key=lambda pair: pair[1]["NRMSE %"])[0]
