"""The timer that the streams of a loop share, on a clock of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import pytest

from litestar_safe_sse._core import timers
from litestar_safe_sse._core.timers import BUDGET, EARLY, LATENESS, TICK, TimerWheel


class Timer:
    def __init__(self, at: float, callback: Callable[[], object]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A loop that is late, or early as uvloop is, by what it is told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.skew = 0.0
        self.timers: list[Timer] = []

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(self.now + delay, callback)
        self.timers.append(timer)
        return timer

    @property
    def pending(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def run_until(self, end: float) -> None:
        while any(timer.at <= end for timer in self.pending):
            self.run_one()
        self.now = max(self.now, end)

    def run_one(self) -> None:
        timer = min(self.pending, key=lambda timer: timer.at)
        self.timers.remove(timer)
        self.now = max(self.now, timer.at + self.skew)
        timer.callback()


class Bell:
    """An alarm that notes when it is told."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.told: list[float] = []

    def on_time(self) -> None:
        self.told.append(self.loop.now)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(timers, "monotonic", lambda: loop.now)
    monkeypatch.setattr(timers, "LONGEST", math.inf)
    return loop


@pytest.fixture
def wheel(loop: Loop) -> Iterator[TimerWheel]:
    """A wheel of which nothing may be left when its time has come."""
    wheel = TimerWheel(loop)  # type: ignore[arg-type]
    yield wheel
    loop.run_until(loop.now + 1e7)
    assert loop.pending == []
    assert (wheel._due, wheel._slots, wheel._wound_to) == ([], {}, math.inf)


@pytest.mark.parametrize("delay", [-5.0, 0.0, 1e-6, 0.003, TICK, 0.02, 0.5, 0.996, 1.0, 5.0, 15.0, 3600.0, 1e6])
def test_never_early_and_late_by_little(loop: Loop, wheel: TimerWheel, delay: float) -> None:
    """Told once, and in time, wherever in a tick the clock stands."""
    for offset in (0.0, TICK / 3, TICK * 0.999):
        loop.now += offset
        bell, due = Bell(loop), loop.now + max(0.0, delay)
        wheel.set(bell, loop.now + delay)
        loop.run_until(due + 2 * max(TICK, delay * LATENESS))
        assert len(bell.told) == 1
        assert 0 <= bell.told[0] - due <= max(TICK, delay * LATENESS) + 1e-6


def test_an_early_loop_tells_no_alarm_a_millisecond_early(loop: Loop, wheel: TimerWheel) -> None:
    """A loop that counts in milliseconds may call too soon; the alarm is then told that much too soon, not again."""
    loop.skew = -EARLY
    bell, due = Bell(loop), loop.now + 0.5
    wheel.set(bell, due)
    loop.run_until(due + 1)
    assert len(bell.told) == 1
    assert bell.told[0] >= due - EARLY


@pytest.mark.parametrize(("longest", "lost"), [(math.inf, 60.0), (1.0, 100.0)])
def test_a_stall_is_noticed_when_the_timer_is_late(
    loop: Loop, wheel: TimerWheel, monkeypatch: pytest.MonkeyPatch, longest: float, lost: float
) -> None:
    """What of it lies behind the next alarm, or the next look, is lost; a loop that answers loses nothing."""
    monkeypatch.setattr(timers, "LONGEST", longest)
    bell = Bell(loop)
    wheel.set(bell, loop.now + 50)
    loop.run_until(loop.now + 9.5)
    assert wheel.lost == 0
    loop.now += 100.5
    before = wheel.time()
    loop.run_one()
    assert wheel.lost == pytest.approx(lost, abs=1)
    assert wheel.time() == pytest.approx(before - wheel.lost)


def test_one_timer_for_all(loop: Loop, wheel: TimerWheel) -> None:
    """A thousand alarms, spread over a second, need a timer a tick at most, and one at a time."""
    bells = [Bell(loop) for _ in range(1000)]
    for index, bell in enumerate(bells):
        wheel.set(bell, loop.now + 1 + index / 1000)
        assert len(loop.pending) == 1
    calls = 0
    while loop.pending:
        loop.run_until(loop.pending[0].at)
        calls += 1
    assert all(len(bell.told) == 1 for bell in bells)
    assert calls <= 1 / TICK + 1


def test_an_earlier_alarm_is_told_earlier(loop: Loop, wheel: TimerWheel) -> None:
    """The timer is wound back for it."""
    late, soon = Bell(loop), Bell(loop)
    wheel.set(late, loop.now + 10)
    wheel.set(soon, loop.now + 1)
    loop.run_until(loop.now + 2)
    assert (len(soon.told), late.told) == (1, [])
    loop.run_until(loop.now + 9)
    assert len(late.told) == 1


