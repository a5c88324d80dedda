"""Files that other programs open: a trace in the format of another tool."""
