"""The page: complete, self-contained, escaped, small, accessible, light to import."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from test_report_record import full_record

from qsmprep.errors import CannotWriteError, DataError
from qsmprep.reports import page
from qsmprep.reports.definitions import FIGURES, METRICS, make_figure, make_metric
from qsmprep.reports.page import render_subject_page, write_subject_page
from qsmprep.reports.prose import citation, markdown, number
from qsmprep.reports.record import ErrorEntry, FigureRef, Row, WarningEntry

NASTY = "<script>alert('x')</script>&\"'{{7*7}}"
VOID = {"meta", "img", "input", "br", "link", "hr"}


class Reader(HTMLParser):
    """Collects what a browser would load, the headings, ids and images, and checks the nesting."""

    def __init__(self, html):
        super().__init__()
        self.loads, self.links, self.ids, self.headings, self.images, self.tags = [], [], [], [], [], []
        self.open, self.faults, self.texts = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(values["href"])
        elif tag == "img":
            self.images.append(values)
        for name in ("src", "srcset", "data", "poster", "action", "background"):
            if name in values:
                self.loads.append(values[name])
        if tag != "a" and "href" in values:
            self.loads.append(values["href"])
        if "id" in values:
            self.ids.append(values["id"])
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def png(path, size=(60, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(path)


@pytest.fixture
def complete(tmp_path):
    """A record with every stage and metric, and its figures on disk."""
    drawn = []
    for count, stage in enumerate(FIGURES):
        name = f"sub-01/figures/sub-01_desc-{stage}.png"
        png(tmp_path / name, seed=count)
        drawn.append(make_figure(stage, name, name="TV"))
    metrics = tuple(make_metric(key, 0.1234 + n) for n, key in enumerate(METRICS))
    return full_record(figures=tuple(drawn), metrics=metrics), tmp_path


def test_page_holds_every_figure_and_every_number(complete):
    record, out = complete
    path = write_subject_page(out, "sub-01", [record])
    assert path == out / "sub-01.html"
    reader = Reader(path.read_text(encoding="utf-8"))
    embedded = {base64.b64decode(load.split(",", 1)[1]) for load in reader.loads}
    for figure in record.figures:
        assert (out / figure.file).read_bytes() in embedded
        assert figure.title in reader.text
        assert figure.caption in reader.text
    for metric in record.metrics:
        assert metric.name in reader.text
        assert number(metric.value) in reader.text
    assert len(reader.images) == len(record.figures)
    assert [p.name for p in out.glob("*.html*")] == ["sub-01.html"]


def test_sections_are_in_the_order_of_reading(complete):
    record, out = complete
    html = render_subject_page(out, "01", [record])
    anchors = ["summary", "a1-inputs", *(f"a1-{anchor}" for anchor, _, _ in page.SECTIONS)]
    anchors += ["a1-resources", "a1-checklist", "a1-methods"]
    places = [html.index(f'id="{anchor}"') for anchor in anchors]
    assert places == sorted(places)


def test_page_loads_nothing_from_outside(complete):
    record, out = complete
    html = render_subject_page(out, "01", [record])
    reader = Reader(html)
    assert reader.loads and all(load.startswith("data:image/png;base64,") for load in reader.loads)
    assert "script" not in reader.tags and "link" not in reader.tags
    assert not re.search(r"url\(|@import|<iframe", html)
    outside = [link for link in reader.links if not link.startswith("#")]
    assert outside and all(link.startswith("https://doi.org/10.") for link in outside)
    assert "default-src 'none'" in html
    ids = set(reader.ids)
    assert all(link[1:] in ids for link in reader.links if link.startswith("#"))


def test_page_is_well_formed_and_accessible(complete):
    record, out = complete
    errors = [ErrorEntry("sub-01_run-2", "no phase", "add it", "log/crash.txt")]
    reader = Reader(render_subject_page(out, "01", [record, record], errors))
    assert reader.faults == [] and reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert all(len(image["alt"]) > 20 and image["width"] and image["height"] for image in reader.images)
    assert reader.headings[0] == 1 and reader.headings.count(1) == 1
    assert all(b - a <= 2 for a, b in zip(reader.headings, reader.headings[1:], strict=False))


def contrast(a, b):
    """WCAG contrast ratio of two hex colours."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_contrast_in_light_and_dark(complete):
    record, out = complete
    html = render_subject_page(out, "01", [record])
    schemes = [
        dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block)) for block in re.findall(r":root \{[^}]*\}", html)
    ]
    assert len(schemes) == 2
    for scheme in schemes:
        for ink, paper in (("ink", "paper"), ("soft", "paper"), ("soft", "panel"), ("link", "paper")):
            assert contrast(scheme[ink], scheme[paper]) >= 4.5
        for level in ("ok", "check", "failed"):
            assert contrast(scheme[level], scheme[f"{level}-bg"]) >= 4.5
            assert contrast(scheme["ink"], scheme[f"{level}-bg"]) >= 4.5


