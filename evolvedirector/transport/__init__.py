"""What every client of a remote service shares: limits, retries, downloads, memory of what was sent."""
