# ruff: noqa: E501 (long lists of nasty values)
"""Mutations of a tiny BIDS data set: what scanners, converters, disks and people do to files, and worse.

A data set is a dictionary of relative path to content (bytes, a link, a folder, a pipe). Each mutation changes it and
returns the exit codes that are right for it; the fuzzer (`fuzzing`) writes it to a disk and runs ``qsmprep`` on it.
"""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (6, 5, 4)
TE_S = (0.004, 0.012)
AFFINE = np.array([[-1.5, 0, 0, 8], [0, 1.2, 0, -5], [0, 0, 2.0, -7], [0, 0, 0, 1]], dtype=float)
ANAT = "raw/sub-01/anat"
FINE, DATA, ABSENT = 0, 65, 66
ANY = {FINE, DATA, ABSENT}
"""Codes of a data set whose images or sidecars may or may not be usable."""


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Node:
    """A ``folder`` or a ``pipe`` where a file is expected."""

    kind: str


@dataclass
class DataSet:
    """Files by path relative to the folder of the case, and further words of the command line."""

    files: dict[str, bytes | Link | Node] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def pick(self, rng: np.random.Generator, ending: str, of: str = ANAT) -> str:
        """One path with this ending whose content is still bytes."""
        found = [p for p, c in self.files.items() if p.startswith(of) and p.endswith(ending) and isinstance(c, bytes)]
        return found[int(rng.integers(len(found)))] if found else ""

    def write(self, root: Path) -> None:
        """Put everything on the disk."""
        for name, content in self.files.items():
            path = root / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    path.write_bytes(content)
                elif isinstance(content, Link):
                    path.symlink_to(content.target)
                elif content.kind == "pipe":
                    os.mkfifo(path)
                else:
                    path.mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError):  # no file system takes such a name: nothing can come of it
                continue


def base() -> DataSet:
    """A good data set: two echoes with magnitude and phase, and a T1w image."""
    files: dict[str, bytes | Link | Node] = {
        "raw/dataset_description.json": _json({"Name": "tiny", "BIDSVersion": "1.10.0", "DatasetType": "raw"}),
        "outside/secret.json": b'{"EchoTime": 0.004, "Manufacturer": "outside"}',
        "outside/secret.txt": b"root:x:0:0 is not for your eyes\n",
    }
    for number, te in enumerate(TE_S, start=1):
        for part in ("mag", "phase"):
            stem = f"{ANAT}/sub-01_echo-{number}_part-{part}_MEGRE"
            files[f"{stem}.nii.gz"] = gzip.compress(_image(te, part), 1, mtime=0)
            keys = {"EchoTime": te, "MagneticFieldStrength": 3, "FlipAngle": 15, "Manufacturer": "GE"}
            files[f"{stem}.json"] = _json({**keys, **({"Units": "rad"} if part == "phase" else {})})
    files[f"{ANAT}/sub-01_T1w.nii.gz"] = gzip.compress(_image(0.003, "mag"), 1, mtime=0)
    files[f"{ANAT}/sub-01_T1w.json"] = _json({"MagneticFieldStrength": 3})
    return DataSet(files)


def _image(te_s: float, part: str) -> bytes:
    rng = np.random.default_rng(int(1e6 * te_s))
    ramp = np.linspace(-60, 60, SHAPE[0])[:, None, None]
    signal = 100 * np.exp(2j * np.pi * ramp * te_s) + rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)
    image = nib.Nifti1Image((np.abs if part == "mag" else np.angle)(signal).astype(np.float32), AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    return image.to_bytes()


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def one_of(rng: np.random.Generator, things: list) -> object:
    """One of the things (numpy would turn them into arrays)."""
    return things[int(rng.integers(len(things)))]


NASTY_VALUES: list[object] = [
    None, True, False, 0, -1, 1, 3, 4, 25, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), 10**400, -(10**400),
    "", " ", "3", "3 T", "nan", "1e999", "\u0000", "\ud800", "\u202e", "😀" * 50, "../../outside", "/etc/passwd", "x" * 100_000,
    "<script>alert(1)</script>", "%s%n{0}{x}", "'; DROP TABLE files; --", [], [[]], [0.004], [0.004, 0.012], ["0.004"],
    [None], {}, {"a": {"b": []}}, [float("nan")], "٣", "0x10", "1_000",
]  # fmt: skip

