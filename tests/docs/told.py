"""The commands that README and docs tell, as they stand there, and how each of them is run by the tests.

A command that is told but not listed in `HOW` fails a test: say how it is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORDED = "slurm-transcript.md"
"""Written by ``make test-slurm``: what stands there has been run."""

PAGES = [
    ROOT / "README.md",
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if "generated" not in page.parts and page.name != RECORDED
    ),
]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
PROGRAM = re.compile(r"(make|pytest|python3?|pip|docker|apptainer|sbatch|sh|bash|qsmprep(-\w+)?) \S")
MENTION = re.compile(r"(qsmprep-\w+) (-{0,2}[\w-]+)")
"""A program and the name of one of its commands or options: prose, not a command line."""


@dataclass(frozen=True)
class How:
    """How a command is run: in which kind of folder, with which words added, and why not just as it stands."""

    room: str
    more: str = ""
    why: str = ""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks of code of a page."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def lines_of(block: str) -> list[str]:
    """The commands of a block: a script is one, a drawing of folders is none."""
    if block.startswith("#!"):
        return [block]
    if "├──" in block:
        return []
    return [" ".join(line.split()) for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def commands() -> list[str]:
    """Every command line of the pages, in blocks and in sentences, once."""
    found: list[str] = []
    for page in PAGES:
        for language, block in blocks(page):
            found += lines_of(block) if language in ("", "sh", "bash", "console") else []
        found += [words for words in inline(page) if PROGRAM.match(words) and not MENTION.fullmatch(words)]
    return list(dict.fromkeys(found))


def inline(page: Path) -> list[str]:
    """What stands in back ticks outside of blocks."""
    return INLINE.findall(" ".join(FENCE.sub("", page.read_text(encoding="utf-8")).split()))


def in_room(*rooms: str) -> list[str]:
    """The commands of these rooms, in the order in which they are told."""
    return [command for command in commands() if (found := how(command)) is not None and found.room in rooms]


NOT_RUN = ("make", "container")
"""Rooms whose commands are looked at only, or not run at all."""

NEEDS_INDEX = "it installs from an index, which tests may not ask"
IS_TEST = "it would run these tests from within themselves"
HOURS = "it takes an hour or more"
A_STEP = "training as told takes hours: one step is taken"

HOW = {
    # make: what it would do is looked at
    "make demo": How("make", why=NEEDS_INDEX + "; `make wheel-check` runs its commands"),
    "make test": How("make", why=IS_TEST),
    "make docs": How("make", why=NEEDS_INDEX + "; tests/test_docs.py builds the site"),
    "make test-html": How("make", why=NEEDS_INDEX),
    "make test-offline": How("make", why=IS_TEST),
    "make test-slow": How("make", why=IS_TEST),
    "make test-slurm": How("make", why=IS_TEST),
    "make test-trust": How("make", why=IS_TEST),
    "make wheel-check": How("make", why=NEEDS_INDEX),
    "make benchmark": How("make", why=HOURS),
    "make benchmark-fieldmap": How("make", why=HOURS),
    "make benchmark-mismatch": How("make", why=HOURS),
    "make benchmark-networks": How("make", why=HOURS),
    "make benchmark-sizes": How("make", why=HOURS),
    "pytest -m slow tests/cohort": How("collect", "--collect-only", IS_TEST),
    # benchmarks: their help is read, and every option that is told must be in it
    "python benchmarks/networks.py -h": How("benchmark"),
    "python benchmarks/accuracy.py": How("benchmark", "-h", HOURS),
    "python benchmarks/fieldmap.py": How("benchmark", "-h", HOURS),
    "python benchmarks/networks.py": How("benchmark", "-h", HOURS),
    "python benchmarks/mismatch.py": How("benchmark", "-h", HOURS),
    "python benchmarks/segmentation.py": How("benchmark", "-h", HOURS),
    "python benchmarks/pediatric.py": How("benchmark", "-h", HOURS),
    "python benchmarks/atlas_heads.py": How("benchmark", "-h", HOURS),
    "python benchmarks/atlas_dice.py": How("benchmark", "-h", "its heads are not in the repository"),
    "python benchmarks/gpu.py": How("benchmark", "-h", "there is no GPU"),
    # installing
    "python3 -m venv .venv && . .venv/bin/activate": How("install"),
    "pip install -c constraints.txt .": How("install", "--no-deps --no-build-isolation --no-index", NEEDS_INDEX),
    # no engine to build containers
    "docker build -t qsmprep .": How("container", why="needs an engine; tests/container reads the recipe"),
    "apptainer build qsmprep.sif apptainer.def": How("container", why="as for Docker"),
    # as they stand
    "qsmprep --help": How("files"),
    "qsmprep BIDS_DIR OUT_DIR group": How("group"),
    'qsmprep BIDS_DIR OUT_DIR group --formula "chi ~ group * age + sex" --roi-statistic median': How("group"),
    "qsmprep bids out group": How("group"),
    "qsmprep BIDS_DIR OUT_DIR participant -w WORK_DIR": How("cohort"),
    "qsmprep BIDS_DIR OUT_DIR participant --participant-label 01 02 --inversion tv medi --background vsharp": How(
        "cohort"
    ),
    "qsmprep BIDS_DIR OUT_DIR participant --inversion tv --param tv.weight=1e-4 tfi.passes=8": How("cohort"),
    "qsmprep BIDS_DIR OUT_DIR participant --preset pediatric": How("cohort"),
    "qsmprep BIDS_DIR OUT_DIR participant --derivatives FREESURFER_DIR": How("cohort"),
    "qsmprep BIDS_DIR OUT_DIR participant --segmentation unetr": How("cohort"),
    "qsmprep BIDS_DIR OUT_DIR participant --segmentation atlas": How("cohort"),
    "qsmprep BIDS_DIR OUT_DIR participant --inversion loopnet metaqsm qsminvnet conenet": How("cohort"),
    "qsmprep-simulate example --subjects 1": How("first run"),
    "qsmprep example out participant -w work": How("first run"),
    "qsmprep-simulate OUT_DIR --subjects 4 --voxel-mm 1 1 2 --tilt-deg 20 --seed 1": How(
        "simulate", "--subjects 1", "four of them take four times as long"
    ),
    "qsmprep-train loopnet --labels LABELS --out RUN": How("train", "--steps 1", A_STEP),
    "qsmprep-train loopnet --labels LABELS --out RUN --export WEIGHTS": How("train", "--steps 1", A_STEP),
    "qsmprep-train conenet --config my_recipe.yaml --chi my_chi.nii.gz --device cuda --minutes 9 --out RUN": How(
        "train", "--device cpu --steps 1", "there is no GPU; " + A_STEP
    ),
    "qsmprep-slurm BIDS_DIR OUT_DIR --nprocs 4 --group --submit": How(
        "slurm", "--nprocs 2", "the host that tests start has two CPUs"
    ),
    "qsmprep-slurm BIDS_DIR OUT_DIR --status": How("slurm"),
    "qsmprep-slurm BIDS_DIR OUT_DIR --unfinished --mem 16G --submit": How("slurm"),
    "qsmprep-slurm BIDS_DIR OUT_DIR --container qsmprep.sif --gres gpu:1 --scratch '$SLURM_TMPDIR' --submit": How(
        "slurm script", why="there is neither a GPU nor an image: all but `--submit` is run"
    ),
}  # fmt: skip

STEP = "qsmprep-step "
"""Commands on single files are run as they stand, in the order in which they are told."""

SCRIPT = "#!/bin/sh\n#SBATCH"


def how(command: str) -> How | None:
    """How a command is run; None where nobody has said so."""
    if command.startswith(STEP):
        return How("files")
    if command.startswith(SCRIPT):
        return How("script")
    return HOW.get(command)
