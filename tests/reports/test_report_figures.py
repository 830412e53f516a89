"""Figures: the same picture whatever the order and flips of the stored axes; left on the left."""

from __future__ import annotations

import itertools
from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
from drawing import draw_head
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from qsmprep.core.kernel import check_kernel
from qsmprep.core.units import hz_per_ppm
from qsmprep.errors import CannotWriteError, DataError
from qsmprep.reports import canvas, figures, graphs, qc
from qsmprep.reports.canvas import Strip, draw_strips
from qsmprep.reports.view import View, cut

ORIENTATIONS = [
    np.array([[axis, flip] for axis, flip in zip(order, flips, strict=True)], dtype=float)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


@pytest.fixture(scope="module")
def head():
    return draw_head()


@pytest.fixture(scope="module")
def wrapped(head):
    return {te: np.angle(np.exp(1j * head.phase_rad(te))) for te in head.te_s}


def stored(volume, affine, orientation):
    """The same volume with its axes in another order and direction."""
    moved = nib.orientations.apply_orientation(volume, orientation)
    return moved, affine @ nib.orientations.inv_ornt_aff(orientation, volume.shape)


def tilted(affine, degrees):
    """An affine turned about the left-right axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.eye(4)
    turn[1:3, 1:3] = [[c, -s], [s, c]]
    return turn @ affine


def pixels(figure):
    """RGB of a rendered figure."""
    figure_canvas = FigureCanvasAgg(figure)
    figure_canvas.draw()
    return np.asarray(figure_canvas.buffer_rgba())[..., :3].copy()


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_there_are_48_orientations():
    assert len({tuple(o.ravel()) for o in ORIENTATIONS}) == 48


def test_every_storage_order_gives_the_same_picture(head):
    affine = tilted(head.affine, 20)
    drawn = []
    for orientation in ORIENTATIONS:
        chi, moved = stored(head.chi_ppm, affine, orientation)
        mask, _ = stored(head.qsm, affine, orientation)
        view = View.from_affine(chi.shape, moved)
        inside = view.canonical(mask)
        np.testing.assert_array_equal(view.canonical(chi), head.chi_ppm)
        np.testing.assert_allclose(view.affine, affine, atol=1e-9)
        np.testing.assert_allclose(np.abs(view.grid.b0_dir), np.abs(View.from_affine(chi.shape, affine).grid.b0_dir))
        slices = tuple((p, view.indices(inside, p, 1, (0.4, 0.4))[0]) for p in ("axial", "coronal", "sagittal"))
        strip = Strip("chi", view.canonical(chi), slices, (-0.1, 0.1), "ppm")
        drawn.append(pixels(draw_strips(view, view.box(inside), [strip], dpi=40)))
    assert drawn[0].std() > 10
    for picture in drawn[1:]:
        np.testing.assert_array_equal(picture, drawn[0])


def test_whole_figure_is_the_same_for_other_storage_orders(head, tmp_path):
    reference = figures.plot_chi(head.chi_ppm, head.affine, head.qsm, tmp_path / "a.png", "TV").read_bytes()
    for number in (5, 22, 47):
        chi, moved = stored(head.chi_ppm, head.affine, ORIENTATIONS[number])
        mask, _ = stored(head.qsm, head.affine, ORIENTATIONS[number])
        other = figures.plot_chi(chi, moved, mask, tmp_path / f"{number}.png", "TV").read_bytes()
        assert other == reference


def test_left_is_on_the_left_and_superior_is_up(head):
    centre = [n // 2 for n in head.brain.shape]
    volume = np.zeros(head.brain.shape, np.float32)
    volume[centre[0] - 6, centre[1] + 5, centre[2] + 4] = 1.0
    for orientation in ORIENTATIONS:
        moved, affine = stored(volume, head.affine, orientation)
        view = View.from_affine(moved.shape, affine)
        everything = (slice(None), slice(None), slice(None))
        axial = cut(view.canonical(moved), "axial", centre[2] + 4, everything)
        coronal = cut(view.canonical(moved), "coronal", centre[1] + 5, everything)
        row, column = np.argwhere(axial)[0]
        assert column < axial.shape[1] / 2 < row * axial.shape[1] / axial.shape[0]
        row, column = np.argwhere(coronal)[0]
        assert column < coronal.shape[1] / 2
        assert row > coronal.shape[0] / 2


def test_rendered_axial_panel_shows_a_left_spot_on_its_left(head):
    view = View.from_affine(head.brain.shape, head.affine)
    volume = np.where(head.brain, 0.0, np.nan).astype(np.float32)
    spot = [n // 2 for n in volume.shape]
    volume[spot[0] - 10 : spot[0] - 6, spot[1] + 4 : spot[1] + 9, spot[2]] = 1.0
    strip = Strip("", volume, (("axial", spot[2]),), (0.0, 1.0), "")
    picture = pixels(draw_strips(view, view.box(head.brain), [strip]))
    body = picture[canvas._TITLE + 45 : -40, : canvas.WIDTH_PX - 2 * canvas._GUTTER]
    rows, columns = np.nonzero(body.min(axis=2) > 250)
    width = 470 * 132 / 176
    assert rows.size > 200
    assert np.median(columns) < width / 2
    assert np.median(rows) < body.shape[0] / 2


@pytest.mark.parametrize(("degrees", "through"), [(0, True), (20, True), (60, False)])
def test_b0_follows_the_tilt(head, degrees, through):
    view = View.from_affine(head.brain.shape, tilted(head.affine, degrees))
    right, up, towards = view.b0_in_plane("axial")
    assert np.hypot(np.hypot(right, up), towards) == pytest.approx(1)
    if through:
        assert towards == pytest.approx(np.cos(np.deg2rad(degrees)))
        assert up == pytest.approx(np.sin(np.deg2rad(degrees)))


def all_figures(head, wrapped, folder):
    """Every figure of volumes, by name."""
    first, last = head.te_s[0], head.te_s[-1]
    local_hz = head.local_ppm * hz_per_ppm(3)
    noise = np.where(head.brain, 0.3 + 0.01 * head.r2star_hz, np.nan)
    return {
        "magnitude": figures.plot_magnitude(
            head.magnitude, head.affine, head.brain, head.qsm, folder / "magnitude.png"
        ),
        "phase": figures.plot_phase(
            wrapped[first],
            wrapped[last],
            head.phase_rad(first),
            head.phase_rad(last),
            head.affine,
            head.brain,
            head.te_s,
            folder / "phase.png",
        ),
        "field": figures.plot_fieldmap(
            head.total_hz,
            local_hz,
            head.affine,
            (head.brain, head.qsm),
            folder / "field.png",
            left_hz=0.1 * local_hz,
            window_hz=figures.field_windows_hz(3),
        ),
        "residual": figures.plot_residual(noise, noise / 10, head.affine, head.brain, folder / "residual.png"),
        "chi": figures.plot_chi(head.chi_ppm, head.affine, head.qsm, folder / "chi.png", "TV"),
        "r2star": figures.plot_r2star(head.r2star_hz, head.affine, head.brain, folder / "r2star.png"),
        "difference": figures.plot_difference(
            head.chi_ppm, 0.8 * head.chi_ppm, head.affine, head.qsm, folder / "difference.png", ("TV", "TKD")
        ),
    }


def test_every_figure_is_drawn_small_and_leaves_no_temporary_file(head, wrapped, tmp_path):
    made = all_figures(head, wrapped, tmp_path / "new" / "folder")
    for name, path in made.items():
        picture = read(path)
        assert 0 < path.stat().st_size <= canvas.MAX_BYTES, name
        assert picture.shape[1] <= canvas.WIDTH_PX
        assert picture.std() > 15, name
    assert len(list((tmp_path / "new" / "folder").iterdir())) == len(made)


def test_noise_at_full_resolution_stays_within_the_size(tmp_path):
    rng = np.random.default_rng(0)
    shape = (120, 150, 110)
    chi = rng.normal(0, 0.05, shape).astype(np.float32)
    path = figures.plot_chi(chi, np.eye(4), np.ones(shape, bool), tmp_path / "noise.png", "TKD")
    assert path.stat().st_size <= canvas.MAX_BYTES


def test_wrapped_phase_is_never_interpolated(head):
    view = View.from_affine(head.brain.shape, head.affine)
    wrapped = np.where(np.indices(head.brain.shape)[0] % 2, 3.0, -3.0).astype(np.float32)
    strip = Strip("", wrapped, (("axial", 18),), (-np.pi, np.pi), "rad", "gray", smooth=False)
    picture = pixels(draw_strips(view, view.box(head.brain), [strip]))[60:-60, 20:300]
    assert not np.any((picture > 60) & (picture < 195))


def test_phase_outside_the_mask_is_not_shown(head, wrapped, tmp_path):
    first, last = head.te_s[0], head.te_s[-1]
    loud = [np.where(head.brain, v, 2.0) for v in (wrapped[first], wrapped[last], head.phase_rad(first))]
    quiet = [np.where(head.brain, v, 0.0) for v in (wrapped[first], wrapped[last], head.phase_rad(first))]
    for name, volumes in (("loud", loud), ("quiet", quiet)):
        figures.plot_phase(*volumes, None, head.affine, head.brain, head.te_s, tmp_path / f"{name}.png")
    np.testing.assert_array_equal(read(tmp_path / "loud.png"), read(tmp_path / "quiet.png"))


def test_single_echo_has_half_the_rows(head, wrapped, tmp_path):
    te = head.te_s[0]
    one = figures.plot_phase(
        wrapped[te], None, head.phase_rad(te), None, head.affine, head.brain, [te], tmp_path / "1.png"
    )
    two = figures.plot_phase(
        *[wrapped[te]] * 2, *[head.phase_rad(te)] * 2, head.affine, head.brain, [te, te], tmp_path / "2.png"
    )
    assert read(one).shape[0] == pytest.approx(read(two).shape[0] / 2, abs=12)


def test_voxels_are_shown_true_to_scale(head):
    view = View.from_affine((20, 20, 20), np.diag([1.0, 2.0, 4.0, 1.0]))
    mask = np.ones((20, 20, 20), bool)
    strip = Strip("", np.ones(mask.shape), (("axial", 10), ("coronal", 10)), (0, 1), "")
    axes = draw_strips(view, view.box(mask), [strip]).axes
    sizes = [a.get_window_extent() for a in axes[:2]]
    assert sizes[0].height / sizes[0].width == pytest.approx(2)
    assert sizes[1].height / sizes[1].width == pytest.approx(4)


def test_windows_are_stated_and_rounded():
    assert figures._round_window(np.full(100, 3.2)) == 5
    assert figures._round_window(np.full(100, 0.017)) == pytest.approx(0.02)
    assert figures._round_window(np.zeros(10)) == 1
    assert figures._round_window(np.full(100, 4.0), step=np.pi) == pytest.approx(2 * np.pi)
    assert figures.field_windows_hz(3.0) == pytest.approx((63.8662, 6.38662), rel=1e-4)


def test_bad_input_is_refused(head, tmp_path):
    target = tmp_path / "x.png"
    with pytest.raises(DataError, match="empty"):
        figures.plot_chi(head.chi_ppm, head.affine, np.zeros_like(head.qsm), target, "TV")
    with pytest.raises(DataError, match="shape"):
        figures.plot_chi(head.chi_ppm[:-1], head.affine, head.qsm, target, "TV")
    with pytest.raises(DataError, match="finite"):
        figures.plot_r2star(np.full(head.qsm.shape, np.nan), head.affine, head.qsm, target)
    with pytest.raises(DataError, match="affine"):
        figures.plot_chi(head.chi_ppm, np.eye(3), head.qsm, target, "TV")
    with pytest.raises(DataError, match="singular"):
        figures.plot_chi(head.chi_ppm, np.zeros((4, 4)), head.qsm, target, "TV")
    with pytest.raises(DataError, match="echo time"):
        figures.plot_phase(head.chi_ppm, None, head.chi_ppm, None, head.affine, head.qsm, [], target)
    with pytest.raises(DataError, match="shape"):
        figures.plot_magnitude(head.magnitude, head.affine, head.brain, head.qsm[1:], target)
    assert not target.exists()


def test_a_file_in_the_way_is_one_clear_error(head, tmp_path):
    (tmp_path / "taken").write_text("not a folder")
    with pytest.raises(CannotWriteError):
        figures.plot_r2star(head.r2star_hz, head.affine, head.brain, tmp_path / "taken" / "x.png")


def test_png_keeps_the_colours_that_are_fixed():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)
    rgb[0, :3] = [[255, 171, 46], [1, 2, 3], [250, 1, 200]]
    fixed = rgb[0, :3].copy()
    decoded = np.asarray(Image.open(BytesIO(canvas.encode_png(rgb, fixed))).convert("RGB"))
    np.testing.assert_array_equal(decoded[0, :3], fixed)
    few = rgb // 64 * 64
    exact = np.asarray(Image.open(BytesIO(canvas.encode_png(few))).convert("RGB"))
    np.testing.assert_array_equal(exact, few)


def test_graphs(head, tmp_path):
    maps = {"TV": head.chi_ppm, "TKD": 0.8 * head.chi_ppm}
    profile = qc.rim_profile(head.chi_ppm, head.qsm, head.grid, step_mm=4)
    made = [
        graphs.plot_chi_histogram(maps, head.qsm, tmp_path / "histogram.png"),
        graphs.plot_rim_profile({"TV": profile}, tmp_path / "rim.png"),
        graphs.plot_consistency(head.local_ppm, 0.9 * head.local_ppm, head.qsm, tmp_path / "consistency.png"),
        graphs.plot_kernel(
            check_kernel(head.local_ppm, 0.9 * head.chi_ppm, head.qsm, head.grid), tmp_path / "kernel.png", name="TV"
        ),
    ]
    for path in made:
        assert path.stat().st_size < canvas.MAX_BYTES
        assert read(path).std() > 5
    with pytest.raises(DataError):
        graphs.plot_chi_histogram({}, head.qsm, tmp_path / "none.png")
    with pytest.raises(DataError, match="shape"):
        graphs.plot_chi_histogram({"TV": head.chi_ppm[1:]}, head.qsm, tmp_path / "none.png")
    with pytest.raises(DataError):
        graphs.plot_rim_profile({}, tmp_path / "none.png")
    with pytest.raises(DataError, match="finite"):
        graphs.plot_consistency(head.chi_ppm, head.chi_ppm, np.zeros_like(head.qsm), tmp_path / "none.png")


def test_swi_figure_is_the_same_for_every_storage_order(head, tmp_path):
    from qsmprep.reports.swi import plot_swi

    swi = np.where(head.brain, 50 + 20 * np.sin(np.arange(head.brain.size).reshape(head.brain.shape) / 97), 0)
    minip = np.where(head.brain, swi - 5, 0)
    pictures = []
    for orientation in ORIENTATIONS[::11]:
        (image, moved), (low, _), (mask, _) = (stored(v, head.affine, orientation) for v in (swi, minip, head.brain))
        pictures.append(read(plot_swi(image, low, moved, mask, tmp_path / "swi.png", thickness_mm=6)))
    for other in pictures[1:]:
        np.testing.assert_array_equal(other, pictures[0])
    for bad in ((swi[1:], minip, head.brain), (swi, minip, 0 * head.brain)):
        with pytest.raises(DataError):
            plot_swi(bad[0], bad[1], head.affine, bad[2], tmp_path / "x.png", thickness_mm=6)
