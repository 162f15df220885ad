"""No secret in a config, on a command line, in a file or on a page."""