KEYS = [
    "EchoTime", "MagneticFieldStrength", "Units", "Manufacturer", "FlipAngle", "RepetitionTime", "ImagingFrequency",
    "ReadoutMode", "SequenceName", "ScanOptions", "EchoNumber", "B0Direction", "IntendedFor", "", "../x", "\u0000", "\ud800",
]  # fmt: skip

NASTY_TEXTS: list[bytes] = [
    b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe", b"\x00" * 64, b'{"EchoTime": }', b'{"EchoTime": NaN}',
    b"[" * 100_000, b'{"a":' * 50_000, b'{"EchoTime": ' + b"9" * 6000 + b"}", b'{"EchoTime": 1e99999}',
    b'\xef\xbb\xbf{"EchoTime": 0.004}', '{"EchoTime": 0.004}'.encode("utf-16"), b'{"EchoTime": "\\ud800"}',
    b'{"EchoTime": 0.004, "EchoTime": 5}', b'{"' + b"k" * 200_000 + b'": 1}', b'{"EchoTime": 0.004}\x00', b"\xed\xa0\x80",
]  # fmt: skip


def json_value(rng: np.random.Generator, data: DataSet) -> set[int]:
    """A key of a sidecar holds what it should not."""
    path = data.pick(rng, ".json")
    try:
        content = json.loads(data.files[path])  # type: ignore[arg-type]
    except (KeyError, ValueError, RecursionError):
        return ANY
    if not isinstance(content, dict):
        return ANY
    key, value = str(one_of(rng, KEYS)), one_of(rng, NASTY_VALUES)
    content[key] = value
    data.files[path] = _json(content)
    needed = "MEGRE" in path and key in ("EchoTime", "MagneticFieldStrength")
    never = value is False or value == "" or value == [] or value == {} or (isinstance(value, int) and abs(value) > 1e9)
    return {DATA} if needed and never else {FINE, DATA} if needed else {FINE}


def json_text(rng: np.random.Generator, data: DataSet) -> set[int]:
    """A sidecar is no JSON object, or one that parsers stumble over."""
    path = data.pick(rng, ".json")
    if not path:
        return ANY
    data.files[path] = one_of(rng, NASTY_TEXTS)  # type: ignore[assignment]
    return {FINE, DATA}


def json_bytes(rng: np.random.Generator, data: DataSet) -> set[int]:
    """Some bytes of a sidecar are others, or it is cut short."""
    path = data.pick(rng, ".json")
    if path:
        data.files[path] = _damaged(rng, data.files[path])  # type: ignore[arg-type]
    return {FINE, DATA}


def json_inherited(rng: np.random.Generator, data: DataSet) -> set[int]:
    """A sidecar above the image, under a name that may or may not apply."""
    name = one_of(
        rng,
        ["MEGRE.json", "part-phase_MEGRE.json", "echo-1_MEGRE.json", "echo-²_MEGRE.json", "echo-_MEGRE.json", "_MEGRE.json",
         "echo-99999999999999999999_MEGRE.json", "-_MEGRE.json", "part_MEGRE.json", "echo-1_echo-1_MEGRE.json", "MEGRE.JSON"],
    )  # fmt: skip
    folder = one_of(rng, ["raw", "raw/sub-01", ANAT])
    content = {str(one_of(rng, KEYS)): one_of(rng, NASTY_VALUES)}
    data.files[f"{folder}/{name}"] = _json(content) if rng.random() < 0.7 else one_of(rng, NASTY_TEXTS)  # type: ignore
    return {FINE, DATA}


