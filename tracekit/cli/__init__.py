"""The command ``tracekit``: one command a file."""
