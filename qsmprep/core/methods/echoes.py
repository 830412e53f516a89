"""Methods of phase and echoes. The first of a step is its default."""

from __future__ import annotations

from qsmprep.core import parameters as p
from qsmprep.core.registry import Method

METHODS = (
    Method(
        "artefacts",
        "artefacts",
        "correction of scanner artefacts",
        "qsmprep.core.artefacts:correct_phase",
        p.ArtefactParams,
        "Signs that alternate between slices (search: {slices}) and phase between odd and even echoes of bipolar "
        "readouts (search: {bipolar}) were corrected where they were found",
        ("li2015magma",),
    ),
    Method(
        "offset",
        "mcpc3ds",
        "MCPC-3D-S",
        "qsmprep.core.offset:remove_offset",
        p.OffsetParams,
        "The phase offset was removed with MCPC-3D-S (smoothing {sigma_mm:g} mm)",
        ("eckstein2018",),
    ),
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
        "robust",
        "robust complex fit",
        "qsmprep.core.fieldmap:robust",
        p.RobustParams,
        "The field was fitted to the phase of all echoes, with less weight on echoes that disagree with earlier ones",
        ("holland1977",),
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
        "relaxometry",
        "nlls",
        "nonlinear least squares",
        "qsmprep.core.relaxometry:fit_r2star",
        p.R2StarParams,
        "R2* was fitted to the magnitude of all echoes by nonlinear least squares",
    ),
    Method(
        "relaxometry",
        "arlo",
        "ARLO",
        "qsmprep.core.relaxometry:arlo",
        p.ArloParams,
        "R2* was computed with auto-regression on linear operations (ARLO)",
        ("pei2015",),
    ),
    Method(
        "relaxometry",
        "loglinear",
        "weighted log-linear",
        "qsmprep.core.relaxometry:log_linear",
        p.LogLinearParams,
        "R2* was computed by a weighted line fit to the logarithm of the magnitude",
    ),
    Method(
        "swi",
        "clearswi",
        "CLEAR-SWI",
        "qsmprep.core.swi:clearswi",
        p.ClearSwiParams,
        "Susceptibility-weighted images and their minimum-intensity projection over {minip_mm:g} mm were computed "
        "after CLEAR-SWI (high-pass {highpass_mm:g} mm, turn {turn:g})",
        ("eckstein2021",),
    ),
)
