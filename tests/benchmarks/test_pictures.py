"""The pictures of the README and of docs/."""

import re
import sys
from pathlib import Path

import pytest

from sb3_reptile.evaluation import statistics

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import pictures

    return pictures


def test_the_headline_has_the_values_of_the_results(pictures):
    page = (ROOT / "docs" / "explanation" / "results.md").read_text(encoding="utf-8")
    section = page[page.index("## At a glance") :].split("\n## ")[0]
    groups = pictures.glance(pictures.with_learner(pictures.read_records(pictures.LEARNER_RECORDS)))
    assert len(groups) == 2
    for tasks, matrices in groups.values():
        assert all(f"`{task}`" in section for task in tasks)
        bars = pictures.headline(matrices)
        assert [bar.family for bar in bars] == ["uniform", "fifo", "default", "auto"]
        for bar in bars:
            assert "{:.2f} ({:.2f} to {:.2f})".format(*bar.estimate) in section


def test_the_flow_chart_has_at_most_six_questions_and_the_answers_of_the_page(pictures):
    assert len(pictures.QUESTIONS) <= 6
    page = (ROOT / "docs" / "how_to" / "choosing.md").read_text(encoding="utf-8")
    page = " ".join(page.replace("`", "").split())
    for answer in (
        "SB3's uniform replay, or ReptileDQN(...) as it is",
        "model.replay_buffer.reset()",
        "the default decay",
        "DecayedReplayBuffer",
        "PPO and A2C",
    ):
        answers = " ".join([*(answer for *_, answer in pictures.QUESTIONS), pictures.OTHERWISE])
        assert answer in " ".join(answers.split())
        assert answer in page


def test_every_picture_is_drawn_twice_the_same(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    drawn = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        monkeypatch.setattr(sys, "argv", ["pictures", "--output", str(folder)])
        pictures.main()
        drawn.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert drawn[0] == drawn[1]
    assert drawn[0].keys() == {"headline.svg", "which_replay.svg", "decays.svg", "data_flow.svg"}
    used = " ".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    for name in drawn[0]:
        assert re.search(rf"images/{re.escape(name)}\)", used)
        assert (ROOT / "docs" / "images" / name).exists()
