"""Nipype interfaces: load, call one pure function, save."""

from qsmprep.privacy import silence_telemetry

silence_telemetry()
