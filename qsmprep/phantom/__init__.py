"""A synthetic head: drawn in template space, warped into subjects, scanned, and written as a BIDS data set."""
