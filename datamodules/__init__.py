"""Datamodules: how data reaches the student."""
