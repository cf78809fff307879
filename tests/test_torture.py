"""Three of the fifty kills of `make torture`, and its full disk."""
import pytest

torture = pytest.importorskip("torture")   # not where processes have no limits (Windows)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torture ü")
    data = torture.photos(folder)
    end = torture.train(folder / "one", data)
    assert end.code == 0, end.stderr
    return folder, data, end.seconds, torture.weights(folder / "one")


def test_three_kills_at_random_moments_change_nothing(undisturbed):
    folder, data, seconds, expected = undisturbed
    assert torture.kill_and_resume(folder, data, 3, 7, seconds, expected).total() == 3


def test_a_full_disk_is_said_and_costs_nothing(undisturbed):
    message = torture.fill_the_disk(*undisturbed)
    assert message.startswith("dgnet_train: …/") and "Make room on that disk" in message
