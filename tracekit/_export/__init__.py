"""The export pipeline: the protocol of exporters, the pipeline's thread, and notices in the log."""
