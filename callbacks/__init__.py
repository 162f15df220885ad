"""Callbacks: when things happen."""