def description(rng: np.random.Generator, data: DataSet) -> set[int]:
    """The data set's description is odd, broken or absent."""
    path = "raw/dataset_description.json"
    kind = int(rng.integers(4))
    if kind == 0:
        data.files.pop(path, None)
        return {16}
    if kind == 1:
        data.files[path] = one_of(rng, NASTY_TEXTS)  # type: ignore[assignment]
        return {FINE, 16}
    if kind == 2:
        data.files[path] = one_of(rng, [Node("folder"), Node("pipe"), Link("/dev/zero"), Link("nothing")])  # type: ignore
        return {16}
    keys = ["Name", "BIDSVersion", "DatasetType", "DatasetDOI", "License", "GeneratedBy", "DatasetLinks"]
    data.files[path] = _json({str(one_of(rng, keys)): one_of(rng, NASTY_VALUES) for _ in range(3)})
    return {FINE}


HEADER_FIELDS: list[tuple[int, str, list[object]]] = [
    (0, "<i", [0, 1, 347, 540, -1, 2**31 - 1, 348 << 16]),
    *[(40 + 2 * i, "<h", [0, 1, -1, 2, 3, 4, 5, 7, 8, 32767, -32768]) for i in range(8)],
    (68, "<h", [0, 1, 1007]),
    (70, "<h", [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 9999, -1]),
    (72, "<h", [0, 1, 8, 16, 32, 64, 128, 4096, -1]),
    *[(76 + 4 * i, "<f", [0, -1, 1e-30, 1e-3, 1e6, 1e38, np.nan, np.inf, -np.inf, 1.5]) for i in range(5)],
    (108, "<f", [0, 1, 351, 352, 353, 1e6, 1e9, 3e38, -1, -352, np.nan, np.inf, -np.inf]),
    (112, "<f", [0, 1, -1, 1e-38, 1e38, np.nan, np.inf]),
    (116, "<f", [0, 1, -1e38, 1e38, np.nan, np.inf]),
    (123, "<b", [0, 1, 3, 10, 127, -128]),
    (252, "<h", [0, 1, 2, 4, 99, -1]),
    (254, "<h", [0, 1, 2, 4, 99, -1]),
    *[(256 + 4 * i, "<f", [0, 1, -1, 2, 0.7, 1e30, np.nan, np.inf]) for i in range(6)],
    *[(280 + 4 * i, "<f", [0, 1, -1, 1e-20, 1e20, 1e38, np.nan, np.inf, 0.3]) for i in range(12)],
    (344, "<4s", [b"n+1\0", b"ni1\0", b"n+2\0", b"\0\0\0\0", b"abcd"]),
    (348, "<4s", [b"\0\0\0\0", b"\1\0\0\0", b"\xff\xff\xff\xff"]),
]
"""Offset, format and values of the fields of a NIfTI-1 header."""


def header_field(rng: np.random.Generator, data: DataSet) -> set[int]:
    """One field of a header says something else."""
    offset, code, values = HEADER_FIELDS[int(rng.integers(len(HEADER_FIELDS)))]
    value = one_of(rng, values)

    def change(blob: bytearray) -> None:
        if len(blob) >= offset + struct.calcsize(code):
            struct.pack_into(code, blob, offset, value)

    return _rewrite(rng, data, change)


def header_bytes(rng: np.random.Generator, data: DataSet) -> set[int]:
    """Random bytes in a header."""

    def change(blob: bytearray) -> None:
        for _ in range(int(rng.integers(1, 12))):
            blob[int(rng.integers(min(len(blob), 352)))] = int(rng.integers(256))

    return _rewrite(rng, data, change)


