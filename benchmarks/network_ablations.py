"""What the papers of the networks claim, each as a paired comparison over the heads of ``networks.py``.

The weights are those of the recipes ``*_ablation``, exported into one folder under the names of `VARIANTS`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from network_heads import Scan
from network_methods import Settings, Trial, learned
from numpy.typing import NDArray

if TYPE_CHECKING:
    from networks import Bench


@dataclass(frozen=True)
class Variant:
    """One line of the table: title, weight file, settings."""

    title: str
    name: str
    settings: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Claim:
    """Something said of two variants: the first should have the lower error."""

    text: str
    first: str
    second: str


LOOPS = tuple(Variant(f"LoopNet, {n} pass{'es' * (n > 1)}", "loopnet", (("iterations", n),)) for n in (1, 2, 3, 4))
VARIANTS = (
    *LOOPS,
    Variant("LoopNet without GHPA", "loopnet-noattention"),
    Variant("U-Net", "unet"),
    Variant("LoopNet", "loopnet"),
    Variant("Meta-QSM", "metaqsm"),
    Variant("Mesa-QSM (0.76 × 0.76 × 3 mm)", "mesaqsm"),
    Variant("Mesa-QSM (0.5 × 0.5 × 2 mm)", "mesaqsm-fine"),
    Variant("QSMInvNet+", "qsminvnet", (("domain", "target"),)),
    Variant("QSMInvNet+, first domain", "qsminvnet", (("domain", "synthetic"),)),
    Variant("QSMInvNet+, statistics of the subject", "qsminvnet", (("domain", "target"), ("adapt", "statistics"))),
    Variant("QSMInvNet", "qsminvnet1"),
)
CLAIMS = (
    Claim("LoopNet beats the plain U-Net", "LoopNet", "U-Net"),
    *(
        Claim(f"LoopNet gains by pass {n}", f"LoopNet, {n} passes", f"LoopNet, {n - 1} pass{'es' * (n > 2)}")
        for n in (2, 3, 4)
    ),
    Claim("GHPA helps", "LoopNet", "LoopNet without GHPA"),
    *(
        Claim(f"Meta-QSM against Mesa-QSM of {voxel}", "Meta-QSM", f"Mesa-QSM ({voxel})")
        for voxel in ("0.76 × 0.76 × 3 mm", "0.5 × 0.5 × 2 mm")
    ),
    Claim("QSMInvNet+ beats QSMInvNet", "QSMInvNet+", "QSMInvNet"),
)

Errors = dict[str, dict[str, NDArray[np.float64]]]
"""NRMSE over heads, by variant and scan."""


def section(bench: Bench, scans: Sequence[Scan], folder: Path | None) -> str:
    """The table of all variants whose weights are there, and the claims that can be judged."""
    trials: dict[str, Trial] = {}
    missing = []
    for variant in VARIANTS:
        settings: Settings = dict(variant.settings)
        trial = learned(variant.name, folder, settings, variant.title)
        if isinstance(trial, Trial):
            trials[variant.title] = trial
        else:
            missing.append(f"{variant.title} ({trial})")
    errors: Errors = {title: {} for title in trials}
    for scan in scans:
        rows = {title: [] for title in trials}  # type: dict[str, list[float]]
        for name in bench.names:
            for title, trial in trials.items():
                rows[title].append(bench.row(name, scan, trial)["NRMSE %"])
            print(f"{scan.name}: {name} done", file=sys.stderr, flush=True)
        for title, values in rows.items():
            errors[title][scan.name] = np.array(values)
    return told(errors, [scan.name for scan in scans], missing)


def told(errors: Errors, scans: Sequence[str], missing: Sequence[str]) -> str:
    """Table and claims as Markdown."""
    parts = []
    if errors:
        lines = ["| NRMSE % | " + " | ".join(scans) + " |", "|" + " --- |" * (len(scans) + 1)]
        for title, by_scan in errors.items():
            lines.append(f"| {title} | " + " | ".join(_spread(by_scan[scan]) for scan in scans) + " |")
        parts.append("\n".join(lines))
    judged = [judge(claim, errors, scans) for claim in CLAIMS]
    parts.append("\n".join(line for line in judged if line) or "No claim can be judged.")
    if missing:
        parts.append("Not measured, for want of weights:\n\n" + "\n".join(f"- {one}" for one in missing))
    return "\n\n".join(parts)


def judge(claim: Claim, errors: Errors, scans: Sequence[str]) -> str:
    """The paired difference in NRMSE points on every scan, mean ± standard deviation over heads; '' without weights."""
    if claim.first not in errors or claim.second not in errors:
        return ""
    parts = []
    for scan in scans:
        first, second = errors[claim.first][scan], errors[claim.second][scan]
        better = int(np.count_nonzero(first < second))
        percent = 100 * (first.mean() / second.mean() - 1)
        parts.append(
            f"{scan}: {_spread(first - second, sign=True)} ({percent:+.0f} %; lower on {better} of {len(first)})"
        )
    return f"- {claim.text} ({claim.first} less {claim.second}, points of NRMSE). " + "; ".join(parts) + "."


def _spread(values: NDArray[np.float64], sign: bool = False) -> str:
    mean = f"{values.mean():+.1f}" if sign else f"{values.mean():.1f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std(ddof=1):.1f}"
