"""A cohort of simulated heads, from the images to the models: a known effect and a known slope are found, and no other.

The truth is what the same models say of the true susceptibility of the same people, over the same regions.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

N = 24
SIMULATE = ("--voxel-mm", "3", "3", "3", "--fine-mm", "1.6", "--t1w-mm", "0", "--echo-times", "0.006", "0.014", "0.022")
EFFECT = ("--group-effect", "0.25", "--effect-in", "pallidum", "--age", "20", "60")
FAST = ("--background", "vsharp", "--inversion", "tv", "--no-swi", "--level", "minimal")
REGIONS = ("caudate", "putamen", "pallidum", "thalamus", "red nucleus", "substantia nigra", "dentate nucleus")

pytestmark = pytest.mark.slow


def call(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def true_values(raw: Path) -> pd.DataFrame:
    """Mean true susceptibility of every region of every participant, relative to the mean of the brain."""
    people = {row["participant_id"]: row for row in rows_of(raw / "participants.tsv")}
    names = {row["index"]: row for row in rows_of(raw / "derivatives/truth/dseg.tsv")}
    found = []
    for label, person in people.items():
        folder = raw / "derivatives/truth" / label / "anat"
        chi = nib.load(folder / f"{label}_desc-truth_Chimap.nii.gz").get_fdata()
        labels = np.asarray(nib.load(folder / f"{label}_dseg.nii.gz").dataobj).astype(int)
        mask = np.asarray(nib.load(folder / f"{label}_desc-brain_mask.nii.gz").dataobj) > 0
        for index, row in names.items():
            if (labels == int(index)).any():
                value = chi[labels == int(index)].mean() - chi[mask].mean()
                head = {"name": row["name"], "hemisphere": row["hemisphere"], "chi": value}
                found.append({**head, "age": float(person["age"]), "sex": person["sex"], "group": person["group"]})
    return pd.DataFrame(found)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    python = (sys.executable, "-m")
    call(
        *python, "qsmprep.cli.simulate", root / "raw", "--subjects", N, "--seed", 11, "--nprocs", 2, *SIMULATE, *EFFECT
    )
    truth = root / "raw/derivatives/truth"
    options = ("-w", root / "work", "--nprocs", 2, *FAST, "--derivatives", truth)
    call(*python, "qsmprep.cli.main", root / "raw", root / "out", "participant", *options)
    call(*python, "qsmprep.cli.main", root / "raw", root / "out", "group")
    return root


def test_the_effect_and_the_slope_are_found_and_no_other(cohort):
    truth = true_values(cohort / "raw")
    models = [row for row in rows_of(cohort / "out/group_models.tsv") if row["map"] == "tv"]
    assert json.loads((cohort / "out/group_models.json").read_text())["Formula"] == "chi ~ group + age + sex"
    inside, elsewhere, told = [], [], []
    for row in models:
        if row["structure"] not in REGIONS or row["term"] not in ("group[T.patient]", "age"):
            continue
        mine = truth[(truth["name"] == row["name"]) & (truth["hemisphere"] == row["hemisphere"])]
        true = smf.ols("chi ~ group + age + sex", mine).fit().params[row["term"]]
        low, high = float(row["ci_low"]), float(row["ci_high"])
        inside.append(low <= true <= high)
        told.append(f"{row['structure']} {row['hemisphere']} {row['term']}: {true:.5f} in {low:.5f} to {high:.5f}")
        if row["structure"] == "pallidum" and row["term"] != "age":
            assert low > 0 and float(row["p_fdr"]) < 0.05, told[-1]
            assert inside[-1], told[-1]
        if row["structure"] == "putamen" and row["term"] == "age":
            assert low > 0, told[-1]
            assert inside[-1], told[-1]
        if row["structure"] != "pallidum" and row["term"] != "age":
            elsewhere.append((float(row["p"]), float(row["p_fdr"])))
    print("\n".join(told))
    assert len(inside) == 4 * len(REGIONS)
    assert np.mean(inside) > 0.9
    assert min(fdr for _, fdr in elsewhere) > 0.05
    # at the nominal rate 0.6 of 12 are expected; four or more have a probability of 0.2 %
    assert sum(p < 0.05 for p, _ in elsewhere) < 4


def test_models_are_those_of_statsmodels(cohort):
    wide = pd.read_csv(cohort / "out/group_roi_wide.tsv", sep="\t")
    for row in rows_of(cohort / "out/group_models.tsv"):
        if row["map"] != "tv" or row["structure"] not in REGIONS:
            continue
        column = f"tv_{row['segmentation']}_{row['structure'].replace(' ', '-')}_{row['hemisphere']}"
        fit = smf.ols("chi ~ group + age + sex", wide.rename(columns={column: "chi"})).fit()
        term = row["term"]
        assert float(row["estimate"]) == pytest.approx(fit.params[term], rel=1e-4, abs=1e-9)
        assert float(row["p"]) == pytest.approx(fit.pvalues[term], rel=1e-3)
        interval = fit.conf_int().loc[term]
        assert [float(row["ci_low"]), float(row["ci_high"])] == pytest.approx(list(interval), rel=1e-4, abs=1e-8)
