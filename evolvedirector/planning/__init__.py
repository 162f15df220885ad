"""What a run needs, costs and may run into, worked out before it starts: what `check` prints."""
