"""Buying images: who is asked first, what is never bought twice, which image wins."""
