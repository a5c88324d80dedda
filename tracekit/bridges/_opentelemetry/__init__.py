"""The parts of the OpenTelemetry bridge. This file imports nothing: ``entry`` is loaded while the API is."""
