"""Methods of referencing and dipole inversion. The first of a step is its default."""

from __future__ import annotations

from qsmprep.core import parameters as p
from qsmprep.core.registry import Method

METHODS = (
    Method(
        "reference",
        "wholebrain",
        "whole brain",
        "qsmprep.core.reference:wholebrain",
        p.ReferenceParams,
        "Susceptibility was referenced to its mean over the part of the brain in which it is defined",
    ),
    Method(
        "reference",
        "none",
        "no reference",
        "qsmprep.core.reference:none",
        p.ReferenceParams,
        "Susceptibility was not referenced",
    ),
    Method(
        "inversion",
        "tv",
        "TV",
        "qsmprep.core.inversion.tv:tv",
        p.TvParams,
        "Susceptibility was computed with total-variation regularisation by ADMM (weight {weight:g} ppm mm)",
        ("bilgic2014",),
    ),
    Method(
        "inversion",
        "tkd",
        "TKD",
        "qsmprep.core.inversion.tkd:tkd",
        p.TkdParams,
        "Susceptibility was computed by thresholded k-space division (threshold {threshold:g})",
        ("shmueli2009",),
    ),
    Method(
        "inversion",
        "l2",
        "closed-form L2",
        "qsmprep.core.inversion.l2:l2",
        p.L2Params,
        "Susceptibility was computed in closed form with a quadratic gradient penalty (weight {weight:g} mm^2)",
        ("bilgic2014b",),
    ),
    Method(
        "inversion",
        "rts",
        "RTS",
        "qsmprep.core.inversion.rts:rts",
        p.RtsParams,
        "Susceptibility was computed by rapid two-step inversion (threshold {threshold:g}, weight {weight:g} ppm mm)",
        ("kames2018",),
    ),
    Method(
        "inversion",
        "ilsqr",
        "iLSQR",
        "qsmprep.core.inversion.ilsqr:ilsqr",
        p.IlsqrParams,
        "Susceptibility was computed with iLSQR ({max_iter} iterations, streaks below a kernel magnitude of {cone:g})",
        ("li2015",),
    ),
    Method(
        "inversion",
        "medi",
        "MEDI",
        "qsmprep.core.inversion.medi:medi",
        p.MediParams,
        "Susceptibility was computed with nonlinear morphology-enabled dipole inversion (weight {weight:g} ppm mm)",
        ("liu2012", "liu2013"),
    ),
)
