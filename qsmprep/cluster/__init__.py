"""Cohorts on a cluster: SLURM scripts, what they ask for, and what became of them."""
