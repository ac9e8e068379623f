"""The history of a memory on its own."""

from gnm.memory.history import History
from memory_files import some_state


def test_a_copy_has_the_same_bound_and_goes_its_own_way():
    history = History(2)
    for _ in range(2):
        history.push(some_state(), {})
    copied = history.copy()
    copied.push(some_state(), {"0": "new"})
    assert len(copied) == len(history) == 2
    assert copied.pop()[1] == {"0": "new"} and history.pop()[1] == {}
