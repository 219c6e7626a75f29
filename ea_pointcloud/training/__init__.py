"""Training: recipes, the Lightning module, run folders, evaluation."""
