"""Random programs on each backend: every span has the parent, the links and the labels that the plan says.

``make guarantees`` runs thousands.
"""

from __future__ import annotations

import pytest

from tests.tools.backends import BACKENDS
from tests.tools.garbage import always_collecting

from .programs.handoffs import CALLS, Call, Send, Take, Task
from .programs.program import Program
from .programs.running import Runner, check_programs

WAYS = {way.name: way for way in CALLS}


@pytest.mark.parametrize("backend", BACKENDS)
def test_fifty_random_programs_go_as_planned(backend):
    with Runner(backend) as runner:
        check_programs(runner, 50)
    assert runner.spans > 500, "the programs do something"


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_programs_go_as_planned_while_another_thread_collects_garbage(backend):
    with Runner(backend) as runner, always_collecting():
        check_programs(runner, 15, first=10_000)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", ["call", "wrap"])
def test_no_program_calls_anyio_where_a_context_hides_the_loop_from_it(backend, way):
    """A worker thread's Context hides it, on asyncio, from a call on the loop that no task makes."""
    spawned = [Task("start_soon", 0, 0, []), Send("stream", False, [])]
    on_loop = Call(WAYS["from_thread.run_sync"], 0, [Call(WAYS[way], 0, spawned)])
    program = Program(BACKENDS[backend][0], [Call(WAYS["anyio.to_thread"], 0, [Take("sync"), on_loop])])
    with Runner(backend) as runner:
        runner.check(program)
    are_left_out = way == "wrap" and backend != "trio"
    assert [node.is_alive for node in spawned] == [not are_left_out] * 2
