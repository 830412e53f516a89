"""Registration recovers known movements, in any orientation; its measures are what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from qsmprep.core.parameters import CoregistrationParams, NormalisationParams
from qsmprep.core.registration import (
    Volume,
    ants_seed,
    at_spacing,
    mutual_information,
    normalise,
    overlap,
    register_rigid,
    stretch_of,
)
from qsmprep.errors import DataError

VOXEL_MM = 5.0


def brain(contrast: int = 0, shape=(34, 40, 32), affine: np.ndarray | None = None) -> Volume:
    """A brain without symmetry: cortex, white matter, ventricle, nuclei; the contrast orders the grey values."""
    if affine is None:
        affine = np.diag([VOXEL_MM] * 3 + [1.0])
        affine[:3, 3] = -VOXEL_MM * (np.array(shape) - 1) / 2
    index = np.indices(shape).reshape(3, -1)
    x, y, z = (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)
    greys = ((60, 100, 20, 80, 90), (90, 70, 140, 60, 40))[contrast]

    def ball(centre, radii):
        return sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii, strict=True)) < 1

    data = np.where(ball((0, 0, 0), (62, 76, 56)), greys[0], 0)
    data[ball((0, 4, 4), (50, 62, 44))] = greys[1]
    data[ball((6, 8, 10), (9, 34, 10))] = greys[2]
    data[ball((-24, 10, -4), (12, 20, 14))] = greys[3]
    data[ball((26, 2, 0), (14, 16, 18))] = greys[4]
    return Volume(data.astype(np.float32), affine)


def movement(shift, turn_deg) -> np.ndarray:
    a, b, c = np.deg2rad(turn_deg)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = rx @ ry @ rz
    matrix[:3, 3] = shift
    return matrix


def largest_error_mm(found: np.ndarray, true: np.ndarray) -> float:
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-70, 70) for z in (-50, 50)], float).T
    return float(np.linalg.norm(((found - true) @ corners)[:3], axis=0).max())


@pytest.mark.parametrize("turned", [False, True])
def test_rigid_movement_between_contrasts(turned):
    """The moving head was moved by a known map; its array axes may lie in another order."""
    true = movement((7.0, -5.0, 4.0), (6.0, -4.0, 8.0))
    fixed, still = brain(0), brain(1)
    moving = still.moved_by(true)
    if turned:
        data = np.ascontiguousarray(np.transpose(moving.data, (2, 0, 1))[:, ::-1])
        axes = np.zeros((4, 4))
        axes[2, 0], axes[0, 1], axes[1, 2], axes[3, 3] = 1, -1, 1, 1
        axes[0, 3] = still.data.shape[0] - 1
        moving = Volume(data, moving.affine @ axes)
    found = register_rigid(fixed, moving)
    assert found.used
    assert largest_error_mm(found.matrix, true) < 0.5 * VOXEL_MM
    assert found.information_after > found.information_before
    assert found.shift_mm == pytest.approx(np.linalg.norm(true[:3, 3]), abs=2.5)
    assert found.turn_deg == pytest.approx(np.degrees(np.arccos((np.trace(true[:3, :3]) - 1) / 2)), abs=2.0)


def test_the_same_head_keeps_its_shape():
    """Another one is longer or wider."""
    fixed, still = brain(0), brain(1)
    same = still.moved_by(movement((5, 3, -4), (4, -3, 5)))
    longer = still.moved_by(np.diag([1.0, 1.09, 1.0, 1.0]))
    assert register_rigid(fixed, same).stretch < 0.035
    assert register_rigid(fixed, longer).stretch == pytest.approx(0.09, abs=0.03)


def test_one_seed_gives_one_answer():
    """To the last bit on one thread, in a process that has used no more; another seed compares at other points."""
    script = (
        "from qsmprep.core.registration import itk_threads, register_rigid\n"
        "from test_registration import brain, movement\n"
        "fixed, moving = brain(0), brain(1).moved_by(movement((5, 3, -4), (4, -3, 5)))\n"
        "with itk_threads(1):\n"
        "    for seed in (0, 0, 1):\n"
        "        found = register_rigid(fixed, moving, seed=seed)\n"
        "        print(found.matrix.tolist(), found.stretch)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, again, other = done.stdout.splitlines()
    assert first == again != other


def test_the_seed_reaches_every_registration(tmp_path, monkeypatch):
    """By the environment, which is as before afterwards, whatever happens."""
    import ants

    told: list[tuple[str, str | None]] = []

    def registration(fixed, moving, kind, **words):
        told.append((kind, os.environ.get("ANTS_RANDOM_SEED")))
        raise RuntimeError("enough")

    monkeypatch.setattr(ants, "registration", registration)
    image = brain(0)
    tries = (
        lambda seed: register_rigid(image, image, seed=seed),
        lambda seed: stretch_of(image, image, [], CoregistrationParams(), seed),
        lambda seed: normalise(image, image.data > 0, image, image, folder=tmp_path, seed=seed),
    )
    for seed in (0, 5, 2**31 - 2):
        for attempt in tries:
            with pytest.raises(RuntimeError, match="enough"):
                attempt(seed)
    kinds = ("Rigid", "Affine", "SyN")
    assert told == [(kind, str(seed + 1)) for seed in (0, 5, 2**31 - 2) for kind in kinds]
    with ants_seed(-1):
        assert 0 < int(os.environ["ANTS_RANDOM_SEED"]) < 2**31
    assert "ANTS_RANDOM_SEED" not in os.environ


def test_nothing_is_moved_where_the_headers_are_right():
    fixed = brain(0)
    found = register_rigid(fixed, brain(1))
    assert largest_error_mm(found.matrix, np.eye(4)) < 0.3 * VOXEL_MM


def test_mutual_information():
    """2 for images that determine each other, 1 for noise; least where they are apart."""
    image, other = brain(0), brain(1)
    assert mutual_information(image, other, np.eye(4)) == pytest.approx(2.0, abs=1e-6)
    rng = np.random.default_rng(0)
    noise = Volume(rng.normal(size=image.data.shape).astype(np.float32), image.affine)
    assert mutual_information(image, noise, np.eye(4)) < 1.03
    apart = [mutual_information(image, other, movement((mm, 0, 0), (0, 0, 0))) for mm in (0, 10, 30)]
    assert apart == sorted(apart, reverse=True)


def test_overlap():
    a, b = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    assert overlap(a, b) == 0
    a[:2], b[1:3] = True, True
    assert overlap(a, b) == pytest.approx(0.5)


def test_at_spacing_keeps_places():
    """Centres of mass in scanner coordinates stay where they are."""
    image = brain(0, (60, 50, 40), np.diag([2.4, 3.0, 3.9, 1.0]) @ movement((-30, -25, -20), (0, 0, 0)))
    small = at_spacing(image, 5.0)
    assert small.data.shape == (29, 30, 31)
    centres = [v.affine @ np.append(ndimage.center_of_mass(v.data), 1) for v in (image, small)]
    np.testing.assert_allclose(centres[1], centres[0], atol=0.6)
    assert at_spacing(image, 1.0) is image


def test_labels_of_a_template_come_to_a_head(tmp_path):
    """The head is the template, larger and turned: labels land on the nuclei, left and right as they were."""
    template = brain(0)
    atlas = Volume((1 * (template.data == 80) + 2 * (template.data == 90)).astype(np.int32), template.affine)
    stretch = movement((4, -6, 3), (5, 0, -7)) @ np.diag([1.1, 0.95, 1.05, 1.0])
    still = brain(0, (40, 42, 36))
    head = Volume(still.data, stretch @ still.affine)
    params = NormalisationParams(voxel_mm=5.0, coarse=10, middle=5, fine=0)
    found = normalise(head, head.data > 0, template, atlas, params, folder=tmp_path)
    assert found.labels.shape == head.data.shape
    for code, grey in ((1, 80), (2, 90)):
        assert overlap(found.labels == code, head.data == grey) > 0.75, "voxels of 5 mm"
    assert found.dice > 0.93
    assert found.correlation > 0.8
    assert all(path.parent == tmp_path and path.exists() for path in found.transforms)


def test_empty_images_are_refused():
    image = brain(0)
    empty = Volume(np.zeros_like(image.data), image.affine)
    with pytest.raises(DataError, match="moving image"):
        register_rigid(image, empty)
