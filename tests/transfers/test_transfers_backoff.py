"""Reading ahead yields to memory, and asks the system no more often than it must."""

from __future__ import annotations

from residency.transfers._backoff import Backoff

GIB = 1024**3


def told(*available_gib: float, pressure: float = 0.0, look_s: float = 3600.0):
    """A backoff that keeps 1 GiB free of a system that answers with these in turn, and the list of its looks."""
    answers, looks = iter(available_gib), []

    def available() -> int:
        looks.append(next(answers))
        return int(looks[-1] * GIB)

    return Backoff(available, GIB, lambda: pressure, 10.0, 0.1, look_s), looks


def test_between_two_looks_what_was_read_counts_as_taken():
    backoff, looks = told(4, 4)
    assert [backoff.refusal(GIB) for _ in range(3)] == [None] * 3
    assert looks == [4]
    assert backoff.refusal(GIB) is None and looks == [4, 4]  # nothing seemed to be left: it looks again


def test_an_old_look_refuses_nobody_and_a_new_one_does():
    backoff, looks = told(2, 1.5)
    assert backoff.refusal(GIB) is None
    refusal = backoff.refusal(GIB)
    assert refusal is not None and "1.50 GiB" in refusal and "1.00 GiB must stay so" in refusal
    assert looks == [2, 1.5]


def test_it_looks_again_when_the_last_look_is_old():
    backoff, looks = told(9, 9, 9, look_s=0.0)
    assert [backoff.refusal(GIB) for _ in range(3)] == [None] * 3
    assert looks == [9, 9, 9]


def test_tasks_that_wait_for_memory_slow_it_down():
    slow, _ = told(9, pressure=11.0)
    quick, _ = told(9, pressure=9.0)
    assert slow.refusal(1) is None and slow.pause() == 0.1
    assert quick.refusal(1) is None and quick.pause() == 0.0
