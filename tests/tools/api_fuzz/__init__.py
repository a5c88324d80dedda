"""Call everything that is public with hostile objects: ``python -m tests.tools.api_fuzz --seeds 10 --seconds 60``.

A seed decides about every call, so that a crash comes again: ``--first 3 --seeds 1 --calls 12345``. Each seed runs in a process
of its own, which writes each call to a log before it makes it (``--log FILE``; the last 50,000 are kept).

A call may raise ``TypeError``, ``ValueError`` (``FormatError`` among them), what a hostile object has raised, and
``RuntimeError`` where a scope is opened twice. All else is a fault, and so are a crash, ``SystemError``, a thread or finaliser
that fails, a process that hangs, and ``statistics()`` that does not add up. ``--keep-going`` collects faults that are no crash.
"""
