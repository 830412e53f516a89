"""The brain by BET, looked after by the network: BET follows the edge more closely, the network finds every brain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.masking.bet import bet
from qsmprep.core.parameters import AgreedMaskParams, BetParams, UnetrParams
from qsmprep.core.registration import overlap
from qsmprep.core.results import Mask
from qsmprep.errors import NotSeenError
from qsmprep.networks.segmentation import checked, unetr_mask


@dataclass(frozen=True)
class Extraction:
    """A brain mask and how it came about.

    Parameters
    ----------
    mask : (nx, ny, nz) bool array
    info : dict
        ``used`` (``bet`` or ``unetr``), ``agreement`` (Dice coefficient of both, 0 to 1; 0 where one failed),
        ``warnings``.
    """

    mask: Mask
    info: dict[str, Any] = field(default_factory=dict)


def agreed_mask(
    magnitude: NDArray[np.floating], grid: Grid, params: AgreedMaskParams | None = None, *, device: str | None = None
) -> Extraction:
    """Brain mask by BET where the UNETR confirms it, else that of the UNETR, with a warning.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Image of the head, axes closest to right, anterior, superior.
    grid : Grid
        Gives the voxel size.
    params : AgreedMaskParams
        Parameters of both, and the agreement from which on BET is believed.
    device : str, optional
        Torch device of the network; default: the CPU.

    Returns
    -------
    Extraction

    Raises
    ------
    DataError
        When the image has another shape than the grid, is the same everywhere, is noise, or when neither
        finds a brain.
    MissingFileError
        When the weights are not there.
    OutOfMemoryError
        When memory does not suffice.

    References
    ----------
    .. [1] Smith, Hum. Brain Mapp. 17:143 (2002), doi:10.1002/hbm.10062
    .. [2] Hatamizadeh et al., WACV 2022, doi:10.1109/WACV51458.2022.00181
    """
    params = params or AgreedMaskParams()
    image = checked(magnitude, grid)
    surface, problem = None, None
    try:
        surface = bet(image, grid, BetParams(params.fraction))
    except NotSeenError as error:
        problem = error
    try:
        learned = unetr_mask(image, grid, UnetrParams(params.threshold, params.weights), device=device)
    except NotSeenError as error:
        if surface is None:
            raise (problem or error) from None
        told = "the network that checks the brain mask found no brain: look at the mask"
        return Extraction(surface, {"used": "bet", "agreement": 0.0, "warnings": [told]})
    if surface is None:
        told = "BET found no brain, the mask is that of the network: look at it"
        return Extraction(learned, {"used": "unetr", "agreement": 0.0, "warnings": [told]})
    agreement = round(overlap(surface, learned), 4)
    if agreement >= params.agreement:
        return Extraction(surface, {"used": "bet", "agreement": agreement, "warnings": []})
    told = f"BET and the network do not agree on the brain (overlap {agreement:.2f}), the mask is the network's: look"
    return Extraction(learned, {"used": "unetr", "agreement": agreement, "warnings": [told]})
