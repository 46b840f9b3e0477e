"""Behaviours: what is scored, and how well it is met."""
