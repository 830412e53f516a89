"""Which voxels: brain extraction, phase quality, and what is made of both."""

from qsmprep.core.masking.bet import bet
from qsmprep.core.masking.consensus import consensus_mask, threshold_mask

__all__ = ["bet", "consensus_mask", "threshold_mask"]
