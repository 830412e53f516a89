"""Maps in template space: back along a known registration, left and right as they were."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from test_registration import brain, movement

from qsmprep.core.parameters import NormalisationParams
from qsmprep.core.registration import Volume, normalise, read_matrix
from qsmprep.core.template import to_template, write_matrix
from qsmprep.errors import DataError


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A head that is the template, larger and turned, and the template brought to it."""
    folder = tmp_path_factory.mktemp("template")
    template = brain(0)
    still = brain(0, (40, 42, 36))
    head = Volume(still.data, movement((4, -6, 3), (5, 0, -7)) @ np.diag([1.1, 0.95, 1.05, 1.0]) @ still.affine)
    params = NormalisationParams(voxel_mm=5.0, coarse=10, middle=5, fine=0)
    found = normalise(head, head.data > 0, template, template, params, folder=folder)
    return template, head, found


def bright(head: Volume) -> Volume:
    """A map on the grid of a head, in which both nuclei differ."""
    data = np.select([head.data == 80, head.data == 90], [0.1, -0.1], 0.02)
    return Volume(data.astype(np.float32), head.affine)


def test_nuclei_come_to_their_place(registered, tmp_path):
    template, head, found = registered
    chi, there = to_template(
        bright(head), head.data > 0, template, found.transforms[-1], found.inverse_warp, folder=tmp_path
    )
    assert chi.shape == there.shape == template.data.shape
    assert chi.dtype == np.float32 and there.dtype == bool
    agree = 2 * (there & (template.data > 0)).sum() / (there.sum() + (template.data > 0).sum())
    assert agree > 0.93
    assert np.all(chi[~there] == 0)
    for grey, value in ((80, 0.1), (90, -0.1)):
        assert np.median(chi[(template.data == grey) & there]) == pytest.approx(value, abs=0.03)
    expected = gaussian_filter(bright(template).data, 0.7)
    assert np.corrcoef(chi[there], expected[there])[0, 1] > 0.85


def test_the_edge_is_not_mixed_with_what_is_outside(registered, tmp_path):
    template, head, found = registered
    flat = Volume(np.where(head.data > 0, 0.05, 9.0).astype(np.float32), head.affine)
    chi, there = to_template(flat, head.data > 0, template, found.transforms[-1], found.inverse_warp, folder=tmp_path)
    np.testing.assert_allclose(chi[there], 0.05, atol=1e-5)


def test_a_map_of_another_image_is_brought_by_its_matrix(registered, tmp_path):
    """The map lies elsewhere in the scanner, in another order of axes; the matrix says where."""
    template, head, found = registered
    shift = movement((12, 5, -9), (0, 6, 3))
    chi = bright(head)
    turned = np.ascontiguousarray(chi.data.transpose(2, 0, 1)[:, ::-1])
    axes = np.zeros((4, 4))
    axes[2, 0], axes[0, 1], axes[1, 2], axes[3, 3] = 1, -1, 1, 1
    axes[0, 3] = chi.data.shape[0] - 1
    moved = Volume(turned, np.linalg.inv(shift) @ chi.affine @ axes)
    mask = np.ascontiguousarray((head.data > 0).transpose(2, 0, 1)[:, ::-1])
    names = (found.transforms[-1], found.inverse_warp)
    plain, _ = to_template(chi, head.data > 0, template, *names, folder=tmp_path)
    other, there = to_template(moved, mask, template, *names, matrix=shift, folder=tmp_path)
    assert np.corrcoef(plain[there], other[there])[0, 1] > 0.99
    np.testing.assert_allclose(read_matrix(tmp_path / "to_image.mat"), shift, atol=1e-5)


def test_matrices_survive_the_file(tmp_path):
    matrix = movement((3, -7, 11), (10, -20, 30))
    np.testing.assert_allclose(read_matrix(write_matrix(matrix, tmp_path / "m.mat")), matrix, atol=1e-5)


def test_what_does_not_fit_is_refused(registered, tmp_path):
    template, head, found = registered
    names = (found.transforms[-1], found.inverse_warp)
    with pytest.raises(DataError, match="shape"):
        to_template(bright(head), head.data[1:] > 0, template, *names, folder=tmp_path)
    far = Volume(bright(head).data, movement((900, 0, 0), (0, 0, 0)) @ head.affine)
    with pytest.raises(DataError, match="nothing of the map"):
        to_template(far, head.data > 0, template, *names, folder=tmp_path)
