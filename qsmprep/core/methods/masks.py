"""Methods of masks. The first of a step is its default."""

from __future__ import annotations

from qsmprep.core import parameters as p
from qsmprep.core.registry import Method

METHODS = (
    Method(
        "mask",
        "auto",
        "BET, checked by a UNETR",
        "qsmprep.networks.agreed:agreed_mask",
        p.AgreedMaskParams,
        "The brain was extracted from the root mean square of the echoes with a Python version of BET "
        "(fractional threshold {fraction:g}) after division by the smoothed magnitude, and where that did not agree "
        "(Dice coefficient below {agreement:g}) with the mask of a UNETR of qsmprep that was trained on images of "
        "simulated contrast, by the latter",
        ("smith2002", "hatamizadeh2022", "billot2023"),
        extras=("device",),
        model="brainmask",
    ),
    Method(
        "mask",
        "bet",
        "BET",
        "qsmprep.core.masking.bet:bet",
        p.BetParams,
        "The brain was extracted from the root mean square of the echoes with a Python version of BET "
        "(fractional threshold {fraction:g}) after division by the smoothed magnitude",
        ("smith2002",),
    ),
    Method(
        "mask",
        "unetr",
        "UNETR brain mask",
        "qsmprep.networks.segmentation:unetr_mask",
        p.UnetrParams,
        "The brain was extracted from the root mean square of the echoes with a UNETR of qsmprep that was trained on "
        "images of simulated contrast (threshold {threshold:g})",
        ("hatamizadeh2022", "billot2023"),
        extras=("device",),
        model="brainmask",
    ),
    Method(
        "mask",
        "threshold",
        "Otsu threshold",
        "qsmprep.core.masking.consensus:threshold_mask",
        p.ThresholdMaskParams,
        "The object was masked by {factor:g} times Otsu's threshold of the magnitude",
        ("otsu1979",),
    ),
    Method(
        "mask",
        "fsl",
        "FSL BET",
        "qsmprep.interfaces.masks:fsl_bet",
        p.FslBetParams,
        "The brain was extracted with FSL's BET (fractional threshold {fraction:g})",
        ("smith2002",),
    ),
    Method(
        "quality",
        "consensus",
        "brain mask times phase quality",
        "qsmprep.core.masking.consensus:consensus_mask",
        p.QualityMaskParams,
        "Voxels of unreliable phase were taken out of the mask (closing {close_mm:g} mm, opening {open_mm:g} mm)",
        ("bilgic2024consensus",),
    ),
)
