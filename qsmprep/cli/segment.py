"""What ``qsmprep-step segment`` does: read, segment in the order of axes closest to RAS, write."""

from __future__ import annotations

import argparse
from pathlib import Path

from qsmprep.bids.names import sidecar_path
from qsmprep.bids.segmentations import MADE
from qsmprep.bids.tables import write_label_table
from qsmprep.cli.single import (
    check_writable,
    details,
    make_grid,
    out_of_memory_told,
    provenance,
    read_mask,
    read_on_grid,
    write_results,
)
from qsmprep.core.device import resolve_device
from qsmprep.core.methods import METHODS
from qsmprep.core.structures import FREESURFER
from qsmprep.interfaces import base


def segment(args: argparse.Namespace) -> str:
    """Write labels, their table and their sidecar, and say how large the regions are."""
    check_writable(args.out)
    args.device = resolve_device(args.device)
    args.units, args.b0_t, args.te_s = None, None, None
    mask = read_mask(args.mask)
    grid = make_grid(mask, None)
    chi = read_on_grid(args.chi, mask)
    assert chi is not None
    method = METHODS.get("nuclei", args.method)
    (turned, inside), turned_grid, back = base.as_ras([chi, mask.data], mask.image)
    with base.about(args.chi), out_of_memory_told():
        found = method.load()(turned, inside, turned_grid, args.params, device=args.device)
    volumes = dict.fromkeys(MADE[args.method], 0.0)
    volumes |= {int(code): float(mm3) for code, mm3 in found.info["volumes_mm3"].items()}
    regions = [FREESURFER[code] for code in sorted(volumes)]
    sidecar = {
        "Description": "Deep grey nuclei, codes of FreeSurfer",
        "Manual": False,
        **provenance(args, method, grid, {"chi": args.chi, "mask": args.mask}),
        "VolumesMM3": {region.name: volumes[region.index] for region in regions},
        "Details": details(found.info),
    }
    write_results({args.out: back(found.labels)}, sidecar, args.out, mask)
    write_label_table(regions, table_path(args.out))
    said = "\n".join(f"  {region.name}: {volumes[region.index] / 1e3:.2f} mL" for region in regions)
    return "\n".join([f"{args.out}: {method.title}, {len(regions)} regions", said, *found.info["warnings"]])


def table_path(out: Path) -> Path:
    """The table of labels beside an image."""
    return sidecar_path(out).with_suffix(".tsv")
