"""benchmarks/applications.py trains the missing runs by commands that a user can type, and keeps correct records."""

import dataclasses
import importlib
import json
import sys

import gymnasium as gym
import numpy as np
import pytest
import rl_zoo3.train
import torch as th
import yaml
from PIL import Image

import tests.benchmarks  # noqa: F401
from sb3_reptile import ReptileDQN
from sb3_reptile.evaluation import plotting
from sb3_reptile.evaluation.records import BINS
from sb3_reptile.zoo.registration import ALGO, ReptileExperimentManager, register, zoo_configs

applications = importlib.import_module("applications")
runs, report = importlib.import_module("application_runs"), importlib.import_module("application_report")
Run = runs.Run

# Two environments side by side, whose episodes of ten steps have the seed as their return
SCRIPT = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--log", type=pathlib.Path)
parser.add_argument("--half-life")
parser.add_argument("--fail", action="store_true")
arguments = parser.parse_args()
with open("begun", "a") as file:
    file.write(f"{arguments.seed} {arguments.half_life}\\n")
for number in range(2):
    rows = "".join(f"{arguments.seed + number},10,0.1\\n" for _ in range(60))
    (arguments.log / f"{number}.monitor.csv").write_text('#{"t_start": 0}\\nr,l,t\\n' + rows)
if arguments.fail:
    raise SystemExit(1)
