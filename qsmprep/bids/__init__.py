"""What there is to process (acquisitions, preflight) and what is written (names, sidecars, data set files)."""