def header_extension(rng: np.random.Generator, data: DataSet) -> set[int]:
    """An extension of the header whose size is right, odd or a lie."""
    size = int(one_of(rng, [0, 1, 8, 16, 32, -16, 2**31 - 16]))  # type: ignore[call-overload]
    room = int(one_of(rng, [0, 16, 32, 1000]))  # type: ignore[call-overload]

    def change(blob: bytearray) -> None:
        blob[348:352] = b"\1\0\0\0"
        blob[352:352] = struct.pack("<ii", size, 6) + b"\0" * room
        struct.pack_into("<f", blob, 108, 352.0 + 8 + room)

    return _rewrite(rng, data, change)


def voxels(rng: np.random.Generator, data: DataSet) -> set[int]:
    """The voxels hold something else."""
    fill = one_of(
        rng, [b"\0\0\0\0", struct.pack("<f", np.nan), struct.pack("<f", np.inf), b"\xff\xff\x7f\x7f", b"\x01\0\0\0"]
    )

    def change(blob: bytearray) -> None:
        room = (len(blob) - 352) // 4
        if room > 1:
            start, stop = sorted(int(n) for n in rng.integers(room, size=2))
            start, stop = (0, room) if rng.random() < 0.4 else (start, stop)
            blob[352 + 4 * start : 352 + 4 * stop] = fill * (stop - start)  # type: ignore[operator]

    return _rewrite(rng, data, change)


def _rewrite(rng: np.random.Generator, data: DataSet, change: Callable[[bytearray], None]) -> set[int]:
    path = data.pick(rng, ".nii.gz")
    if not path:
        return ANY
    try:
        blob = bytearray(gzip.decompress(data.files[path]))  # type: ignore[arg-type]
    except (OSError, EOFError, ValueError, zlib.error):
        return ANY
    if blob:
        change(blob)
    data.files[path] = gzip.compress(bytes(blob), 1, mtime=0)
    return {FINE} if "T1w" in path else {FINE, DATA}


def container(rng: np.random.Generator, data: DataSet) -> set[int]:
    """The file around an image is damaged, cut, doubled, or not what its name says."""
    path = data.pick(rng, ".nii.gz")
    if not path:
        return ANY
    packed = data.files[path]
    assert isinstance(packed, bytes)
    kind = int(rng.integers(9))
    if kind == 0:
        packed = b""
    elif kind == 1:
        packed = packed[: int(rng.integers(1, max(2, len(packed))))]
    elif kind == 2:
        packed = packed + rng.bytes(int(rng.integers(1, 50)))
    elif kind == 3:
        packed = packed + packed
    elif kind == 4:
        packed = _damaged(rng, packed)
    elif kind == 5:
        packed = packed[:-4] + struct.pack("<I", int(rng.integers(2**32)))
    elif kind == 6:
        packed = gzip.compress(packed, 1, mtime=0)
    elif kind == 7:
        packed = rng.bytes(int(rng.integers(1, 800)))
    else:
        try:
            packed = gzip.decompress(packed)
        except (OSError, EOFError, ValueError):
            packed = b"\x1f\x8b"
    data.files[path] = packed
    return {FINE} if "T1w" in path else {FINE, DATA}


def _damaged(rng: np.random.Generator, blob: bytes) -> bytes:
    changed = bytearray(blob)
    for _ in range(int(rng.integers(1, 6))):
        if changed:
            place = int(rng.integers(len(changed)))
            changed[place : place + int(rng.integers(3))] = rng.bytes(int(rng.integers(3)))
    return bytes(changed)


