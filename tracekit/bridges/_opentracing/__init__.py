"""OpenTracing: spans, scopes and the binary format."""
