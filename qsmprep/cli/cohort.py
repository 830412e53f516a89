"""Options of regions of interest and of the group level."""

from __future__ import annotations

import argparse
from pathlib import Path

from qsmprep.cli.config import SEGMENTATIONS


def add_region_options(group: argparse._ArgumentGroup) -> None:
    """Add those of regions of interest to the parser of ``qsmprep``."""
    group.add_argument(
        "--segmentation",
        choices=SEGMENTATIONS,
        help="where regions of interest come from: a network that sees the susceptibility map (unetr), FSL FIRST, an "
        "atlas, or nowhere; auto takes what is found with --derivatives and does not segment (default: auto)",
    )
    group.add_argument(
        "--atlas",
        nargs=2,
        type=Path,
        metavar=("FILE", "LABELS.tsv"),
        help="labels in the space of the MNI152 template and their table (default: the embedded atlas)",
    )
    group.add_argument(
        "--template-maps",
        action="store_true",
        help="susceptibility also in the space of the MNI152 template, 1 mm; the group level averages these maps",
    )


def add_group_options(group: argparse._ArgumentGroup) -> None:
    """Add those of the group level to the parser of ``qsmprep``."""
    group.add_argument(
        "--formula",
        metavar="TEXT",
        help="model of each region in patsy's language (default: `chi ~ group + age + sex`, of these the columns of "
        "participants.tsv that vary)",
    )
    group.add_argument(
        "--roi-statistic",
        metavar="NAME",
        help="statistic of the regions that is modelled, a column of the ROI tables (default: mean)",
    )
