"""A background loop goes on whatever its rounds raise, says so once, and stops when it is told."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest

from scheduler.background_loop import BackgroundLoop, stop_all
from tests.until import until
from workers.errors import CbtfleetError

LONG = 3600.0


class Rounds(BackgroundLoop):
    """Each round is announced and does what the test puts into `work`."""

    def __init__(
        self,
        work: Callable[[], object] = lambda: None,
        *,
        pause: float = 0.001,
        back_off: tuple[float, float] = (0.001, 0.001),
        stop_within: float = 20,
    ) -> None:
        super().__init__("rounds", "doing rounds", pause=pause, back_off=back_off, stop_within=stop_within)
        self.work = work
        self.begun: queue.Queue[float] = queue.Queue()
        self.finished_in: str | None = None

    def round(self) -> None:
        self.begun.put(time.monotonic())
        self.work()

    def finish(self) -> None:
        self.finished_in = threading.current_thread().name

    def next_round(self) -> float:
        """Waits for it to begin; when it did."""
        return self.begun.get(timeout=20)


@pytest.fixture
def run() -> Iterator[Callable[[Rounds], Rounds]]:
    with ExitStack() as stack:

        def started(loop: Rounds) -> Rounds:
            stack.callback(loop.stop)
            loop.start()
            return loop

        yield started


@pytest.fixture(autouse=True)
def every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def fails(text: str = "the pool is away") -> None:
    raise CbtfleetError(text)


def test_it_does_rounds_until_it_is_stopped_and_finishes_in_its_own_thread(
    run: Callable[[Rounds], Rounds], caplog: pytest.LogCaptureFixture
) -> None:
    loop = run(Rounds())
    began = time.time()
    for _ in range(3):
        loop.next_round()
    until(lambda: loop.last_success >= began)
    loop.stop()
    assert loop.finished_in == "rounds"
    assert "rounds" not in [thread.name for thread in threading.enumerate()]
    assert (loop.failures, caplog.messages) == (0, [])
    loop.stop()


def test_a_loop_that_was_never_started_stops() -> None:
    loop = Rounds()
    loop.stop()
    assert loop.finished_in is None


def test_a_failure_that_passes_is_a_line_when_it_begins_and_one_when_it_is_over(
    run: Callable[[Rounds], Rounds], caplog: pytest.LogCaptureFixture
) -> None:
    loop = run(Rounds(fails))
    until(lambda: loop.failures >= 5)
    assert loop.last_success == 0
    loop.work = lambda: None
    until(lambda: loop.last_success > 0)
    for _ in range(5):
        loop.next_round()
    loop.stop()
    assert caplog.messages == [
        "doing rounds fails: the pool is away; trying again",
        "doing rounds works again, after 0 s",
    ]
    assert not any(record.exc_info for record in caplog.records)


def test_what_nobody_foresaw_is_a_traceback_once_and_each_other_kind_of_failure_a_line(
    run: Callable[[Rounds], Rounds], caplog: pytest.LogCaptureFixture
) -> None:
    loop = Rounds()

    def alternates() -> None:
        fails() if loop.failures % 2 else {}["a mistake of ours"]

    loop.work = alternates
    run(loop)
    until(lambda: loop.failures >= 6)
    loop.stop()
    assert caplog.messages == [
        "doing rounds met something unexpected; trying again",
        "doing rounds fails: the pool is away; trying again",
    ]
    assert "KeyError: 'a mistake of ours'" in caplog.text


def test_a_part_that_fails_keeps_no_other_from_being_done_and_stands_until_it_works(
    run: Callable[[Rounds], Rounds], caplog: pytest.LogCaptureFixture
) -> None:
    loop = Rounds()
    done: queue.Queue[str] = queue.Queue()
    is_due = True

    def parts() -> None:
        if is_due:
            with loop.trying("looking at pool a"):
                fails()
        with loop.trying("looking at pool b"):
            done.put("b")

    loop.work = parts
    run(loop)
    for _ in range(3):
        assert done.get(timeout=20) == "b"
    is_due = False
    loop.next_round()
    until(lambda: loop.begun.qsize() > 5)
    loop.stop()
    assert loop.last_success == 0, "the failing part was not tried again, so it still fails"
    assert caplog.messages == ["looking at pool a fails: the pool is away; trying again"]


def test_a_back_off_doubles_up_to_its_longest_and_begins_anew_after_a_success(
    run: Callable[[Rounds], Rounds],
) -> None:
    loop = run(Rounds(fails, pause=LONG, back_off=(0.05, 0.2)))
    began = [loop.next_round() for _ in range(6)]
    pauses = [after - before for before, after in pairwise(began)]
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True):
        assert least <= pause < 10 * least
    loop = run(Rounds(fails, pause=LONG, back_off=(0.01, LONG)))
    for _ in range(6):
        loop.next_round()
    until(lambda: loop.failures == 6)
    loop.work = lambda: None
    loop.next_round()
    until(lambda: loop.last_success > 0)
    loop.work = fails
    loop.wake()
    again = [loop.next_round() for _ in range(2)]
    assert again[1] - again[0] < 0.01 * 2**6, "the pause that would have been next without a success"


def test_wake_ends_a_pause_and_no_back_off(run: Callable[[Rounds], Rounds]) -> None:
    loop = run(Rounds(pause=LONG, back_off=(0.2, 0.2)))
    loop.next_round()
    loop.wake()
    loop.next_round()
    loop.work = fails
    loop.wake()
    failed = loop.next_round()
    until(lambda: loop.failures == 1)
    loop.wake()
    assert loop.next_round() - failed >= 0.2


def test_a_wake_during_a_round_is_not_lost(run: Callable[[Rounds], Rounds]) -> None:
    leave = threading.Event()
    loop = run(Rounds(lambda: leave.wait(20), pause=LONG))
    loop.next_round()
    loop.wake()
    leave.set()
    loop.next_round()


@pytest.mark.parametrize("work", [lambda: None, fails])
def test_stop_ends_pause_and_back_off(run: Callable[[Rounds], Rounds], work: Callable[[], None]) -> None:
    loop = run(Rounds(work, pause=LONG, back_off=(LONG, LONG), stop_within=LONG))
    loop.next_round()
    loop.stop()
    assert loop.finished_in == "rounds"


def test_a_round_that_does_not_end_is_left_after_a_time(
    run: Callable[[Rounds], Rounds], caplog: pytest.LogCaptureFixture
) -> None:
    leave = threading.Event()
    loop = run(Rounds(lambda: leave.wait(60), stop_within=0.1))
    loop.next_round()
    loop.stop()
    assert caplog.messages == ["the loop rounds did not stop within 0.1 s: it ends with the process"]
    assert loop.stopping()
    leave.set()
    until(lambda: loop.finished_in)


def test_a_finish_that_fails_is_logged(
    run: Callable[[Rounds], Rounds], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = run(Rounds())
    monkeypatch.setattr(loop, "finish", lambda: {}["a mistake of ours"])
    loop.next_round()
    loop.stop()
    assert caplog.messages == ["the loop rounds met something unexpected at its end"]


def test_all_are_told_before_one_is_awaited_and_stopped_also_when_one_cannot_be(
    run: Callable[[Rounds], Rounds], monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = [run(Rounds(pause=LONG)) for _ in range(3)]

    def interrupted() -> None:  # a person's second Ctrl-C, while it waits for the thread
        assert all(loop.stopping() for loop in loops)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for loop in loops[1:]:
            patch.setattr(loop, "stop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stop_all(loops)
        assert loops[0].finished_in == "rounds"
    stop_all(loops)
    assert [loop.finished_in for loop in loops] == ["rounds"] * 3