def test_everything_is_escaped(tmp_path):
    name = "sub-01/figures/<b>&'\".png"
    png(tmp_path / name)
    record = full_record(
        key=f"sub-01_acq-{NASTY}",
        inputs=(Row(NASTY, NASTY, NASTY),),
        warnings=(WarningEntry(NASTY, NASTY),),
        metrics=(make_metric("snr", 9.0, of=NASTY),),
        figures=(FigureRef("chi", NASTY, name, NASTY, NASTY), FigureRef(NASTY, NASTY, NASTY, NASTY, NASTY)),
        methods_markdown=f"# {NASTY}\n\n- {NASTY}\n\n`{NASTY}` **{NASTY}**",
        bibliography=(NASTY, f'doi:10.1/x"onclick="{NASTY}', "https://doi.org/10.1000/<b>x</b>"),
        settings={NASTY: {NASTY: NASTY}},
        versions={"qsmprep": NASTY},
        metadata={"Manufacturer": NASTY},
        errors=(ErrorEntry(NASTY, NASTY, NASTY, NASTY),),
    )
    html = render_subject_page(tmp_path, "01", [record], [ErrorEntry(NASTY, NASTY)])
    reader = Reader(html)
    assert "script" not in reader.tags and "b" not in reader.tags
    assert "onclick" not in {k for image in reader.images for k in image}
    assert "49" not in re.sub(r"base64,[^\"]*", "", html).split("</style>")[1]
    assert reader.faults == [] and reader.open == []
    assert len(reader.images) == 1
    assert reader.text.count("<script>alert('x')</script>") > 15


def test_a_missing_figure_is_said_and_makes_the_page_a_check(complete):
    record, out = complete
    good = full_record()
    (out / "sub-01/figures/sub-01_desc-phase.png").unlink()
    (out / "sub-01/figures/sub-01_desc-chi.png").write_bytes(b"\x89PNG broken")
    reader = Reader(render_subject_page(out, "01", [record]))
    assert len(reader.images) == len(record.figures) - 2
    assert reader.text.count("The figure is missing.") == 2
    assert "the figure sub-01/figures/sub-01_desc-phase.png is missing" in reader.text
    assert "the figure" in Reader(render_subject_page(out, "01", [good])).text


