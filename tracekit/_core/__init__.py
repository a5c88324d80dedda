"""The model: contexts, scopes, spans, and the values that they hold."""
