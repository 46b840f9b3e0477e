"""Measuring a finished intervention."""
