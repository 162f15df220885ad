"""Recipes as YAML files; `path()` says where they are installed."""
