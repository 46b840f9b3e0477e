"""Training interventions: the recipe, the run, the loop and what it records."""