def test_nothing_outside_the_output_folder_is_embedded(tmp_path):
    png(tmp_path / "secret.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "link.png").symlink_to(tmp_path / "secret.png")
    figures = tuple(
        FigureRef("chi", "t", f, "alt") for f in ("../secret.png", str(tmp_path / "secret.png"), "link.png")
    )
    reader = Reader(render_subject_page(out, "01", [full_record(figures=figures)]))
    assert reader.images == []
    assert reader.text.count("The figure is missing.") == 3


def test_page_stays_under_8_mb_with_many_figures(tmp_path):
    figures = []
    for n in range(12):
        name = f"sub-01/figures/{n}.png"
        png(tmp_path / name, size=(700, 500), seed=n)
        figures.append(FigureRef("chi", f"Figure {n}", name, "noise"))
    assert sum((tmp_path / f.file).stat().st_size for f in figures) > 12e6
    path = write_subject_page(tmp_path, "01", [full_record(figures=tuple(figures))])
    assert path.stat().st_size < 8_000_000
    reader = Reader(path.read_text())
    assert len(reader.images) == 12
    for image in reader.images:
        shown = Image.open(BytesIO(base64.b64decode(image["src"].split(",")[1])))
        assert shown.size == (int(image["width"]), int(image["height"]))
        assert shown.width >= 300


@pytest.mark.parametrize(
    ("changes", "errors", "badge"),
    [
        ({}, (), "✓ OK"),
        ({"warnings": (WarningEntry("odd", "fix"),)}, (), "! Check"),
        ({"errors": (ErrorEntry("mask", "empty"),)}, (), "✗ Failed"),
        ({}, (ErrorEntry("sub-01_run-2", "no phase"),), "✗ Failed"),
    ],
)
def test_the_badge_beside_the_title_is_the_worst_verdict(tmp_path, changes, errors, badge):
    html = render_subject_page(tmp_path, "01", [full_record(figures=(), **changes)], errors)
    title = re.search(r"<h1>(.*?)</h1>", html, re.S)[1]
    assert badge in title


def test_errors_show_cause_remedy_and_crash_file(tmp_path):
    entry = ErrorEntry("inversion tv", "not enough memory", "give it 16 GB", "sub-01/log/crash-1.txt")
    reader = Reader(render_subject_page(tmp_path, "01", [full_record(figures=(), errors=(entry,))]))
    for text in (entry.step, entry.cause, entry.remedy, entry.crash_file):
        assert text in reader.text


def test_a_subject_without_any_record_still_gets_a_page(tmp_path):
    path = write_subject_page(tmp_path, "07", [], [ErrorEntry("sub-07", "no phase", "add part-phase")])
    text = Reader(path.read_text()).text
    assert "No acquisition of this subject was finished" in text and "add part-phase" in text
    assert "! Check" in render_subject_page(tmp_path, "07", [])


def test_writing_twice_replaces_and_is_the_same(complete):
    record, out = complete
    first = write_subject_page(out, "01", [record]).read_bytes()
    assert write_subject_page(out, "01", [record]).read_bytes() == first


@pytest.mark.parametrize("label", ["", "sub-", "../x", ".hidden", "a/b"])
def test_odd_labels_are_refused(tmp_path, label):
    with pytest.raises(DataError):
        write_subject_page(tmp_path, label, [])


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(CannotWriteError):
        write_subject_page(tmp_path / "taken", "01", [])


def test_prose():
    assert str(markdown("# A\n\none *two* **three** `x`\n\n- a\n- b")) == (
        "<h5>A</h5>\n<p>one <em>two</em> <strong>three</strong> <code>x</code></p>\n<ul><li>a</li><li>b</li></ul>"
    )
    assert str(markdown("")) == ""
    assert 'href="https://doi.org/10.1002/mrm.28563"' in str(citation("X. doi:10.1002/mrm.28563."))
    assert str(citation("no doi")) == "no doi"
    assert [number(v) for v in (None, float("nan"), True, 3, 2.0, [1.0, 2], -0.5)] == [
        "n/a",
        "n/a",
        "yes",
        "3",
        "2",
        "1, 2",
        "−0.5",
    ]
    assert [page._duration(s) for s in (None, 3.21, 75, 3725)] == ["n/a", "3.2 s", "1 min 15 s", "1 h 02 min"]


def test_reports_import_neither_nipype_nor_pybids_nor_torch():
    code = (
        "import sys, importlib\n"
        "for m in ('figures','graphs','qc','record','definitions','checklist','embed','prose','page'):\n"
        "    importlib.import_module('qsmprep.reports.' + m)\n"
        "heavy = {'torch', 'nipype', 'bids', 'niworkflows', 'nilearn', 'matplotlib.pyplot', 'pandas'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
