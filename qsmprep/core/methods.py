"""The one register of methods (see :mod:`qsmprep.core.registry`). The first of a step is its default."""

from __future__ import annotations

from qsmprep.core import parameters as p
from qsmprep.core.registry import Method, Registry

METHODS = Registry(
    (
        Method(
            "unwrap",
            "romeo",
            "ROMEO-weighted path following",
            "qsmprep.core.unwrap.romeo:unwrap",
            p.RomeoParams,
            "Phase was unwrapped along the path of highest quality with the weights of ROMEO",
            ("dymerska2021",),
        ),
        Method(
            "unwrap",
            "laplacian",
            "Laplacian",
            "qsmprep.core.unwrap.laplacian:unwrap",
            p.LaplacianUnwrapParams,
            "Phase was unwrapped with the Laplacian method",
            ("schofield2003",),
        ),
        Method(
            "unwrap",
            "bestpath",
            "best path",
            "qsmprep.core.unwrap.bestpath:unwrap",
            p.BestPathParams,
            "Phase was unwrapped with the best-path algorithm of scikit-image",
            ("abdulrahman2007", "vanderwalt2014"),
        ),
        Method(
            "combine",
            "nonlinear",
            "nonlinear complex fit",
            "qsmprep.core.fieldmap:nonlinear",
            p.NonlinearParams,
            "The field was fitted to the complex signal of all echoes",
            ("liu2013",),
        ),
        Method(
            "combine",
            "weighted",
            "weighted average",
            "qsmprep.core.fieldmap:weighted",
            p.WeightedParams,
            "Echoes were combined by an average weighted with the phase signal-to-noise ratio",
            ("wu2012b",),
        ),
        Method(
            "background",
            "resharp",
            "RESHARP",
            "qsmprep.core.background.resharp:resharp",
            p.ResharpParams,
            "Background fields were removed with RESHARP (radius {radius_mm:g} mm, Tikhonov weight {tikhonov:g})",
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
            "Background fields were removed by projection onto dipole fields",
            ("liu2011",),
        ),
        Method(
            "inversion",
            "tv",
            "TV",
            "qsmprep.core.inversion.tv:tv",
            p.TvParams,
            "Susceptibility was computed with total-variation regularisation by ADMM (weight {weight:g})",
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
            "Susceptibility was computed in closed form with a quadratic gradient penalty (weight {weight:g})",
            ("bilgic2014",),
        ),
        Method(
            "inversion",
            "ilsqr",
            "iLSQR",
            "qsmprep.core.inversion.ilsqr:ilsqr",
            p.IlsqrParams,
            "Susceptibility was computed with iLSQR ({max_iter} iterations)",
            ("li2015",),
        ),
        Method(
            "inversion",
            "medi",
            "MEDI",
            "qsmprep.core.inversion.medi:medi",
            p.MediParams,
            "Susceptibility was computed with morphology-enabled dipole inversion (weight {weight:g})",
            ("liu2012", "liu2013"),
        ),
    )
)
