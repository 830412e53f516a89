"""The register of methods: what it refuses, and that every entry keeps the promises of its step."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsmprep.core.methods import METHODS
from qsmprep.core.registry import Method, Registry, parameter
from qsmprep.errors import UsageError

ALL = list(METHODS)
IDS = [f"{method.step}-{method.name}" for method in ALL]
LEADING = {
    "mask": ("magnitude", "grid", "params"),
    "unwrap": ("phase_rad", "magnitude", "mask", "te_s", "grid", "params"),
    "combine": ("unwrapped_rad", "phase_rad", "magnitude", "mask", "te_s", "params"),
    "background": ("field_ppm", "mask", "grid", "params", "weights", "device"),
    "inversion": ("field_ppm", "mask", "grid", "params", "weights", "magnitude", "rad_per_ppm", "device"),
}
KEYWORD_ONLY = {"weights", "magnitude", "rad_per_ppm", "device"}


@dataclass(frozen=True)
class ExampleParams:
    """One parameter of every kind."""

    length_mm: float = parameter(2.0, "a length", unit="mm", low=0.5, high=8.0)
    count: int = parameter(3, "a number", low=1)
    switch: bool = parameter(False, "a switch")
    kind: str = parameter("cube", "a shape", choices=("cube", "ball"))


EXAMPLE = Method(
    "draw", "example", "Example", "math:sqrt", ExampleParams, "Drawn as a {kind} of {length_mm:g} mm", ("otsu1979",)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("TRUE", True), ("1", True), ("yes", True), ("False", False), ("0", False), ("no", False)],
)
def test_switches_from_text(text, value):
    assert EXAMPLE.configure({"switch": text}).switch is value


def test_text_and_numbers_come_to_the_type_of_the_default():
    params = EXAMPLE.configure({"length_mm": "4", "count": "7", "kind": "ball"})
    assert params == ExampleParams(4.0, 7, False, "ball")
    assert type(params.length_mm) is float
    assert type(params.count) is int
    assert EXAMPLE.configure() == EXAMPLE.configure({}) == ExampleParams()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("length", "4", "no parameter `length`"),
        ("length_mm", "wide", "a value of type float"),
        ("length_mm", None, "a value of type float"),
        ("length_mm", "nan", "0.5 to 8.0 mm"),
        ("length_mm", "inf", "0.5 to 8.0 mm"),
        ("length_mm", "0.49", "0.5 to 8.0 mm"),
        ("length_mm", "8.01", "0.5 to 8.0 mm"),
        ("count", "2.5", "a value of type int"),
        ("count", "0", "1 to inf"),
        ("switch", "perhaps", "a value of type bool"),
        ("kind", "cone", "one of cube, ball"),
    ],
)
def test_what_is_refused(key, value, told):
    with pytest.raises(UsageError, match=re.escape(told)) as caught:
        EXAMPLE.configure({key: value})
    assert caught.value.exit_code == 2
    assert "example" in str(caught.value)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_limits_are_closed(value):
    if math.isfinite(value) and 0.5 <= value <= 8.0:
        assert EXAMPLE.configure({"length_mm": value}).length_mm == value
    else:
        with pytest.raises(UsageError):
            EXAMPLE.configure({"length_mm": value})


def test_sentence_takes_the_values():
    assert EXAMPLE.describe(ExampleParams(length_mm=3.0)) == "Drawn as a cube of 3 mm"


def test_registry_keeps_the_order_and_refuses_doubles():
    other = dataclasses.replace(EXAMPLE, name="other")
    registry = Registry((EXAMPLE, other))
    assert registry.names("draw") == ("example", "other")
    assert registry.steps() == ("draw",)
    assert registry.names("paint") == ()
    assert registry.get("draw", "other") is other
    with pytest.raises(ValueError, match="twice"):
        Registry((EXAMPLE, EXAMPLE))


@pytest.mark.parametrize(("step", "name"), [("inversion", "no"), ("no", "tv"), ("background", "tv")])
def test_unknown_names_are_a_usage_error(step, name):
    with pytest.raises(UsageError, match="called") as caught:
        METHODS.get(step, name)
    assert all(known in str(caught.value) for known in METHODS.names(step))


def test_the_pipeline_has_every_step():
    assert {"unwrap", "combine", "mask", "background", "inversion", "reference"} <= set(METHODS.steps())


def test_defaults_change_only_on_purpose():
    """They change results: see that the changelog, the README and its tables change along."""
    assert {step: METHODS.names(step)[0] for step in METHODS.steps()} == {
        "artefacts": "artefacts",
        "offset": "mcpc3ds",
        "unwrap": "romeo",
        "combine": "robust",
        "relaxometry": "nlls",
        "swi": "clearswi",
        "mask": "auto",
        "quality": "consensus",
        "background": "tfi",
        "remainder": "weakharmonic",
        "inversion": "conenet",
        "reference": "wholebrain",
        "cosmos": "cosmos",
        "roi": "roistats",
        "coregistration": "rigid",
        "segmentation": "atlas",
        "sighting": "t1wunetr",
        "nuclei": "unetr",
    }


def test_names_differ_across_steps():
    """The command line gives parameters as METHOD.NAME, without the step; one class may serve several steps."""
    with_parameters = [name for name, kind in {(m.name, m.parameters) for m in ALL} if dataclasses.fields(kind)]
    assert len(with_parameters) == len(set(with_parameters))


@pytest.mark.parametrize("method", ALL, ids=IDS)
class TestEveryMethod:
    """What the command line, the sidecars and the report rely on."""

    def test_name_fits_into_a_file_name(self, method):
        assert re.fullmatch(r"[a-z][a-z0-9]*", method.name)
        assert method.title.strip() == method.title != ""

    def test_parameters_are_described(self, method):
        assert dataclasses.is_dataclass(method.parameters)
        assert method.parameters.__dataclass_params__.frozen
        for field in dataclasses.fields(method.parameters):
            assert type(field.default) in (bool, int, float, str), field.name
            assert field.metadata["meaning"], field.name
            if type(field.default) in (int, float):
                assert field.metadata["low"] <= field.default <= field.metadata["high"], field.name

    def test_defaults_pass_their_own_checks(self, method):
        defaults = method.configure()
        as_text = {key: str(value) for key, value in dataclasses.asdict(defaults).items()}
        assert method.configure(as_text) == defaults

    def test_sentence_is_complete(self, method):
        sentence = method.describe(method.configure())
        assert sentence[0].isupper()
        assert sentence[-1] not in ".,; "
        assert not set("{}") & set(sentence)

    def test_target_has_the_signature_of_its_step(self, method):
        function = method.load()
        assert callable(function)
        assert inspect.getdoc(function)
        signature = inspect.signature(function).parameters
        expected = LEADING.get(method.step)
        if expected is None:
            first = METHODS.get(method.step, METHODS.names(method.step)[0])
            expected = tuple(inspect.signature(first.load()).parameters)
        assert tuple(signature) == (*expected, *method.extras)
        assert all(signature[name].default is None for name in method.extras)
        for name in KEYWORD_ONLY & set(signature) if method.step in ("background", "inversion") else ():
            assert signature[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert signature[name].default == ("cpu" if name == "device" else None)
