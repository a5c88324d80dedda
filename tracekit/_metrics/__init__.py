"""Parts of ``tracekit.metrics``: instruments, histograms, and their encodings."""
