"""The embedded world: grammar, artists and reader; needs no download."""
