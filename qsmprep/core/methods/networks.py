"""Methods of learned inversion. The first of a step is its default."""

from __future__ import annotations

from qsmprep.core import parameters as p
from qsmprep.core.registry import Method

METHODS = (
    Method(
        "inversion",
        "conenet",
        "ConeNet",
        "qsmprep.networks.inference:conenet",
        p.ConeNetParams,
        "Susceptibility was computed with ConeNet, an unrolled network of qsmprep that was trained on simulated "
        "heads, with data consistency in every step",
        ("lai2020", "bilgic2014"),
    ),
    Method(
        "inversion",
        "loopnet",
        "LoopNet",
        "qsmprep.networks.inference:loopnet",
        p.LoopNetParams,
        "Susceptibility was computed with qsmprep's own training of LoopNet (ISMRM 2024, abstract 2621; its shipped "
        "weights start from total-variation maps, data consistency after it: {consistency})",
        ("xiang2020", "ruan2023", "bilgic2014"),
    ),
    Method(
        "inversion",
        "metaqsm",
        "Meta-QSM",
        "qsmprep.networks.inference:metaqsm",
        p.MetaQSMParams,
        "Susceptibility was computed with qsmprep's own training of Meta-QSM (its shipped weights start "
        "from total-variation maps, data consistency after it: {consistency})",
        ("liu2019", "bilgic2014"),
    ),
    Method(
        "inversion",
        "qsminvnet",
        "QSMInvNet+",
        "qsmprep.networks.inference:qsminvnet",
        p.QSMInvNetParams,
        "Susceptibility was computed with qsmprep's own training of QSMInvNet+ (ISMRM 2021; its shipped "
        "weights start from total-variation maps, statistics of the {domain} domain, adaptation to the subject: "
        "{adapt}, data consistency after it: {consistency})",
        ("chang2019", "polak2020", "bilgic2014"),
    ),
    Method(
        "inversion",
        "pedqnet",
        "PedQ-NET",
        "qsmprep.networks.inference:pedqnet",
        p.PedQNetParams,
        "Susceptibility was computed with qsmprep's own training of PedQ-NET (ISMRM 2022, abstract 1984), an nnU-Net "
        "trained by the physics and a segmentation of the nuclei without maps to learn from (its shipped "
        "weights start from total-variation maps, data consistency after it: {consistency})",
        ("isensee2021", "polak2020", "bilgic2014"),
    ),
)
