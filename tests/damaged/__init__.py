"""Damaged files, weights, runs, archives, recipes and descriptions; see ``__main__``."""
