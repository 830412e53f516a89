"""qsmprep: quantitative susceptibility mapping as a BIDS App."""
