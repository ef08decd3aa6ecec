"""The recommender out of a shop's log: the sample in the package obp (skipped without it), and small logs made here."""

import csv
import importlib.util
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env

from sb3_reptile.checkpoint import EpisodeRecorder
from sb3_reptile.envs.logged_recommender import DaysInTurn, LoggedRecommender

N_ITEMS = {"men": 34, "women": 46, "all": 80}
needs_obp = pytest.mark.skipif(importlib.util.find_spec("obp") is None, reason="needs the extra logs")


def sample(campaign):
    """The log as it is: (time, item, click, user) of every row."""
    folder = Path(importlib.util.find_spec("obp").origin).parent / "dataset" / "obd" / "random"
    with open(folder / campaign / f"{campaign}.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    users = [[row[f"user_feature_{number}"] for number in range(4)] for row in rows]
    times = [datetime.fromisoformat(row["timestamp"]) for row in rows]
    items, clicks = ([int(row[name]) for row in rows] for name in ("item_id", "click"))
    return list(zip(times, items, clicks, users, strict=True))


@pytest.fixture
def log(tmp_path):
    """Write a log of (time, item, click, first feature of the user) and return its folder."""

    def write(rows):
        (tmp_path / "men").mkdir(exist_ok=True)
        with open(tmp_path / "men" / "men.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["", "click", "item_id", "timestamp", *(f"user_feature_{number}" for number in range(4))])
            for number, (time, item, click, user) in enumerate(rows):
                writer.writerow([number, click, item, f"2019-11-{time}+00:00", user, "b", "c", "d"])
        return str(tmp_path)

    return write


THREE_DAYS = [
    ("24 01:00:00.5", 2, 1, "a0"),
    ("24 02:00:00.5", 1, 0, "a1"),
    ("24 22:00:00", 0, 0, "a2"),  # Without a fraction, as a whole second is printed
    ("24 23:00:00.5", 0, 1, "a3"),
    ("25 12:00:00.5", 1, 1, "b0"),
    ("25 13:00:00.5", 1, 0, "b1"),
    ("26 12:00:00.5", 2, 0, "c0"),
    ("26 13:00:00.5", 2, 1, "c1"),
]


def visitors(env, n_steps):
    """Number of the user (their first features sort in the order of time) and phase, of each step."""
    seen = [int(env.reset(seed=0)[0].argmax())]
    phases = []
    for _ in range(n_steps):
        obs, _, terminated, truncated, info = env.step(0)
        assert not terminated
        assert not truncated
        seen.append(int(obs.argmax()))
        phases.append(info["phase"])
    return seen, phases


@needs_obp
@pytest.mark.filterwarnings("ignore:.*WARN")
@pytest.mark.parametrize("campaign", N_ITEMS)
def test_every_campaign_passes_both_check_envs(campaign):
    assert LoggedRecommender(campaign).action_space.n == N_ITEMS[campaign]
    for make in (lambda: LoggedRecommender(campaign), lambda: DaysInTurn(LoggedRecommender(campaign))):
        check_env(make())
        # In a new one, at the beginning of the log: its clock goes on where Gymnasium resets to repeat a step
        gymnasium_check_env(make(), skip_render_check=True)


@needs_obp
@pytest.mark.parametrize(
    ("campaign", "day", "window", "smoothing"),
    [("men", 0.0, 24.0, 1.0), ("women", 3.5, 5.0, 20.0), ("all", 6.999, 48.0, 0.5), ("men", 9.25, 24.0, 1.0)],
)
def test_click_rates_are_those_of_the_log_around_the_visitor(campaign, day, window, smoothing):
    rows = sample(campaign)
    env = LoggedRecommender(campaign, window=window, smoothing=smoothing, day=day)
    env.reset()
    today = [row for row in rows if row[0].day == 24 + int(day) % 7]
    now = today[int(day % 1 * len(today))][0]
    half = timedelta(hours=window / 2)
    mean = sum(click for _, _, click, _ in rows) / len(rows)
    expected = []
    for item in range(N_ITEMS[campaign]):
        clicks = [click for time, shown, click, _ in rows if shown == item and now - half <= time < now + half]
        expected.append((sum(clicks) + smoothing * mean) / (len(clicks) + smoothing))
    np.testing.assert_allclose(env.click_rates(), expected, rtol=1e-9)


@needs_obp
def test_a_week_gives_each_item_its_rate_in_all_of_the_log():
    rows = sample("men")
    env = LoggedRecommender(window=1000.0, smoothing=1e-9)
    clicks, shown = np.zeros(34), np.zeros(34)
    for _, item, click, _ in rows:
        clicks[item] += click
        shown[item] += 1
    assert clicks.sum() == 46
    np.testing.assert_allclose(env.click_rates(), clicks / shown, atol=1e-9)


@needs_obp
@pytest.mark.parametrize("campaign", ["all", "men", "women"])
def test_the_sample_has_too_few_clicks_to_distinguish_items(campaign):
    env = LoggedRecommender(campaign)
    shown = np.bincount(env._items)
    generator = np.random.default_rng(0)
    rows = [env._clicks, *(generator.permutation(env._clicks) for _ in range(1_000))]
    best, *by_chance = [(np.bincount(env._items, clicks) / shown).max() for clicks in rows]
    assert 38 <= env._clicks.sum() <= 46
    assert np.mean(np.array(by_chance) >= best) > 0.05


@needs_obp
def test_the_observation_is_the_visitor_who_was_logged_then():
    rows = sample("men")
    categories = [sorted({user[number] for *_, user in rows}) for number in range(4)]
    env = LoggedRecommender()
    assert env.observation_space.shape == (sum(map(len, categories)),)
    today = [user for time, *_, user in rows if time.day == 26]
    for number in (0, 500, len(today) - 1):
        env.day = 2 + (number + 0.5) / len(today)
        expected = [float(today[number][i] == each) for i in range(4) for each in categories[i]]
        assert env.reset()[0].tolist() == expected


def test_clicks_are_drawn_as_often_as_reported(log):
    env = LoggedRecommender(path=log(THREE_DAYS), window=1.5, smoothing=0.5, day=0.0)
    env.reset(seed=0)
    rates = env.click_rates()
    assert rates[2] == pytest.approx((1 + 0.5 * 0.5) / 1.5)  # clicked the only time that it was shown
    assert rates[1] == 0.5  # not shown within the window: the mean of the log
    clicks = np.zeros(3)
    for step in range(3000):
        _, reward, _, _, info = env.step(step % 3)
        assert info == {
            "click_rate": rates[step % 3],
            "oracle_click_rate": rates.max(),
            "random_click_rate": pytest.approx(rates.mean()),
        }
        assert reward in (0.0, 1.0)
        clicks[step % 3] += reward
    np.testing.assert_allclose(clicks / 1000, rates, atol=0.05)


def test_much_smoothing_leaves_nothing_to_learn(log):
    env = LoggedRecommender(path=log(THREE_DAYS), smoothing=1e9)
    np.testing.assert_allclose(env.click_rates(), 0.5, atol=1e-6)


@pytest.mark.parametrize("shuffled", [False, True])
def test_visitors_come_in_the_order_of_time_and_again_after_the_last_day(log, shuffled):
    rows = list(reversed(THREE_DAYS)) if shuffled else THREE_DAYS
    env = DaysInTurn(LoggedRecommender(path=log(rows)), period=8)
    seen, phases = visitors(env, 48)
    week = [0, 0, 1, 1, 2, 2, 3, 3] + [4] * 4 + [5] * 4 + [6] * 4 + [7] * 4
    # The visitor of the reset, and from then on one step late
    assert seen == week[:1] + week + week[:-1] + week[-1:]
    assert phases == [phase for phase in range(6) for _ in range(8)]


def test_a_short_day_leaves_visitors_out_and_keeps_their_order(log):
    env = DaysInTurn(LoggedRecommender(path=log(THREE_DAYS)), period=2)
    assert visitors(env, 7)[0] == [0, 0, 2, 4, 5, 6, 7, 0]
    assert env.n_phases == 3


def test_a_log_of_one_day_begins_again_too(log):
    env = DaysInTurn(LoggedRecommender(path=log(THREE_DAYS[:4])), period=4)
    assert visitors(env, 9) == ([0, 0, 1, 2, 3, 0, 1, 2, 3, 0], [0] * 4 + [1] * 4 + [2])


def test_an_episode_goes_on_where_the_one_before_ended(log):
    env = DaysInTurn(LoggedRecommender(path=log(THREE_DAYS)), period=8)
    for step in range(10):
        env.reset(seed=0)
        env.step(0)
        assert env.steps_taken == step + 1
    assert env.reset(seed=0)[0].argmax() == 4
    env.set_wrapper_attr("steps_taken", 23)
    assert env.reset()[0].argmax() == 7


@needs_obp
def test_the_same_seed_repeats_everything():
    def rollout(seed):
        env = DaysInTurn(LoggedRecommender(), period=100)
        env.reset(seed=seed)
        return [(obs.tolist(), *rest) for obs, *rest in (env.step(step % 34) for step in range(700))]

    assert rollout(1) == rollout(1)
    assert rollout(1) != rollout(2)


def test_another_copy_can_be_brought_to_the_same_moment(log):
    one, other = (EpisodeRecorder(DaysInTurn(LoggedRecommender(path=log(THREE_DAYS)), period=8)) for _ in range(2))
    for _ in range(3):
        one.reset(seed=0)
        for _ in range(5):
            one.step(1)
    assert other.repeat(one.episode())
    assert other.unwrapped.day == one.unwrapped.day > 1
    assert [one.step(1)[1] for _ in range(50)] == [other.step(1)[1] for _ in range(50)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(campaign="kids"), "campaign must be one of all, men, women, got 'kids'"),
        (dict(window=0), r"window must be > 0 and finite \(hours\), got 0"),
        (dict(window=float("nan")), r"window must be > 0 and finite \(hours\), got nan"),
        (dict(smoothing=0.0), r"smoothing must be > 0 and finite \(impressions\), got 0.0"),
        (dict(smoothing=float("inf")), r"smoothing must be > 0 and finite \(impressions\), got inf"),
        (dict(day=-1), r"day must be >= 0 and finite \(days since the log began\), got -1"),
    ],
)
def test_what_no_log_can_be_asked_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoggedRecommender(**arguments)


