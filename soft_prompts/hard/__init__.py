"""Prompts in legal tokens: what a prompt may say, what it is searched for, and how."""
