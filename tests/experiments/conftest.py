"""For the tests of experiments: the smoke profile in a cache of its own."""

import pytest

from lib.experiments import profiles


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The smoke profile, loaded; runs of this module are stored in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCBERT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield profiles.load("smoke")
