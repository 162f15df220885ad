"""Artwork and captions of others, obtained on request into the user's cache folder; none of it is part of the project."""
