"""The parameters of every method, a module for each room of the core.

Light on purpose: the command line reads this package without importing numpy or torch.
"""

from qsmprep.core.parameters.background import (
    IsmvParams,
    LbvParams,
    PdfParams,
    ResharpParams,
    SharpParams,
    VSharpParams,
)
from qsmprep.core.parameters.echoes import (
    ArloParams,
    ArtefactParams,
    BestPathParams,
    ClearSwiParams,
    LaplacianUnwrapParams,
    LogLinearParams,
    NonlinearParams,
    OffsetParams,
    R2StarParams,
    RomeoParams,
    WeightedParams,
)
from qsmprep.core.parameters.inversion import (
    CosmosParams,
    IlsqrParams,
    L2Params,
    MediParams,
    NdiParams,
    NltgvParams,
    NltvParams,
    ReferenceParams,
    RtsParams,
    TgvParams,
    TkdParams,
    TsvdParams,
    TvParams,
    WhqsmParams,
)
from qsmprep.core.parameters.masks import (
    BetParams,
    FslBetParams,
    QualityMaskParams,
    ThresholdMaskParams,
)
from qsmprep.core.parameters.networks import (
    ConeNetParams,
    LoopNetParams,
    MetaQSMParams,
    QSMInvNetParams,
)
from qsmprep.core.parameters.roi import RoiParams

__all__ = [
    "ArloParams",
    "ArtefactParams",
    "BestPathParams",
    "BetParams",
    "ClearSwiParams",
    "ConeNetParams",
    "CosmosParams",
    "FslBetParams",
    "IlsqrParams",
    "IsmvParams",
    "L2Params",
    "LaplacianUnwrapParams",
    "LbvParams",
    "LogLinearParams",
    "LoopNetParams",
    "MediParams",
    "MetaQSMParams",
    "NdiParams",
    "NltgvParams",
    "NltvParams",
    "NonlinearParams",
    "OffsetParams",
    "PdfParams",
    "QSMInvNetParams",
    "QualityMaskParams",
    "R2StarParams",
    "ReferenceParams",
    "ResharpParams",
    "RoiParams",
    "RomeoParams",
    "RtsParams",
    "SharpParams",
    "TgvParams",
    "ThresholdMaskParams",
    "TkdParams",
    "TsvdParams",
    "TvParams",
    "VSharpParams",
    "WeightedParams",
    "WhqsmParams",
]
