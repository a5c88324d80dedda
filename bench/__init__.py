"""Benches: ``pytest bench`` measures tracekit layer by layer, ``python -m bench.compare`` beside its peers."""
