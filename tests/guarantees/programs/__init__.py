"""Random programs: trees of work whose plan alone says what every span's parent must be.

A program is a tree of ``Node`` (nodes, handoffs, generators); Hypothesis draws it (strategy), so that what fails shrinks.
``Program`` walks it once with a model of scopes that knows nothing of tracekit ("innermost open scope of this task; what a task inherits at its spawn stays"), and
notes for each span parent, links and labels. Then the tree is written out as Python source, which is what runs,
and what is printed when it fails. ``Runner`` runs it, and compares what was recorded.

    python -m tests.guarantees.programs --count 2000 --backend asyncio --statistics

What makes a plan that no interleaving can change:

- A *chain* is one flow of control: a task and whatever it waits for, in other tasks and threads too. Only its own chain closes the
  scopes of a frame, or steps a generator. What is spawned and not awaited is a chain of its own.
- A *region* is the inside of what may be cancelled. What is in a region that was hit may be missing, never wrong; and nothing
  in it may change what outlives it.
- After a scope was closed from another Context, its opener asks tracekit once before a spawn that asks nothing by
  itself: the one case that is not guaranteed (ARCHITECTURE.md, "Scopes").
"""
