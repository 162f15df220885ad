"""Teachers behind an API."""
