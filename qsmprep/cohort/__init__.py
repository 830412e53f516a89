"""The group level: tables, models and outliers of a cohort, from what the participant level wrote."""