def test_a_day_without_steps_is_refused(log):
    with pytest.raises(ValueError, match="period must be a whole number >= 1"):
        DaysInTurn(LoggedRecommender(path=log(THREE_DAYS)), period=0)


def test_without_obp_the_extra_is_named_unless_there_is_another_log(log, monkeypatch):
    monkeypatch.setitem(sys.modules, "obp", None)
    with pytest.raises(
        ImportError, match=r"LoggedRecommender needs the extra `logs`: pip install 'sb3-reptile\[logs\]'"
    ):
        LoggedRecommender()
    assert LoggedRecommender(path=log(THREE_DAYS)).n_days == 3


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"men\.csv"):
        LoggedRecommender(path=str(tmp_path))


@needs_obp
def test_while_the_clock_is_held_visitors_of_the_same_day_come():
    env = DaysInTurn(LoggedRecommender(), period=1_000)
    env.steps_taken = 1_500
    env.set_drift_clock(env.get_drift_clock(), held=True)
    env.reset(seed=0)
    days, rows = set(), []
    for _ in range(1_200):
        _, _, _, _, info = env.step(0)
        days.add(int(env.unwrapped.day))
        rows.append(env.unwrapped._row)
        assert info["phase"] == 1
    assert days == {1}
    assert len(set(rows)) > 900
    assert env.steps_taken == 1_500
