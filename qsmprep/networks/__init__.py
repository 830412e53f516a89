"""The learned systems: torch modules, their weights and cards, and how they are run on a volume."""
