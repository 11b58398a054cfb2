"""Whatever the world of shuffled.py does, in whatever order: budgets are kept, nothing waits for ever, every trace ends."""

from __future__ import annotations

import shuffled

STEPS = 100_000  # about 20 s; `python tests/shuffled.py --steps 1000000` goes on


def test_no_order_of_events_and_faults_breaks_what_must_hold(capsys):
    assert shuffled.main(["--steps", str(STEPS)]) == 0
    assert "held" in capsys.readouterr().out


def test_a_seed_is_one_history():
    def told(seed):
        lines = []
        shuffled.run(seed, lines.append)
        return lines

    assert told(12) == told(12) != told(13)