NAMES = [
    "sub-01_acq-.._part-phase_MEGRE.nii.gz", "sub-01_acq-..%2f..%2foutside_MEGRE.nii.gz", "sub-01_..\\..\\outside_MEGRE.nii.gz",
    "sub-01_acq-é_part-phase_MEGRE.nii.gz", "sub-01_acq-😀_MEGRE.nii.gz", "sub-01_acq-a\nb_part-phase_MEGRE.nii.gz",
    "sub-01_acq-\x1b[31mred_MEGRE.nii.gz", "sub-01_echo-²_part-phase_MEGRE.nii.gz", "sub-01_echo-_part-phase_MEGRE.nii.gz",
    "sub-01_echo-99999999999999999999_part-phase_MEGRE.nii.gz", "sub-01_echo-01_part-phase_MEGRE.nii.gz",
    "sub-02_echo-1_part-phase_MEGRE.nii.gz", "sub-01_ses-1_echo-1_part-phase_MEGRE.nii.gz", "sub-01__MEGRE.nii.gz",
    "sub-01_part-phase_part-mag_MEGRE.nii.gz", "sub-01_" + "acq-" + "a" * 200 + "_part-phase_MEGRE.nii.gz",
    "sub-01_run-00000000001_part-phase_MEGRE.nii.gz", ".hidden_MEGRE.nii.gz", "MEGRE.nii.gz", "sub-01_MEGRE.nii.gz.nii",
    "sub-01_acq-\udcff_part-phase_MEGRE.nii.gz", "sub-01_acq-a b_part-phase_MEGRE.nii.gz", "sub-01_acq-$(touch x)_MEGRE.nii.gz",
    "sub-01_part-phase_T2starw.nii.gz", "sub-01_part-real_MEGRE.nii.gz", "sub-01_echo-1_part-phase_MEGRE.nii",
    "sub-01_acq-x+y_part-phase_MEGRE.nii.gz", "sub-01_echo-1_part-phase_MEGRE.NII.GZ", "sub-01_part-phase_MEGRE.nii.gz ",
]  # fmt: skip
"""Names of images that are no BIDS names, or hardly."""


def names(rng: np.random.Generator, data: DataSet) -> set[int]:
    """An image, with its sidecar or without, gets another name; or a copy of it does."""
    path = data.pick(rng, ".nii.gz")
    if not path:
        return ANY
    new = f"{ANAT}/{one_of(rng, NAMES)}"
    moved = bool(rng.random() < 0.5)
    data.files[new] = data.files.pop(path) if moved else data.files[path]
    sidecar = path.replace(".nii.gz", ".json")
    if sidecar in data.files and rng.random() < 0.7 and ".nii" in new:
        data.files[new.split(".nii")[0] + ".json"] = data.files[sidecar]
    return ANY


def folders(rng: np.random.Generator, data: DataSet) -> set[int]:
    """Odd folders of participants and sessions beside the good one."""
    label = one_of(
        rng,
        ["sub-é", "sub-", "sub-02", "sub-..", "sub-a b", "sub-\n", "sub-" + "x" * 240, "sub-\udcff", "sub-01 ", "sub-02/ses-1",
         "sub-02/ses-..", "sub-+", "sub-(?P<a>", "sub-[a-", "sub-01/ses-\n", "derivatives/sub-01", ".git", "sub-02/anat/anat",
         "code/[x", "sourcedata/\udcff", "(?x", "a|b"],
    )  # fmt: skip
    data.files[f"raw/{label}/anat"] = Node("folder")
    if rng.random() < 0.5:
        source = data.pick(rng, ".nii.gz")
        if source:
            data.files[f"raw/{label}/anat/{source.rsplit('/', 1)[1]}"] = data.files[source]
    return {FINE, 1}


def links(rng: np.random.Generator, data: DataSet) -> set[int]:
    """Links out of the data set, to nothing, to themselves, to devices; folders and pipes in the place of files."""
    path = data.pick(rng, str(one_of(rng, [".nii.gz", ".json"])))
    if not path:
        return ANY
    up = "../../../outside"
    content = one_of(
        rng,
        [Link("/dev/null"), Link("/dev/zero"), Link("nothing"), Link(path.rsplit("/", 1)[1]), Link("."), Link("/"), Link(".."),
         Link(f"{up}/secret.txt"), Link(f"{up}/secret.json"), Link("/proc/self/mem"), Node("folder"), Node("pipe")],
    )  # fmt: skip
    data.files[path] = content  # type: ignore[assignment]
    return {FINE} if "T1w" in path else ANY