def test_a_cleared_alarm_is_not_told(loop: Loop, wheel: TimerWheel) -> None:
    """Nor does it keep those beside it from being told."""
    gone, stays = Bell(loop), Bell(loop)
    slot = wheel.set(gone, loop.now + 1)
    assert wheel.set(stays, loop.now + 1) == slot
    wheel.clear(gone, slot)
    loop.run_until(loop.now + 2)
    assert (gone.told, len(stays.told)) == ([], 1)


def test_nothing_is_left_of_cleared_alarms(loop: Loop, wheel: TimerWheel) -> None:
    """What is set and cleared a million times takes no more room than the slots there are."""
    stays = Bell(loop)
    wheel.set(stays, loop.now + 60)
    for index in range(20_000):
        loop.now += 0.0001
        bell = Bell(loop)
        wheel.clear(bell, wheel.set(bell, loop.now + 15))
        if index % 1000 == 0:
            assert len(wheel._due) == len(wheel._slots) <= 2 / LATENESS
    loop.run_until(loop.now + 60)
    assert len(stays.told) == 1


def test_a_failure_is_its_own(loop: Loop, wheel: TimerWheel) -> None:
    """An alarm that raises is the loop's to report; those in its slot and after it are told all the same."""

    class Broken(Bell):
        def on_time(self) -> None:
            super().on_time()
            raise ZeroDivisionError

    broken = Broken(loop)
    bells = [Bell(loop), Bell(loop), Bell(loop)]
    for alarm in (bells[0], broken, bells[1]):
        wheel.set(alarm, loop.now + 1)
    wheel.set(bells[2], loop.now + 2)
    with pytest.raises(ZeroDivisionError):
        loop.run_until(loop.now + 3)
    loop.run_until(loop.now + 3)
    assert [len(bell.told) for bell in (*bells, broken)] == [1, 1, 1, 1]


def test_many_alarms_leave_the_loop_its_turns(loop: Loop, wheel: TimerWheel) -> None:
    """Alarms of one time are told bit by bit, if together they take long; none is forgotten."""

    class Slow(Bell):
        def on_time(self) -> None:
            super().on_time()
            self.loop.now += 0.0003

    bells = [Slow(loop) for _ in range(1000)]
    for bell in bells:
        wheel.set(bell, loop.now + 1)
    turns = []
    while loop.pending:
        before = sum(len(bell.told) for bell in bells)
        loop.run_one()
        turns.append(sum(len(bell.told) for bell in bells) - before)
    assert all(len(bell.told) == 1 for bell in bells)
    assert max(turns) * 0.0003 <= BUDGET + 0.0003


def test_alarms_may_set_and_clear_others(loop: Loop, wheel: TimerWheel) -> None:
    """While they are told, as streams do that close each other."""
    victim = Bell(loop)
    heir = Bell(loop)
    slots: dict[Bell, int] = {}

    class Killer(Bell):
        def on_time(self) -> None:
            super().on_time()
            if not victim.told:
                wheel.clear(victim, slots[victim])
            slots[heir] = wheel.set(heir, loop.now)

    killer = Killer(loop)
    slots[victim] = wheel.set(victim, loop.now + 1)
    wheel.set(killer, loop.now + 0.999)
    loop.run_until(loop.now + 3)
    assert (victim.told, len(killer.told), len(heir.told)) == ([], 1, 1)
    assert heir.told[0] - killer.told[0] <= 2 * TICK


def test_whatever_happens(loop: Loop, wheel: TimerWheel) -> None:
    """Ten thousand random steps, against a plain list."""
    chance = random.Random(7)
    waiting: dict[Bell, tuple[float, float, int]] = {}
    done: list[tuple[Bell, float, float]] = []
    for _ in range(10_000):
        step = chance.random()
        if step < 0.5:
            bell, delay = Bell(loop), chance.choice([0.0, 0.001, 0.1, 1.0, 15.0]) * chance.random()
            waiting[bell] = (loop.now + delay, delay, wheel.set(bell, loop.now + delay))
        elif step < 0.8 and waiting:
            bell = chance.choice(list(waiting))
            wheel.clear(bell, waiting.pop(bell)[2])
            assert bell.told == []
        else:
            loop.run_until(loop.now + chance.random() * chance.choice([0.001, 0.1, 1.0]))
        for bell, (due, delay, _slot) in list(waiting.items()):
            if bell.told:
                done.append((bell, due, delay))
                del waiting[bell]
            else:
                assert loop.now < due + max(TICK, delay * LATENESS) + 1e-6
    loop.run_until(loop.now + 20)
    assert all(bell.told for bell in waiting)
    assert all(len(bell.told) == 1 for bell, _, _ in done)
    assert all(0 <= bell.told[0] - due <= max(TICK, delay * LATENESS) + 1e-6 for bell, due, delay in done)
