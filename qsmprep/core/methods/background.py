"""Methods of background field removal, and for what it leaves. The first of a step is its default."""

from __future__ import annotations

from qsmprep.core import parameters as p
from qsmprep.core.registry import Method

METHODS = (
    Method(
        "background",
        "tfi",
        "TFI",
        "qsmprep.core.background.tfi:tfi",
        p.TfiParams,
        "The field of sources inside the mask was told from that of sources outside by total field inversion "
        "(total-variation weight {weight:g} mm, of which the steepest edges kept {edge_weight:g}) after the Laplacian "
        "boundary value problem had been solved",
        ("liu2017", "zhou2014", "candes2008"),
    ),
    Method(
        "background",
        "resharp",
        "RESHARP",
        "qsmprep.core.background.resharp:resharp",
        p.ResharpParams,
        "Background fields were removed with RESHARP (radii {radius_mm:g} to {radius_max_mm:g} mm, "
        "Tikhonov weight {tikhonov:g})",
        ("sun2014",),
    ),
    Method(
        "background",
        "vsharp",
        "V-SHARP",
        "qsmprep.core.background.vsharp:vsharp",
        p.VSharpParams,
        "Background fields were removed with V-SHARP (radii {radius_max_mm:g} to {radius_min_mm:g} mm, "
        "threshold {threshold:g})",
        ("schweser2011", "wu2012"),
    ),
    Method(
        "background",
        "pdf",
        "PDF",
        "qsmprep.core.background.pdf:pdf",
        p.PdfParams,
        "Background fields were removed by projection onto dipole fields (Tikhonov weight {tikhonov:g})",
        ("liu2011",),
    ),
    Method(
        "background",
        "ismv",
        "iSMV",
        "qsmprep.core.background.ismv:ismv",
        p.IsmvParams,
        "Background fields were removed with the iterated spherical mean value (radius {radius_mm:g} mm)",
        ("wen2014",),
    ),
    Method(
        "background",
        "lbv",
        "LBV",
        "qsmprep.core.background.lbv:lbv",
        p.LbvParams,
        "Background fields were removed by solving the Laplacian boundary value problem",
        ("zhou2014",),
    ),
    Method(
        "background",
        "sharp",
        "SHARP",
        "qsmprep.core.background.sharp:sharp",
        p.SharpParams,
        "Background fields were removed with SHARP (radius {radius_mm:g} mm, threshold {threshold:g})",
        ("schweser2011",),
    ),
    Method(
        "remainder",
        "weakharmonic",
        "weak-harmonic separation",
        "qsmprep.core.inversion.whqsm:without_remainder",
        p.WhqsmParams,
        "What background removal had left was found together with a map by weak-harmonic regularisation (total "
        "variation {weight}, of which the steepest edges kept {edge_weight:g}; harmonic field {beta:g} mm^4, "
        "part of it that was taken off: {taken}); misfits above {outliers:g} robust deviations were limited to that",
        ("milovic2019", "candes2008"),
    ),
    Method(
        "remainder",
        "keep",
        "field as it is",
        "qsmprep.core.inversion.whqsm:with_remainder",
        p.KeepParams,
        "What background removal had left stayed in the field",
    ),
)
