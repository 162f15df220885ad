"""Evolving pairs: which subjects and kinds of change a student fails, and which pairs are made of that next."""
