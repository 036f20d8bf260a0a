"""./run_all.sh itself, in whatever way and place it is started."""

import os
import shutil
import subprocess
import sys

import pytest

from lib.settings import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="it is a script of bash")
ODD = "a {profile} b'"  # a folder's name with blanks, braces as papermill would fill in, and a quote


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project's folder under an odd name, with this interpreter for its environment."""
    place = tmp_path_factory.mktemp("copy") / ODD
    for name in ("lib", "notebooks", "data/sources.yaml", "data/published", "run_all.sh", ".setup.sh", "requirements.txt"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        whole = (ROOT / name).is_dir()
        (shutil.copytree if whole else shutil.copy)(ROOT / name, place / name, **({"ignore": without_caches} if whole else {}))
    return place


without_caches = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")


def start(command, cwd, folder, **variables):
    """Run a command of a shell, with the environment of a reader who activated this interpreter's; the finished process."""
    own = {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "PYTHONPATH": ""}
    own |= {"SCBERT_CACHE": str(folder / "cache"), "SCBERT_FIGURES": str(folder / "figures")}
    how = {"cwd": cwd, "env": os.environ | own | variables, "text": True, "capture_output": True, "timeout": 900}
    return subprocess.run(command, **how)


WAYS = {"from elsewhere": ([f"./{ODD}/run_all.sh"], ".."), "by sh and links": (["sh", "../link to it"], ".")}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_it_finds_its_folder(copy, tmp_path, way):
    """Here to refuse a notebook that there is not: with its own sentence, not one of the shell or of Python."""
    link = copy.parent / "link to it"
    if not link.is_symlink():
        (copy.parent / "other").symlink_to(copy)  # a link to a folder, and to the script in it
        link.symlink_to("other/run_all.sh")
    command, where = WAYS[way]
    odd = {"CDPATH": f"{tmp_path}:/", "PYTHONOPTIMIZE": "2", "PYTHONSAFEPATH": "1"}
    done = start([*command, "--only", "99"], copy / where, tmp_path, **odd)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("./run_all.sh: No notebook begins with '99'")


@pytest.mark.slow
def test_a_notebook_runs_in_an_odd_place(copy, tmp_path):
    """In a folder with braces, without asserts and the working folder, beside a kernel python3 that is another program's.

    Cache and figures that are named by relative paths land in the project's folder, not in that of the notebooks.
    """
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["false", "{connection_file}"], "display_name": "another", "language": "python"}')
    odd = {"PYTHONOPTIMIZE": "1", "PYTHONSAFEPATH": "1", "CDPATH": "/", "JUPYTER_PATH": str(tmp_path / "jupyter")}
    odd |= {"SCBERT_CACHE": "my cache", "SCBERT_FIGURES": "my figures"}
    done = start(["./run_all.sh", "--profile", "smoke", "--only", "05"], copy, tmp_path, **odd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (copy / "my figures" / "smoke" / "notebooks" / "05_scorecard.html").exists() and (copy / "my cache").is_dir()
    assert {path.name for path in copy.glob("notebooks/*")} <= {path.name for path in ROOT.glob("notebooks/*")}
