"""Nipype graphs: which step runs when, and where its output goes."""

from qsmprep.privacy import silence_telemetry

silence_telemetry()
