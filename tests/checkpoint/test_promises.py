"""What docs/explanation/promises.md says of the tests is so."""

from pathlib import Path

from tests.checkpoint import killed_training, test_arguments, test_run_folder

PAGE = Path(__file__).parent.parent.parent / "docs" / "explanation" / "promises.md"


def cases(function):
    """Number of cases of a test's last parameter."""
    return sum(len(mark.args[1]) for mark in function.pytestmark[-1:] if mark.name == "parametrize")


def test_the_page_has_the_numbers_of_cases():
    page = PAGE.read_text(encoding="utf-8")
    taken_over = len(test_arguments.TAKEN_OVER) + len(test_arguments.LOADED)
    refused = len(test_arguments.REFUSED)
    refused += cases(test_arguments.test_a_loaded_buffer_refuses_arguments_that_cannot_change)
    assert f"{taken_over} that are taken over, {refused} that are refused" in page
    assert f"| {len(test_run_folder.BROKEN)} faults of manifests and files;" in page


def test_the_page_has_the_numbers_of_kills():
    page = PAGE.read_text(encoding="utf-8")
    assert f"| {killed_training.KILLS} kills of one run, at least" in page
    assert f"| {len(killed_training.CONFIGURATIONS)} configurations, each killed twice:" in page
