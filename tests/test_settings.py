"""Settings: what the variables mean, and that a value that means nothing is refused."""

import os
import re
import subprocess
import sys

import pytest

from lib import settings
from lib.errors import DataError

ASKED = {
    "SCBERT_OFFLINE": settings.offline,
    "SCBERT_MIRROR": settings.mirror,
    "SCBERT_TIMEOUT": settings.timeout,
    "SCBERT_WORKERS": settings.workers,
    "SCBERT_DEVICES": settings.devices,
    "SCBERT_AT_ONCE": settings.at_once,
    "SCBERT_SCHEDULER": settings.scheduler,
    "SCBERT_FORCE": settings.force,
    "SCBERT_PROGRESS": settings.progress,
}


@pytest.mark.parametrize(
    "variable, wrong",
    [
        ("SCBERT_OFFLINE", "yes"),
        ("SCBERT_MIRROR", "mirror.org/files"),
        ("SCBERT_TIMEOUT", "soon"),
        ("SCBERT_TIMEOUT", "0"),
        ("SCBERT_TIMEOUT", "inf"),
        ("SCBERT_WORKERS", "many"),
        ("SCBERT_WORKERS", "-1"),
        ("SCBERT_WORKERS", "1.5"),
        ("SCBERT_DEVICES", "all"),
        ("SCBERT_AT_ONCE", "0"),
        ("SCBERT_SCHEDULER", "localhost"),
        ("SCBERT_FORCE", "../up"),
        ("SCBERT_PROGRESS", "lines"),
    ],
)
def test_a_value_that_means_nothing_is_refused(variable, wrong, monkeypatch):
    """With the variable, the value and what it takes."""
    monkeypatch.setenv(variable, wrong)
    with pytest.raises(DataError, match=re.escape(f"{variable} is {wrong!r}. Give ")):
        ASKED[variable]()


def test_what_is_not_set_or_empty_has_its_default(monkeypatch):
    for empty in (True, False):
        for variable in (*ASKED, "SCBERT_CACHE", "SCBERT_DATA_DIR", "SCBERT_FIGURES", "SCBERT_JOURNAL"):
            monkeypatch.setenv(variable, "") if empty else monkeypatch.delenv(variable, raising=False)
        assert [ask() for ask in ASKED.values()] == [False, None, 60.0, None, None, None, None, None, None]
        assert settings.cache() == settings.ROOT / "data" / "cache" and settings.downloads() == settings.cache() / "downloads"
        assert settings.figures() == settings.ROOT / "figures" and settings.journal() is None


def test_values_are_understood(monkeypatch):
    given = ["1", "http://host/folder", "0.5", "3", "2", "8", "tcp://10.0.0.1:8786", "a-word_1", "log"]
    for variable, value in zip(ASKED, given, strict=True):
        monkeypatch.setenv(variable, value)
    assert [ask() for ask in ASKED.values()] == [True, given[1], 0.5, 3, 2, 8, given[6], given[7], "log"]
    monkeypatch.setenv("SCBERT_CACHE", "somewhere")
    assert settings.cache() == settings.ROOT / "somewhere"  # whatever folder the process is in


def test_every_variable_is_in_the_table():
    """What is documented is what is read."""
    documented = re.findall(r"^SCBERT_\w+", settings.__doc__, re.M)
    read = set(re.findall(r'"(SCBERT_\w+)"', (settings.ROOT / "lib" / "settings.py").read_text()))
    assert set(documented) == read and len(documented) == len(read)


def test_variables_are_handed_on_whole(monkeypatch):
    """Another process has these and no others of ours."""
    for name in settings.given():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCBERT_CACHE", "somewhere")
    monkeypatch.setenv("SCBERT_WORKERS", "3")
    handed = settings.given()
    assert handed == {"SCBERT_CACHE": "somewhere", "SCBERT_WORKERS": "3"}
    monkeypatch.setenv("SCBERT_FORCE", "word")
    settings.put(handed)
    assert settings.force() is None and settings.workers() == 3
    assert os.environ["SCBERT_CACHE"] == handed["SCBERT_CACHE"] and "PATH" in os.environ


def test_another_process_finds_the_library(monkeypatch, tmp_path):
    """In whatever folder it is started, beside what the environment names; and the changes are its own."""
    (tmp_path / "mine.py").write_text("found = True")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = "import mine, lib.settings as s; print(s.cache())"
    for options in ([], ["-P"]):
        ran = subprocess.run(
            [sys.executable, *options, "-c", code],
            env=settings.handed_on({"SCBERT_CACHE": "theirs"}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert ran.stdout.strip() == str(settings.ROOT / "theirs"), ran.stderr
    assert os.environ.get("SCBERT_CACHE") != "theirs"
