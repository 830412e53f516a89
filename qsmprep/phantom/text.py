"""The words and metadata of a simulated data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsmprep.version import qsmprep_version

if TYPE_CHECKING:
    from qsmprep.phantom.dataset import Plan
    from qsmprep.phantom.scan import Protocol

BIDS_VERSION = "1.10.0"

ACKNOWLEDGEMENT = (
    "Heads are warped from the symmetric ICBM 2009a nonlinear MNI152 template as carried by nilearn, "
    "Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, "
    "McGill University. Please cite Fonov et al., NeuroImage 54:313 (2011), doi:10.1016/j.neuroimage.2010.07.033."
)

PARTICIPANT_COLUMNS: dict[str, Any] = {
    "age": {"Description": "Age of the simulated participant; sets the iron of grey matter", "Units": "year"},
    "sex": {"Description": "Sex; sets the mean size of the head", "Levels": {"F": "female", "M": "male"}},
    "group": {"Description": "Group", "Levels": {"control": "control", "patient": "patient"}},
}

LABEL_COLUMNS: dict[str, Any] = {
    "name": {"Description": "Name of the structure"},
    "hemisphere": {"Description": "Side", "Levels": {"L": "left", "R": "right", "B": "both or neither"}},
}

MAPS: dict[str, str] = {
    "desc-truth_Chimap": (
        "Magnetic susceptibility relative to its mean over the brain, averaged over the part of each voxel that is "
        "brain; paramagnetic is positive"
    ),
    "desc-truth_R2starmap": "R2* without the dephasing by the field itself, averaged over the brain part of each voxel",
    "desc-local_fieldmap": "Frequency offset made by the susceptibility of the brain alone (relative to its mean)",
    "desc-total_fieldmap": "Frequency offset made by the whole head and the air around it, after the shim",
    "magnitude": "Magnitude of the first echo inside the brain",
    "desc-brain_mask": "Voxels at least half of which is brain: the envelope, with sulci and ventricles",
    "dseg": "Label with the largest share of each voxel of the brain mask",
}

TRUTH_README = """# Truth

What the simulated images were made from, on the grid of the images: susceptibility (ppm), R2* (1/s), local and total
field (Hz), brain mask and labels. The sidecar of each map says exactly what it is. The images were computed on a finer
grid and reduced in k-space, so no map reproduces them exactly on this grid.
"""


def raw_description(name: str) -> dict[str, Any]:
    """``dataset_description.json`` of the images."""
    return {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "License": "CC0",
        "Authors": ["The qsmprep developers"],
        "Acknowledgements": ACKNOWLEDGEMENT,
        "GeneratedBy": [_generator("qsmprep-simulate")],
    }


def truth_description(name: str) -> dict[str, Any]:
    """``dataset_description.json`` of the truth."""
    return {
        "Name": f"{name}: truth",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "CC0",
        "Authors": ["The qsmprep developers"],
        "Acknowledgements": ACKNOWLEDGEMENT,
        "GeneratedBy": [{**_generator("truth"), "Description": "Written by qsmprep-simulate"}],
    }


def _generator(name: str) -> dict[str, str]:
    return {"Name": name, "Version": qsmprep_version()}


def sequence(plan: Plan) -> dict[str, Any]:
    """Metadata that all gradient echoes share, for the sidecar at the root."""
    protocol = plan.protocol
    return {
        "MagneticFieldStrength": protocol.b0_t,
        "Manufacturer": {"siemens": "Siemens", "philips": "Philips"}[plan.vendor],
        "ManufacturersModelName": "simulated",
        "PulseSequenceType": "Multi-echo gradient echo" if len(protocol.te_s) > 1 else "Gradient echo",
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "MRAcquisitionType": "3D",
        "RepetitionTimeExcitation": protocol.tr_s,
        "FlipAngle": protocol.flip_deg,
        "SpoilingState": True,
        "NonlinearGradientCorrection": False,
    }


def t1w(plan: Plan) -> dict[str, Any]:
    """Sidecar of the T1-weighted image."""
    return {
        "MagneticFieldStrength": plan.protocol.b0_t,
        "Manufacturer": {"siemens": "Siemens", "philips": "Philips"}[plan.vendor],
        "ManufacturersModelName": "simulated",
        "PulseSequenceType": "MPRAGE",
        "ScanningSequence": "GR",
        "MRAcquisitionType": "3D",
        "InversionTime": 0.95,
        "RepetitionTimePreparation": 2.3,
    }


def truth_map(kind: str, units: str, protocol: Protocol) -> dict[str, Any]:
    """Sidecar of one map of the truth."""
    added = f", and by {anisotropy(protocol)}" if kind == "desc-total_fieldmap" and protocol.anisotropy else ""
    return {
        "Description": MAPS[kind] + added,
        "Units": units,
        "SkullStripped": True,
        "MagneticFieldStrength": protocol.b0_t,
        "RepetitionTimeExcitation": protocol.tr_s,
        "FlipAngle": protocol.flip_deg,
    }


def anisotropy(protocol: Protocol) -> str:
    """What the total field holds beside that of the susceptibility."""
    return (
        "the anisotropic susceptibility of white matter, which no map explains "
        f"({100 * protocol.anisotropy:g} % of the spread of the local field, which is without it)"
    )


def readme(plan: Plan) -> str:
    """README of the data set."""
    protocol = plan.protocol
    voxel = " x ".join(f"{v:g}" for v in protocol.voxel_mm)
    echoes = ", ".join(f"{te * 1e3:g}" for te in protocol.te_s)
    fibres = f"- the total field is also made by {anisotropy(protocol)}\n" if protocol.anisotropy else ""
    return f"""# {plan.name}

Simulated: no person was scanned. Whole heads with skull, scalp and air sinuses ({plan.n_subjects}).

- field strength {protocol.b0_t:g} T, voxels {voxel} mm, stack tilted by {protocol.tilt_deg:g} degrees about the x axis
- echo times {echoes} ms, repetition time {protocol.tr_s * 1e3:g} ms, flip angle {protocol.flip_deg:g} degrees
- signal-to-noise ratio of white matter {protocol.snr:g} at the first echo
- phase stored the way of {plan.vendor.capitalize()}; it grows with time where the field is higher
{fibres}
The susceptibility of every head gives its field on a finer grid; the shim is removed; the signal of each echo decays
and dephases there; k-space is cropped to the acquired voxels and noise is added. What went in is in
`derivatives/truth`. Made by `qsmprep-simulate` with seed {plan.seed}.

{ACKNOWLEDGEMENT}
"""
