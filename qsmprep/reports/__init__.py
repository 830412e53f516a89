"""Figures, quality metrics and the page of a subject: drawn from arrays, written from the output folder alone."""
