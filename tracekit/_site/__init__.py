"""The folder that ``tracekit run`` puts on PYTHONPATH; it holds ``sitecustomize`` alone."""
