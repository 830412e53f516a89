"""PedQ-NET: an nnU-Net from the local field to susceptibility that learns from the physics alone, joined to
a UNETR that segments the deep grey nuclei on its maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from qsmprep.networks.base import QSMNetwork
from qsmprep.networks.unetr import Segmenter, keep_layout

NUCLEI = ("caudate", "putamen", "pallidum", "thalamus")
"""Segmented structures; the classes are the background, then left and right of each."""

SIDES: dict[str, tuple[int, int]] = {
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "thalamus": (10, 49),
}
"""FreeSurfer codes of the structures, left and right."""

CLASSES = 1 + 2 * len(NUCLEI)

OTHER_SIDE = (0, *(index + (1 if index % 2 else -1) for index in range(1, CLASSES)))
"""For each class that of the other side."""


class PedQNet(QSMNetwork):
    """The reconstruction of PedQ-NET, a 3-D nnU-Net (MONAI's DynUNet), and the segmentation it is trained with.

    Two convolutions with instance normalisation and leaky ReLU a stage, strided convolutions down,
    transposed ones up. The output is added to the starting map of `inputs`.

    Parameters
    ----------
    filters : sequence of int
        Channels of each stage.
    segmentation : mapping, optional
        Arguments of :class:`qsmprep.networks.unetr.Segmenter`; without it this is the nnU-Net that PedQ-NET is
        compared with.
    inputs, shuffle
        See :class:`qsmprep.networks.base.QSMNetwork`.

    References
    ----------
    .. [1] PedQ-NET, ISMRM 2022, abstract 1984
    .. [2] Isensee et al., Nat. Methods 18:203 (2021), doi:10.1038/s41592-020-01008-z
    """

    def __init__(
        self,
        filters: Sequence[int] = (32, 64, 96, 128),
        segmentation: Mapping[str, Any] | None = None,
        inputs: str = "physics",
        shuffle: int = 2,
    ) -> None:
        super().__init__(inputs, shuffle)
        from monai.networks.nets import DynUNet

        self.levels = len(filters)
        strides = [1] + [2] * (self.levels - 1)
        self.unet = keep_layout(
            DynUNet(
                3,
                self.in_channels,
                self.out_channels,
                [3] * self.levels,
                strides,
                strides[1:],
                filters=list(filters),
                act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
            )
        )
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.segmentation = Segmenter(**{"classes": CLASSES, **segmentation}) if segmentation is not None else None

    @property
    def head(self) -> nn.Conv3d:
        """The last convolution."""
        return self.unet.output_block.conv.conv  # type: ignore[no-any-return]

    def convolve(self, entry: torch.Tensor, **options: Any) -> list[torch.Tensor]:
        """One output."""
        return [self.unet(entry)]
