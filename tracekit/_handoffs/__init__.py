"""How a context crosses to other tasks, threads, processes and queues."""
