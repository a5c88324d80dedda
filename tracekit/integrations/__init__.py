"""Integrations, one file each; import the one you use."""
