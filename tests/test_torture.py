"""Three of the fifty kills of `make torture`, and its full disk."""
import pytest

torture = pytest.importorskip("torture")   # not where processes have no limits (Windows)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    where = tmp_path_factory.mktemp("torture ü")
    data = torture.photos(where)
    end = torture.train(where / "one", data)
    assert end.code == 0, end.said
    return where, data, end.seconds, torture.weights(where / "one")


def test_three_kills_at_random_moments_change_nothing(undisturbed):
    where, data, seconds, expected = undisturbed
    assert sum(torture.kill_and_resume(where, data, 3, 7, seconds, expected).values()) == 3


def test_a_full_disk_is_said_and_costs_nothing(undisturbed):
    said = torture.fill_the_disk(undisturbed[0], *undisturbed[1:])
    assert said.startswith("dgnet_train: …/") and "Make room on that disk" in said