"""


@pytest.fixture
def harness(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    methods = {"decayed": (), "uniform": ("--half-life", "inf")}
    one = runs.Application("It", "it", ("script.py",), methods, 1_200, seeds=2)
    monkeypatch.setattr(runs, "APPLICATIONS", {"it": one})
    for name, folder in (("ROOT", "."), ("RECORDS", "records"), ("RUNS", "runs"), ("IMAGES", "images")):
        monkeypatch.setattr(runs, name, tmp_path / folder)
    (tmp_path / "images").mkdir()

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["applications.py", *arguments])
        applications.main()
        path = tmp_path / "begun"
        begun = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return begun

    return start


def test_each_run_has_one_record_and_only_what_is_missing_is_trained(harness, tmp_path):
    assert harness("--seeds", "1", "--jobs", "1") == ["0 None", "0 inf"]
    assert sorted(harness()) == ["1 None", "1 inf"]
    assert harness() == []
    records = runs.read_records()
    assert set(records) == {Run("it", method, seed) for method in ("decayed", "uniform") for seed in (0, 1)}
    record = records["it", "uniform", 1]
    # The two environments' episodes, returns 1 and 2, end at the same time
    assert record["curve"] == [1.5] * BINS
    assert record["command"] == "python script.py --seed 1 --log FOLDER --half-life inf"


def test_a_run_that_fails_leaves_no_record_and_says_where_to_look(harness, monkeypatch, tmp_path):
    one = runs.APPLICATIONS["it"]
    monkeypatch.setitem(one.methods, "uniform", ("--fail",))
    with pytest.raises(SystemExit, match=r"failed: it, uniform, seed 0: see .*output\.txt"):
        harness("--jobs", "1")
    assert set(runs.read_records()) == {Run("it", "decayed", 0)}
    (tmp_path / "begun").unlink()
    # When its command is another one, the others' records stay
    monkeypatch.setitem(one.methods, "uniform", ("--half-life", "inf"))
    assert sorted(harness()) == ["0 inf", "1 None", "1 inf"]


def test_what_was_stopped_after_its_last_step_has_only_its_record_missing(harness, tmp_path):
    assert harness("--seeds", "1", "--jobs", "1") == ["0 None", "0 inf"]
    (record,) = (tmp_path / "records" / "it.jsonl").read_text().splitlines()[1:]
    (tmp_path / "records" / "it.jsonl").unlink()
    folder = runs.folder_of(Run("it", "uniform", 0))
    (folder / "checkpoints" / "last").mkdir(parents=True)
    (folder / "model.zip").touch()
    assert harness("--seeds", "1", "--jobs", "1") == ["0 None"]
    again = runs.read_records()["it", "uniform", 0]
    assert again["curve"] == json.loads(record)["curve"]
    assert again["resumed"]


def test_records_of_another_set_up_and_torn_ones_are_left_out(harness, tmp_path, capsys):
    harness("--seeds", "1")
    path = tmp_path / "records" / "it.jsonl"
    lines = path.read_text().splitlines()
    outdated = json.dumps({**json.loads(lines[0]), "seed": 1, "setup": "00000000"})
    path.write_text("\n".join([*lines, outdated, lines[0], lines[1][:50]]) + "\n")
    assert len(runs.read_records()) == 2
    assert "3 torn, repeated or outdated lines left out" in capsys.readouterr().err


def test_all_committed_records_are_used(capsys):
    lines = sum(len(path.read_text().splitlines()) for path in runs.RECORDS.glob("*.jsonl"))
    assert len(runs.read_records()) == lines > 0
    assert capsys.readouterr().err == ""


def test_another_entry_in_the_rl_zoo_s_file_is_another_set_up(monkeypatch, tmp_path):
    run = Run("rooms", "decayed", 0)
    before = runs.set_up(run)
    assert before == runs.set_up(run) != runs.set_up(run._replace(method="uniform"))
    entries = yaml.safe_load((zoo_configs() / "reptile_dqn.yml").read_text())
    entries["DriftingRooms-v0"]["gamma"] = 0.5
    (tmp_path / "zoo_configs").mkdir()
    (tmp_path / "zoo_configs" / "reptile_dqn.yml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    assert runs.set_up(run) != before


def test_steps_of_an_atari_game_are_counted_as_the_agent_s(tmp_path):
    (tmp_path / "0.monitor.csv").write_text('#{"t_start": 0}\nr,l,t\n-21,4000,1\n-20,2000,2\n')
    assert runs.episodes_of(runs.APPLICATIONS["pong"], tmp_path) == [(1000, -21.0), (1500, -20.0)]


def test_a_predator_s_returns_are_not_mixed_with_its_prey_s(tmp_path):
    for role, value in (("predator", 10), ("prey", -10)):
        (tmp_path / role).mkdir()
        (tmp_path / role / "monitor.csv").write_text(f"#{{}}\nr,l,t\n{value},25,1\n{value},25,2\n")
    assert runs.episodes_of(runs.APPLICATIONS["tag"], tmp_path) == [(25, 10.0), (50, 10.0)]


def test_the_report_has_a_line_for_each_method_and_a_figure_for_each_section(harness, tmp_path, monkeypatch):
    harness()
    harness("--report")
    assert (tmp_path / "images" / "applications_it.png").stat().st_size > 5_000
    text = (tmp_path / "applications.md").read_text()
    # By Student's t with 1 and 2 degrees of freedom
    returns = "1.00 (-5.35 to 7.35)"
    assert f"| It | decayed | 2 | {returns} | 0.00 (-3.04 to 3.04) | {returns} |" in text
    assert f"| It | uniform | 2 | {returns} |  | {returns} |" in text
    assert text.count("| It |") == 2


def test_returns_between_changes_are_those_of_the_bins_between_them(monkeypatch):
    it = runs.Application("It", "it", (), {"decayed": (), "uniform": ()}, steps=1_200, changes=(300, 900))
    still = dataclasses.replace(it, about="Still", changes=())
    monkeypatch.setattr(runs, "APPLICATIONS", {"it": it, "still": still})
    # Bins of ten steps
    curves = [[1.0] * 30 + [2.0] * 60 + [level] * 30 for level in (4.0, 8.0)]
    records = {Run(name, "decayed", seed): {"curve": curves[seed]} for name in ("it", "still") for seed in (0, 1)}
    assert report.between_changes(records).splitlines()[2:] == ["* It, decayed: 1.00; 2.00; 6.00"]
    assert report.between_changes({}) == ""


def test_what_a_run_of_the_zoo_has_learnt_is_evaluated_and_its_network_kept(harness, tmp_path, monkeypatch):
    kept = tmp_path / "network.zip"
    settings = {"methods": runs.OWN_DECAY, "seeds": 1, "evaluated": 3, "network": kept}
    entry = runs.zoo("CartPole", "it", "CartPole-v1", 1_200, **settings)
    monkeypatch.setitem(runs.APPLICATIONS, "it", entry)
    (tmp_path / "zoo_configs").symlink_to(zoo_configs())
    harness("--jobs", "1")
    for record in runs.read_records().values():
        returns = record["evaluation"]
        assert len(returns) == 3
        # A reward of 1 for each step
        assert all(1 <= value <= 500 and value == int(value) for value in returns)
    harness("--report")
    mean, low, high = np.mean(returns), min(returns), max(returns)
    line = f"* CartPole, uniform, seed 0: {mean:.2f} over 3 episodes ({low:.0f} to {high:.0f})"
    assert line in (tmp_path / "applications.md").read_text().splitlines()
    (model_path,) = runs.folder_of(Run("it", "decayed", 0)).glob("*/*_1/*.zip")
    model = ReptileDQN.load(model_path)
    policy_kwargs = {"net_arch": model.policy.net_arch}
    student = ReptileDQN("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs, pretrained=kept, seed=1)
    obs = th.rand(8, 4)
    for net in (student.q_net, student.q_net_target):
        # Half precision has 11 bits
        th.testing.assert_close(net(obs), model.q_net(obs), rtol=2e-3, atol=2e-3)
    assert kept.stat().st_size < model_path.stat().st_size / 5


@pytest.mark.parametrize(("methods", "other"), [(runs.OWN_DECAY, "decayed"), (runs.SAME_LEARNER, "auto")])
def test_a_film_shows_both_agents_before_a_change_right_after_it_and_later(
    harness, tmp_path, monkeypatch, methods, other
):
    pytest.importorskip("minigrid", reason="needs the extra minigrid")
    entry = runs.zoo("Rooms", "it", "DriftingRooms-v0", 1_200, seeds=1, methods=methods)
    monkeypatch.setitem(runs.APPLICATIONS, "it", entry)
    scenes = (report.Scene("before", 400, 0), report.Scene("after", 400, 20_000), report.Scene("later", 1_200, 20_000))
    monkeypatch.setitem(report.FILMS, "it", scenes)
    monkeypatch.setattr(report, "FRAMES", 10)
    monkeypatch.setattr(report, "WIDTH", 90)
    (tmp_path / "zoo_configs").symlink_to(zoo_configs())
    played = []
    trained = runs.trained

    def watched(run, folder, steps):
        model, env = trained(run, folder, steps)
        phases = []
        played.append((run.method, model.num_timesteps, phases))
        step = env.step

        def watched_step(action):
            result = step(action)
            phases.append(result[-1][0]["phase"])
            return result

        env.step = watched_step
        return model, env

    monkeypatch.setattr(runs, "trained", watched)
    harness("--films", "it")
    expected = [(steps, phase) for steps, phase in ((400, 0), (400, 1), (1_200, 1)) for _ in range(2)]
    assert [(steps, phases) for _, steps, phases in played] == [(steps, [phase] * 10) for steps, phase in expected]
    assert [method for method, _, _ in played] == ["uniform", other] * 3
    with Image.open(tmp_path / "images" / "applications_it.gif") as film:
        assert film.size == (2 * 90 + 8, 90 + 2 * report.CAPTION_HEIGHT)
        # Pillow joins frames that are alike
        assert 3 <= film.n_frames <= 30


def test_tasks_without_drift_have_one_figure_of_differences(tmp_path, monkeypatch):
    names = [f"{env}-{algo}" for env in ("pendulum", "lander") for algo in ("sac", "td3")]
    records = {
        Run(name, method, seed): {"curve": [level + seed] * BINS, "resumed": True}
        for name in names
        for method, level in (("decayed", 4.0), ("uniform", 1.0))
        for seed in range(3)
    }
    assert report.difference_to_uniform(records, "pendulum-sac", "decayed").value == pytest.approx(3)
    assert report.difference_to_uniform(records, "pendulum-tqc", "decayed") is None
    report.draw_differences(report.rows_of_algorithms([*names, "pendulum-tqc"], records), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size == (plotting.WIDTH * plotting.PIXELS, 2 * 1.05 * plotting.PIXELS)


def test_the_differences_of_all_methods_have_a_block_for_each_application():
    levels = {"rooms": {"auto": 3.0, "decayed": 2.0, "uniform": 1.0}, "tag": {"both auto": 5.0, "both uniform": 4.0}}
    records = {
        Run(name, method, seed): {"curve": [level + seed] * BINS, "resumed": False}
        for name, methods in levels.items()
        for method, level in methods.items()
        for seed in range(3)
    }
    blocks = report.rows_of_methods(["rooms", "tag"], records)
    found = {title: [(row.label, row.difference.value) for row in rows] for title, rows in blocks.items()}
    assert found == {
        runs.APPLICATIONS["rooms"].about: [("auto", 2.0), ("decayed", 1.0)],
        runs.APPLICATIONS["tag"].about: [("both auto", 1.0)],
    }


def test_what_an_oracle_and_a_random_policy_would_get_is_known_for_each_part_of_a_run():
    recommender = runs.APPLICATIONS["recommender"]
    levels = report.oracle_and_random(dataclasses.replace(recommender, steps=2 * BINS))
    env = gym.make("sb3_reptile.envs:DriftingRecommender-v0")
    env.action_space.seed(0)
    env.reset(seed=0)
    # The first part has two steps
    steps = [env.step(env.action_space.sample())[-1] for _ in range(2)]
    expected = [
        env.spec.max_episode_steps * np.mean([step[f"{who}_click_rate"] for step in steps])
        for who in ("oracle", "random")
    ]
    assert levels[:, 0] == pytest.approx(expected)
    assert (levels[0] > levels[1]).all()


def test_the_table_says_what_an_oracle_and_a_random_policy_would_get(monkeypatch):
    recommender = dataclasses.replace(runs.APPLICATIONS["recommender"], steps=2 * BINS)
    monkeypatch.setattr(runs, "APPLICATIONS", {"recommender": recommender})
    record = {"curve": [1.0] * BINS, "resumed": True}
    lines = report.table({Run("recommender", "decayed", 0): record})
    oracle, random = report.oracle_and_random(recommender)
    end = -BINS // 3
    assert lines[-3:-1] == [
        f"| {recommender.about} | oracle |  | {oracle.mean():.1f} |  | {oracle[end:].mean():.1f} |  |",
        f"| {recommender.about} | random |  | {random.mean():.2f} |  | {random[end:].mean():.2f} |  |",
    ]
    assert not any("oracle" in line for line in report.table({}))


OF_THE_ZOO = [
    (name, method)
    for name, application in runs.APPLICATIONS.items()
    for method in application.methods
    if runs.is_of_the_zoo(name)
]


@pytest.mark.parametrize(("name", "method"), OF_THE_ZOO)
def test_the_rl_zoo_understands_the_command(name, method, monkeypatch, tmp_path):
    if name.startswith("pong"):
        pytest.importorskip("ale_py", reason="needs the extra atari")
    seen = []

    class Understands(Exception):
        pass

    def set_up(manager):
        seen.append((manager.algo, manager.n_timesteps, manager.read_hyperparameters()[0]))
        raise Understands

    monkeypatch.setattr(rl_zoo3.train, "ExperimentManager", rl_zoo3.train.ExperimentManager)
    monkeypatch.setattr(ReptileExperimentManager, "setup_experiment", set_up)
    monkeypatch.setattr(th, "set_num_threads", lambda number: None)
    register()
    monkeypatch.setattr(sys, "argv", runs.command(Run(name, method, 3), str(tmp_path))[2:])
    with pytest.raises(Understands):
        rl_zoo3.train.train()
    ((algo, n_timesteps, settings),) = seen
    half_life = settings["half_life"] if algo == ALGO else settings["replay_buffer_kwargs"]["half_life"]
    assert (half_life == float("inf")) == method.startswith("uniform")
    assert n_timesteps == runs.APPLICATIONS[name].steps
