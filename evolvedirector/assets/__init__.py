"""Artwork and captions of others, obtained on request into the cache folder; none of it is part of the project."""
