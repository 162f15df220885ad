"""Scores of images: what a judge or a metric says about one image and its prompt."""
