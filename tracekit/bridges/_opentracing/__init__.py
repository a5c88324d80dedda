"""OpenTracing: spans and scopes."""
