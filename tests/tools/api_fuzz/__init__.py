"""A random API fuzz with hostile objects: ``python -m tests.tools.api_fuzz --seeds 10 --seconds 60``.

The seed determines every call, so a crash can be replayed: ``--first 3 --seeds 1 --calls 12345``. Each seed runs in a separate
process, which writes every call to a log before making it (``--log FILE``, the last 50,000 calls).

A call may raise ``TypeError``, ``ValueError`` (including ``FormatError``), ``RuntimeError`` for a scope that is opened twice, and
the exceptions of hostile objects. Any other exception is a fault, as are a crash, ``SystemError``, a failing thread or
finalizer, a hang, and ``statistics()`` that does not add up. ``--keep-going`` collects all faults except crashes.
"""