def link_loops(rng: np.random.Generator, data: DataSet) -> set[int]:
    """Folders that are links: upwards, out of the data set, or to the whole disk."""
    places = [
        "raw/sub-02",
        "raw/sub-01/loop",
        f"{ANAT}/loop",
        "raw/derivatives",
        "raw/sub-01/ses-1",
        "raw/x",
        "raw/sub-3",
    ]
    for _ in range(int(rng.integers(1, 5))):
        target = one_of(rng, [".", "..", "/", "../..", "../outside", "sub-01", "sub-02"])
        data.files[str(one_of(rng, places))] = Link(str(target))
    return ANY | {1}


def missing(rng: np.random.Generator, data: DataSet) -> set[int]:
    """A file is not there."""
    path = data.pick(rng, str(one_of(rng, [".nii.gz", ".json"])))
    data.files.pop(path, None)
    return {FINE} if "T1w" in path else ANY


def words(rng: np.random.Generator, data: DataSet) -> set[int]:
    """Odd words on the command line."""
    text = str(
        one_of(
            rng,
            ["../..", "/etc", "sub-01", "01", "", " ", "\u0000", "\udcff", "é", "*", "a" * 5000, "-1", "nan", "1e999"],
        )
    )
    option = str(
        one_of(rng, ["--participant-label", "--session-label", "--acquisition-label", "--b0", "--param", "--mem"])
    )
    if option == "--param":
        text = str(
            one_of(rng, ["tv.weight=", "tkd.threshold=nan", "vsharp.radius_max_mm=-1", "x.y=1", ".=", "=", text])
        )
    data.words += [option, text] if not text.startswith("-") else [f"{option}={text}"]
    return {FINE, 2, 18}


def config(rng: np.random.Generator, data: DataSet) -> set[int]:
    """A configuration or filter file of random content."""
    option, name = one_of(
        rng, [("--config-file", "c.json"), ("--bids-filter-file", "f.json"), ("--config-file", "c.toml")]
    )  # type: ignore
    keys = [
        "participants",
        "derivatives",
        "parameters",
        "b0_t",
        "mem_gb",
        "qsm_mag",
        "mask",
        "t1w",
        "level",
        "atlas",
        "acq",
    ]
    content = {str(one_of(rng, keys)): one_of(rng, NASTY_VALUES)}
    if rng.random() < 0.3:
        content = {
            "qsm_phase": {str(one_of(rng, ["acq", "echo", "part", "suffix", "run", "x"])): one_of(rng, NASTY_VALUES)}
        }
    data.files[f"outside/{name}"] = _json(content) if rng.random() < 0.8 else one_of(rng, NASTY_TEXTS)  # type: ignore
    data.words += [option, f"outside/{name}"]
    return {FINE, 2, 18, DATA, ABSENT}


MUTATIONS = (
    json_value, json_value, json_text, json_bytes, json_inherited, description, header_field, header_field, header_field,
    header_bytes, header_extension, voxels, container, container, names, names, folders, links, link_loops, missing, words,
    config,
)  # fmt: skip
"""Those that matter most are drawn more often."""


def mutated(seed: int) -> tuple[DataSet, list[str], set[int]]:
    """The data set of a seed, the names of its mutations, and the exit codes that are right for it.

    Every other data set has a single mutation, for which the codes are narrow; the others have two to four.
    """
    rng = np.random.default_rng(seed)
    data = base()
    count = 1 if seed % 2 else int(rng.integers(2, 5))
    codes: set[int] = set()
    told = []
    for _ in range(count):
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        found = mutation(rng, data)
        codes = found if not codes else codes | found | {1}
        told.append(mutation.__name__)
    return data, told, codes
