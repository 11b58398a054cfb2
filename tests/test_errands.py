"""The one helper thread: jobs in their order, whatever they raise, and nobody who asks waits."""

from __future__ import annotations

import threading

import pytest

from residency.comfyui.prompt.background import Errands


def test_jobs_run_in_their_order_and_one_that_dies_takes_no_other_with_it(caplog: pytest.LogCaptureFixture):
    errands, done = Errands("residency test"), []

    def job(error: BaseException | None) -> None:
        done.append(error)
        if error is not None:
            raise error

    errors = [None, ValueError(), SystemExit(), KeyboardInterrupt(), None]
    futures = [errands.submit(lambda error=error: job(error)) for error in errors]
    assert [future.result(60) for future in futures] == [None] * 5
    assert done == errors and len(caplog.records) == errands.failures == 3
    errands.close()


def test_closing_without_waiting_leaves_a_job_that_hangs_to_its_thread():
    errands, go_on, done = Errands("residency test"), threading.Event(), []
    futures = [errands.submit(lambda: go_on.wait(60)), errands.submit(lambda: done.append("last"))]
    errands.close(wait=False)
    assert errands.submit(lambda: done.append("too late")).done() and not futures[0].done()
    go_on.set()
    errands.close()
    assert done == ["last"]


def test_without_a_thread_left_a_job_is_named_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    errands, done = Errands("residency test"), []
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", start)
        errands.submit(lambda: done.append("undone")).result(60)
    assert "left undone: can't start new thread" in caplog.text
    errands.submit(lambda: done.append("done")).result(60)
    errands.close()
    assert done == ["done"]
