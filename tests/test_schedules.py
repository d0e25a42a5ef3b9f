"""Learning rates over a training."""

from itertools import pairwise

import pytest

from featcache.settings.schedules import Phase, rates


def test_constant_phases_follow_each_other():
    schedule = (Phase(1e-3, 1), Phase(1e-2, 2))
    assert [rates(schedule, epoch, 3) for epoch in range(3)] == [[1e-3] * 3, [1e-2] * 3, [1e-2] * 3]
    with pytest.raises(IndexError):
        rates(schedule, 3, 3)


def test_a_cosine_falls_at_every_step_from_its_rate_to_nothing():
    schedule = (Phase(0.5, 1), Phase(2.0, 4, "cosine"))
    steps = [rate for epoch in range(1, 5) for rate in rates(schedule, epoch, 25)]
    assert steps[0] == 2.0
    assert steps[50] == pytest.approx(1.0)
    assert all(later < earlier for earlier, later in pairwise(steps))
    assert 0 < steps[-1] < 2e-3


def test_one_cycle_rises_for_a_third_and_falls_below_where_it_began():
    steps = [rate for epoch in range(10) for rate in rates((Phase(1.0, 10, "one-cycle"),), epoch, 10)]
    assert steps[0] == pytest.approx(1 / 25)
    assert max(steps) == steps[30] == 1.0
    assert steps[:31] == sorted(steps[:31])
    assert steps[30:] == sorted(steps[30:], reverse=True)
    assert steps[-1] < 1e-3


def test_phases_are_written_as_they_are_read():
    assert [str(phase) for phase in (Phase(1e-3, 2), Phase(0.01, 20, "one-cycle"))] == ["0.001x2", "one-cycle 0.01x20"]
