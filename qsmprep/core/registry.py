"""What a method is, and how it is looked up, configured and called.

A method is registered once, in :mod:`qsmprep.core.methods`: its name, its function (as an import
path, so that ``--help`` need not import torch), its parameters (a frozen dataclass whose fields
carry unit and meaning), the keys of its citations and one sentence for the methods text.
The command line, the sidecars, the report and the boilerplate read nothing else.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qsmprep.errors import UsageError


def parameter(
    default: float | int | bool | str,
    meaning: str,
    *,
    unit: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    zero: str = "",
) -> Any:
    """A dataclass field that knows its unit, its meaning and its limits (both included).

    Where zero is no quantity but a way to choose one, ``zero`` says so in the words of the methods text.
    """
    metadata = {"meaning": meaning, "unit": unit, "low": low, "high": high, "choices": choices, "zero": zero}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Method:
    """One registered method.

    Parameters
    ----------
    step : str
        The step it does: ``unwrap``, ``combine``, ``mask``, ``background``, ``inversion`` …
    name : str
        Its name on the command line and in ``desc-<name>`` of the output files; lower case
        letters and digits only.
    title : str
        Its name in prose, for example ``V-SHARP``.
    target : str
        ``module:function``.
    parameters : type
        Frozen dataclass built with :func:`parameter`.
    sentence : str
        For the methods text; ``{field}`` is replaced by the value of a parameter.
    citations : tuple of str
        Keys in ``data/bibliography.bib``.
    extras : tuple of str
        Further optional volumes that it takes by keyword, for example ``csf``.
    takes : str
        Of an inversion: ``local`` for the local field, less what background removal left in it where that is taken
        off; ``remainder`` for the local field with that, ``total`` for the field before background removal.
    model : str
        Name of the weight files of a trained network; that of the method where empty.
    """

    step: str
    name: str
    title: str
    target: str
    parameters: type
    sentence: str
    citations: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    takes: str = "local"
    model: str = ""

    @property
    def learned(self) -> bool:
        """Whether it is a trained network, which needs its weights."""
        return self.target.startswith("qsmprep.networks.")

    def load(self) -> Callable[..., Any]:
        """Import and return the function."""
        module, function = self.target.split(":")
        return getattr(importlib.import_module(module), function)

    def configure(self, overrides: Mapping[str, Any] | None = None) -> Any:
        """The parameters, with ``overrides`` (text or numbers) checked and put in.

        Raises
        ------
        UsageError
            For an unknown parameter, a value of the wrong type, or one outside its limits.
        """
        known = {f.name: f for f in dataclasses.fields(self.parameters)}
        values = {}
        for key, value in (overrides or {}).items():
            if key not in known:
                raise UsageError(
                    f"`{self.name}` has no parameter `{key}`",
                    expected=f"one of {', '.join(known) or 'none at all'}",
                )
            values[key] = _coerce(self.name, known[key], value)
        return self.parameters(**values)

    def describe(self, params: Any) -> str:
        """The sentence for the methods text, with these parameters; those that zero chooses come with their unit."""
        values = dataclasses.asdict(params)
        for field in dataclasses.fields(params):
            words, value = field.metadata.get("zero"), values[field.name]
            if words:
                values[field.name] = f"{value:g} {field.metadata['unit']}".rstrip() if value else words
        return self.sentence.format(**values)


def _coerce(method: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """Bring a value given as text or number to the type of the field's default, and check it."""
    default: Any = field.default
    kind, name = type(default), f"{method}.{field.name}"
    try:
        if kind is bool:
            result: Any = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                str(value).lower()
            ]
        elif kind is int:
            result = int(str(value))
        else:
            result = kind(value)
    except (KeyError, ValueError, TypeError):
        raise UsageError(f"`{name}` is {value!r}", expected=f"a value of type {kind.__name__}") from None
    choices = field.metadata.get("choices", ())
    if choices and result not in choices:
        raise UsageError(f"`{name}` is {value!r}", expected=f"one of {', '.join(choices)}")
    if kind in (int, float):
        low, high = field.metadata["low"], field.metadata["high"]
        if not (math.isfinite(result) and low <= result <= high):
            unit = field.metadata["unit"]
            raise UsageError(f"`{name}` is {value!r}", expected=f"{low} to {high} {unit}".rstrip())
    return result


class Registry:
    """Methods by step and name, in the order of registration (the first is the default)."""

    def __init__(self, methods: tuple[Method, ...]) -> None:
        self._methods: dict[str, dict[str, Method]] = {}
        for method in methods:
            step = self._methods.setdefault(method.step, {})
            if method.name in step:
                raise ValueError(f"method {method.step}/{method.name} is registered twice")
            step[method.name] = method

    def __iter__(self) -> Iterator[Method]:
        for step in self._methods.values():
            yield from step.values()

    def steps(self) -> tuple[str, ...]:
        """All steps."""
        return tuple(self._methods)

    def names(self, step: str) -> tuple[str, ...]:
        """Names of the methods of a step; the first is the default."""
        return tuple(self._methods.get(step, {}))

    def get(self, step: str, name: str) -> Method:
        """The method of that name.

        Raises
        ------
        UsageError
            When there is none; the message lists what there is.
        """
        try:
            return self._methods[step][name]
        except KeyError:
            raise UsageError(
                f"no {step} method is called {name!r}",
                expected=f"one of {', '.join(self.names(step))}",
            ) from None
