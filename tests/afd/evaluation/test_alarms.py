"""Every alarm by an injected fault, and silence on a healthy campaign's own numbers."""

import pytest

from afd.config import AlarmsParams
from afd.evaluation.alarms import best_round, raised_alarms, unwatched

LIMITS = AlarmsParams.model_validate(
    {
        "collapse": {"action": "more_fit_steps"},
        "reward_hacking": {"action": "roll_back"},
        "stillness": {"action": "stop"},
        "no_progress": {"action": "pause"},
    }
)
# A pocket campaign, seed 1: margin, spread, trajectory error, permanence, interpenetration.
HEALTHY = [
    (3.1669, 0.2526, 2.393, 0.979, 0.116),
    (2.4674, 0.4311, 2.014, 0.993, 0.023),
    (1.8697, 0.4238, 1.543, 0.993, 0.0),
    (1.4779, 0.3437, 1.189, 0.989, 0.0),
    (1.3571, 0.1763, 1.014, 0.991, 0.0),
    (1.2376, 0.1955, 0.957, 0.990, 0.0),
    (1.5882, 0.2099, 0.945, 0.989, 0.0),
    (1.6000, 0.2156, 0.924, 0.987, 0.0),
]


def campaign() -> list[dict[str, float]]:
    return [
        {
            "fit/margin": margin,
            "fit/group_spread": spread,
            "fit/pair_accuracy": 1.0,
            "update/static_share": 0.0,
            "update/duplicate_share": 0.0,
            "update/zero_spread_share": 0.0,
            "update/rank_correlation": 0.1,
            "evaluate/trajectory_error_px": error,
            "evaluate/object_permanence": permanence,
            "evaluate/interpenetration": passing,
        }
        for margin, spread, error, permanence, passing in HEALTHY
    ]


def test_a_healthy_campaign_is_silent_from_first_to_last_round():
    rounds = campaign()
    assert [raised_alarms(rounds[:count], LIMITS) for count in range(len(rounds) + 1)] == [[]] * 9


@pytest.mark.parametrize(
    ("fault", "name", "gauge"),
    [
        ({"fit/margin": 10.0, "fit/group_spread": 0.1}, "saturation", "margin"),
        ({"update/zero_spread_share": 0.9}, "saturation", "zero_spread_share"),
        ({"fit/pair_accuracy": 0.52}, "collapse", "pair_accuracy"),
        (
            {"fit/margin": 0.3, "evaluate/object_permanence": 0.88},
            "reward_hacking",
            "object_permanence",
        ),
        (
            {"fit/margin": 0.3, "evaluate/trajectory_error_px": 1.4},
            "reward_hacking",
            "trajectory_error_px",
        ),
        ({"fit/margin": 0.3, "evaluate/interpenetration": 0.3}, "reward_hacking", "interpen"),
        ({"update/rank_correlation": -0.4}, "reward_hacking", "rank_correlation"),
        ({"update/static_share": 0.5}, "stillness", "static_share"),
        ({"update/duplicate_share": 0.5}, "stillness", "duplicate_share"),
    ],
)
def test_a_fault_raises_its_alarm_and_no_other(fault: dict[str, float], name: str, gauge: str):
    rounds = campaign()[:6]
    rounds.append(rounds[-1] | {"evaluate/trajectory_error_px": 0.97} | fault)
    (alarm,) = raised_alarms(rounds, LIMITS)
    assert alarm.name == name and gauge in alarm.gauge
    assert alarm.action == getattr(LIMITS, name).action


def test_a_worse_panel_without_a_better_score_is_no_hacking():
    rounds = campaign()
    rounds.append(rounds[-1] | {"fit/margin": 3.0, "evaluate/object_permanence": 0.8})
    assert raised_alarms(rounds, LIMITS) == []


def test_rounds_that_bring_nothing_are_told_once_there_are_enough():
    rounds = campaign()
    stuck = [rounds[-1] | {"evaluate/trajectory_error_px": 0.93} for _ in range(6)]
    names = [
        [alarm.name for alarm in raised_alarms(rounds + stuck[:count], LIMITS)]
        for count in range(7)
    ]
    assert names == [[]] * 6 + [["no_progress"]]


def test_a_roll_back_goes_to_the_round_with_the_least_error():
    rounds = campaign()
    assert best_round(rounds, LIMITS) == 7
    assert best_round([*rounds, rounds[2]], LIMITS) == 7
    assert best_round([{"fit/margin": 1.0}], LIMITS) is None


def test_rounds_without_gauges_raise_nothing_and_say_so():
    assert raised_alarms([{}, {}], LIMITS) == []
    assert unwatched({}, LIMITS) == list(LIMITS.actions)
    assert unwatched(campaign()[0], LIMITS) == []


def test_a_panel_of_other_metrics_is_judged_by_where_each_should_go():
    panel = [
        {"metric": "videophy2.sa", "better": "high", "band": 0.2},
        {"metric": "warp_error", "better": "low", "band": 0.5, "is_share": True},
    ]
    limits = AlarmsParams.model_validate({"panel": panel, "no_progress": {"num_rounds": 2}})
    rounds = [
        {"fit/margin": 3.0, "evaluate/videophy2.sa": 3.0, "evaluate/warp_error": 0.10},
        {"fit/margin": 2.0, "evaluate/videophy2.sa": 3.5, "evaluate/warp_error": 0.10},
        {"fit/margin": 1.0, "evaluate/videophy2.sa": 3.4, "evaluate/warp_error": 0.16},
        {"fit/margin": 1.0, "evaluate/videophy2.sa": 3.2, "evaluate/warp_error": 0.12},
    ]
    assert best_round(rounds, limits) == 1
    assert raised_alarms(rounds[:2], limits) == []
    (warped,) = raised_alarms(rounds[:3], limits)
    assert (warped.gauge, warped.limit) == ("evaluate/warp_error", pytest.approx(0.15))
    hacked, stuck = raised_alarms(rounds, limits)
    assert (hacked.gauge, hacked.limit) == ("evaluate/videophy2.sa", pytest.approx(3.3))
    assert (stuck.name, stuck.value, stuck.limit) == ("no_progress", 3.4, pytest.approx(3.57))
