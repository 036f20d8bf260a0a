"""Every notebook executed in the smoke profile by run_all.sh's own program, and what it says when something fails."""

import html.parser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jupytext
import nbformat
import pandas as pd
import psutil
import pytest
from jupytext.sync_contentsmanager import TextFileContentsManager

from lib import files
from lib.errors import DataError
from lib.experiments import inventory, names, profiles, specs, tasks
from lib.programs import committed, report, run_notebooks, texts
from lib.settings import ROOT
from tests import browser

BOOKS = run_notebooks.notebooks()


def program(*arguments, folder):
    environment = os.environ | {"SCBERT_CACHE": str(folder / "cache"), "SCBERT_FIGURES": str(folder / "figures")}
    command = [sys.executable, "-m", "lib.run_notebooks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=1200)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """All notebooks executed once in the smoke profile: the folder, and the finished process."""
    folder = tmp_path_factory.mktemp("smoke")
    return folder, program("--profile", "smoke", folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("book", BOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_writes_its_figures(smoke, book):
    """Executed without error; its figures come as png, svg and csv, it comes as ipynb and html."""
    folder, process = smoke
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    target = folder / "figures" / "smoke"
    executed = nbformat.read(target / "notebooks" / book.name, as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code" and cell.source)
    text = (target / "notebooks" / book.name).read_text()
    assert str(ROOT) not in text and str(folder) not in text, "the executed notebook names a path of this machine"
    assert (target / "notebooks" / book.name).with_suffix(".html").stat().st_size > 10_000
    figures = re.findall(r'plots\.save\(\s*fig,\s*"(\w+)"', book.with_suffix(".py").read_text())
    assert figures
    for name in figures:
        assert (target / f"{name}.png").stat().st_size > 5_000
        assert (target / f"{name}.svg").exists() and len((target / f"{name}.csv").read_text().splitlines()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("book", BOOKS, ids=lambda path: path.stem)
def test_notebook_gives_the_index_its_answer_figure_and_table(smoke, book):
    """By the tags of its cells: the answer in Markdown, a caption that names interval and runs, a table, an environment."""
    target = smoke[0] / "figures" / "smoke"
    found = report.question(target / "notebooks" / book.name, target)
    assert found["answers"] and all(len(answer) > 30 for answer in found["answers"])
    assert "95 %" in found["figure"]["caption"] and re.search(r"Runs of ours: .* \d+", found["figure"]["caption"])
    assert found["table"].count("<tr>") > 1 and found["number"] == int(book.name[:2])
    executed = nbformat.read(target / "notebooks" / book.name, as_version=4)
    assert "scikit-learn" in str([cell.outputs for cell in executed.cells if "environment" in cell.metadata.get("tags", [])])


class Page(html.parser.HTMLParser):
    """What a page holds: its tags with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index", *(f"notebooks/{book.stem}" for book in BOOKS)])
def test_pages_are_whole_by_themselves(smoke, name):
    """No request leaves them, figures have alternative texts, links lead somewhere, and no progress is shown."""
    path = smoke[0] / "figures" / "smoke" / f"{name}.html"
    page = Page(path)
    assert path.stat().st_size < 5_000_000
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    loaded = [
        attributes[key] for _, attributes in page.tags for key in ("src", "srcset", "data", "poster") if key in attributes
    ]
    assert loaded and all(source.startswith("data:image/") for source in loaded)
    assert not re.search(r"url\(|@import", page.text)
    alts = [attributes.get("alt", "") for tag, attributes in page.tags if tag == "img"]
    assert all(len(alt) > 10 and "No description" not in alt for alt in alts) and len(set(alts)) == len(alts)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and "href" in attributes]
    local = [link.split("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert local and all((path.parent / link).is_file() for link in local)
    assert ("html", {"lang": "en"}) in page.tags and "viewport" in [attributes.get("name") for _, attributes in page.tags]
    assert not re.search(r"^Runs: \d|stored already|\d at a time\.$", page.text, re.M)


@pytest.mark.slow
def test_what_a_profile_is_said_to_ask_for_is_what_its_notebooks_ask_for(smoke, monkeypatch):
    """By it published runs are chosen and unused ones removed: what the notebooks left in an empty store, and no more."""
    monkeypatch.setenv("SCBERT_CACHE", str(smoke[0] / "cache"))
    profile = profiles.load("smoke")
    asked, left = {}, specs.asked(profile)
    while left:  # and what they begin with
        spec = left.pop()
        asked[names.run_id(spec)] = (spec["task"], spec["arm"])
        left += tasks.dependencies(spec)
    done = {run.id: (run.spec["task"], run.spec["arm"]) for run in inventory.runs() if run.cells == profile["fingerprint"]}
    done = {name: what for name, what in done.items() if what[0] != "external"}  # 07's models, on cells from elsewhere
    assert done.items() - asked.items() == set(), "computed, but not in specs.asked"
    assert asked.items() - done.items() == set(), "in specs.asked, but no notebook asks for it"


@pytest.mark.slow
def test_second_run_computes_nothing_and_changes_no_figure(smoke):
    """Run again: every run is found in the store, and every CSV and figure is the same to the byte."""
    folder, _ = smoke
    target = folder / "figures" / "smoke"
    before = {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()}
    process = program("--profile", "smoke", folder=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    assert re.search(r"^Runs: 0 computed, \d\d+ stored before, 0 published ones used\.$", process.stdout, re.M)
    assert {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_empty_caches_give_the_same_tables(smoke, tmp_path):
    """Computed again from nothing on the same machine, every CSV of notebook 01 is the same to the byte."""
    process = program("--profile", "smoke", "--only", "01", folder=tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    assert re.search(r"^Runs: \d\d+ computed, 0 stored before", process.stdout, re.M), "the cache was not empty"
    first, again = (folder / "figures" / "smoke" for folder in (smoke[0], tmp_path))
    tables = sorted(path.name for path in again.glob("*.csv"))
    assert "01_baseline_comparison.csv" in tables and len(tables) >= 6
    assert [name for name in tables if (first / name).read_bytes() != (again / name).read_bytes()] == []


@pytest.mark.slow
def test_a_refusal_in_a_notebook_is_the_last_line(smoke):
    """Data that a notebook cannot have: exit 1, and in the last line the notebook and what was refused, without its code."""
    process = program("--profile", "smoke", "--only", "02", "-p", "dataset", "zheng_sorted", folder=smoke[0])
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert last.startswith("FAILED 02_few_shot: ") and "SCBERT_OFFLINE" in last  # the tests set it: nothing may be downloaded
    assert "DataError" not in process.stderr and "figures in" not in process.stdout


@pytest.mark.slow
def test_a_dead_kernel_is_a_failure(tmp_path):
    """A kernel that dies is reported, not swallowed."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os; os._exit(3)")])
    nbformat.write(book, tmp_path / "dying.ipynb")
    error = run_notebooks.execute(tmp_path / "dying.ipynb", tmp_path / "out" / "dying.ipynb", {})
    assert error and re.search(r"ended from outside, as it is where memory is short \(.* GB are free now\)", error)


def heeds_ctrl_c():
    """For a process to be interrupted: what a shell starts in the background is deaf to it, and so is what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGTERM", 143)])
def test_interrupted_it_ends_with_a_sentence_and_all_that_it_started(tmp_path, name, status):
    """While runs go on side by side: its own exit status, no process of its left, no half file among the figures."""
    environment = os.environ | {"SCBERT_CACHE": str(tmp_path / "cache"), "SCBERT_FIGURES": str(tmp_path / "figures")}
    command = [sys.executable, "-m", "lib.run_notebooks", "--profile", "smoke", "--only", "02"]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "preexec_fn": heeds_ctrl_c}
    process = subprocess.Popen(command, env=environment | {"SCBERT_WORKERS": "2"}, **how)
    deadline = time.time() + 300
    while len(list(tmp_path.glob("cache/runs/*/DONE"))) < 2 and time.time() < deadline:  # two are done, others under way
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert output.splitlines()[-1].startswith("./run_all.sh: interrupted. What is done is kept")
    assert len(started) > 2 and not psutil.wait_procs(started, timeout=10)[1]
    assert "Traceback" not in output and not list((tmp_path / "figures").rglob("*.ipynb"))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["-p", "sedes", "3"], "no parameter 'sedes'"),
        (["--profile", "huge"], "no profile 'huge'"),
        (["--only", "99"], "No notebook begins with '99'"),
        (["--only", "03-01"], "No notebook begins with '03-01'"),
        (["--only", "01", "-p", "seeds", "3"], "-p: seeds is 3: no list, as in [0, 1]."),
        (["--only", "01", "-p", "seeds", "[0"], 'Quote it: -p seeds "[0, 1]"'),
        (["--only", "02", "-p", "fractions", "[1.5]"], "fractions.0 is 1.5: input should be less than or equal to 1"),
        (["--only", "06", "-p", "minutes", "ten"], "minutes is 'ten': no number"),
        (["--only", "06", "-p", "data", "nowhere.h5ad"], "-p data nowhere.h5ad: there is no such file below"),
        (["--only", "06", "-p", "data", "https://a.org/cells.h5ad"], "https://a.org/cells.h5ad is an address, not a path"),
        (["--colour"], "unrecognized arguments"),
    ],
)
def test_unknown_names_are_refused(tmp_path, monkeypatch, capsys, arguments, words):
    """Before anything is run, with the names that there are."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    with pytest.raises((DataError, SystemExit)) as refusal:
        run_notebooks.main(arguments)
    assert words in str(refusal.value) + capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_refusal_has_the_exit_status_2(tmp_path):
    process = program("--profile", "smoke", "--scheduler", "nowhere", folder=tmp_path)
    assert process.returncode == 2 and "SCBERT_SCHEDULER is 'nowhere'" in process.stderr and "Traceback" not in process.stderr


@pytest.mark.parametrize("book", BOOKS, ids=lambda path: path.stem)
def test_notebook_and_script_are_in_step(book):
    """The .ipynb and its .py hold the same cells, not many, one of them the parameters."""
    run_notebooks.check_pair(book)  # says the command that mends it
    notebook = jupytext.read(book)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 15
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1


@pytest.mark.parametrize("book", BOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(book):
    """A reader's own copy may hold some."""
    cells = jupytext.reads(committed.content(f"notebooks/{book.name}").decode(), "ipynb").cells
    mend = f"{sys.executable} -m nbconvert --clear-output --inplace notebooks/{book.name} && git add notebooks/{book.name}"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), f"outputs are staged; run: {mend}"


@pytest.mark.parametrize(
    "given, stems",
    [
        (["01"], "01"),
        (["01,02"], "01 02"),
        (["02", "01"], "01 02"),
        (["07,01-03"], "01 02 03 07"),
        (["6,1-2"], "01 02 06"),
        (["08-08"], "08"),
        ([], "all"),
    ],
)
def test_only(monkeypatch, tmp_path, given, stems):
    """``--only 01,02`` and ``--only 01 --only 02`` are the same, and ranges; the order is that of the notebooks."""
    asked = []
    monkeypatch.setenv("SCBERT_FIGURES", str(tmp_path))
    for name in ("SCBERT_PROGRESS", "SCBERT_FORCE", "SCBERT_SCHEDULER", "SCBERT_JOURNAL"):  # so that what main sets is undone
        monkeypatch.setenv(name, "")

    def execute(path, output, parameters):
        files.write_text(output, path.read_text(encoding="utf-8"))
        asked.append(path)

    monkeypatch.setattr(run_notebooks, "execute", execute)
    assert run_notebooks.main([word for one in given for word in ("--only", one)]) == 0
    assert asked == [book for book in BOOKS if stems == "all" or book.stem[:2] in stems.split()]


def test_the_end_says_how_the_tables_differ(monkeypatch, tmp_path, capsys):
    """Of the notebooks that went well: tables as published, but for one number."""
    published = {"01_a.csv": pd.DataFrame({"value": [0.5]}), "02_b.csv": pd.DataFrame({"value": [0.5]})}
    monkeypatch.setenv("SCBERT_FIGURES", str(tmp_path))
    monkeypatch.setenv("SCBERT_PROGRESS", "")
    monkeypatch.setattr(committed, "content", lambda path: b"sums" if path == "figures/quick/SHA256SUMS" else None)
    monkeypatch.setattr(committed, "tables", lambda profile: published)

    def execute(path, output, parameters):
        files.write_text(output, path.read_text(encoding="utf-8"))
        (output.parents[1] / "01_a.csv").write_text("value\n0.5\n")
        (output.parents[1] / "02_b.csv").write_text("value\n0.25\n")
        return "cell 3: it failed" if path.stem.startswith("01") else None

    monkeypatch.setattr(run_notebooks, "execute", execute)
    assert run_notebooks.main(["--only", "02"]) == 0
    said = "0 of 1 tables identical; largest difference in 02_b.csv, value: 0.5 → 0.25; no verdict changed."
    assert f"Compared with the published figures/quick: {said}" in capsys.readouterr().out
    assert run_notebooks.main([]) == 1
    assert said in capsys.readouterr().out


def test_an_executed_notebook_is_whole_or_not_there(tmp_path, monkeypatch):
    """While it runs, the last one stays in its place; what is written meanwhile has another name."""
    book, output = tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", id="a")]), book)
    output.parent.mkdir()
    output.write_text("the last one")

    def execute_notebook(path, partial, parameters, **others):
        assert output.read_text() == "the last one" and partial != str(output)
        raise RuntimeError("Kernel died")

    monkeypatch.setattr(run_notebooks.papermill, "execute_notebook", execute_notebook)
    assert run_notebooks.execute(book, output, {}) == "RuntimeError: Kernel died"
    assert nbformat.read(output, as_version=4).cells[0].source == "1"
    assert sorted(path.name for path in output.parent.iterdir()) == ["a.html", "a.ipynb"]


def opening(book):
    """The code with which a notebook finds, or fetches, its repository."""
    [source] = [cell.source for cell in jupytext.read(book).cells if cell.source.startswith("import subprocess")]
    return source.split("\n\nimport ")[0]


def open_alone(folder, before="", **variables):
    """Execute that code in an empty folder, and say where lib was found then; the finished process."""
    folder.mkdir()
    code = f"{before}\n{opening(BOOKS[0])}\nimport lib\nprint('found', lib.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, text=True, capture_output=True)


def test_all_notebooks_open_alike():
    """The same lines in each, with the address of pyproject.toml."""
    assert {opening(book) for book in BOOKS} == {opening(BOOKS[0])}
    assert f'"{texts.address()}.git"' in opening(BOOKS[0])


@pytest.mark.slow
def test_alone_on_colab_a_notebook_fetches_its_repository_and_installs_what_is_missing(tmp_path):
    """Executed in an empty folder, with a repository on this disk for that on the network; here nothing is missing."""
    if not shutil.which("git"):
        pytest.skip("there is no git")
    remote, colab = tmp_path / "remote", "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')"
    for name in ("lib/arms.py", "lib/__init__.py", "notebooks/requirements-colab.txt"):
        (remote / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run_notebooks.ROOT / name, remote / name)
    git = ["git", "-C", remote, "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    instead = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{remote.as_uri()}.insteadOf", "PIP_NO_INDEX": "1"}
    done = open_alone(tmp_path / "content", colab, **instead, GIT_CONFIG_VALUE_0=f"{texts.address()}.git")
    assert done.stdout.splitlines()[-1:] == [f"found {tmp_path / 'content' / 'scbert' / 'lib' / '__init__.py'}"], done.stderr


def test_alone_elsewhere_a_notebook_says_that_it_needs_its_repository(tmp_path):
    done = open_alone(tmp_path / "content")
    assert (
        done.stderr.splitlines()[-1]
        == "FileNotFoundError: This notebook needs the folder lib of its repository: open it there."
    )


def kept(cell):
    """What a reader writes of a cell."""
    return cell.id, cell.cell_type, cell.source, cell.metadata.get("tags")


def test_opened_run_and_saved_in_jupyter_nothing_changes_but_what_it_shows(tmp_path):
    """By jupytext's contents manager, as JupyterLab calls it: no .py changes, of the .ipynb outputs and kernel."""
    shutil.copytree(run_notebooks.NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    manager = TextFileContentsManager(root_dir=str(tmp_path))
    for book in BOOKS:
        model = manager.get(f"notebooks/{book.name}")
        opened = model["content"]
        before = nbformat.from_dict(json.loads(json.dumps(opened)))
        opened.metadata["kernelspec"] = {"display_name": "Another name", "language": "python", "name": "python3"}
        opened.metadata["language_info"] = {"name": "python", "version": "3.12.1"}
        for cell in opened.cells:
            if cell.cell_type == "code":
                cell.execution_count, cell.outputs = 1, [nbformat.v4.new_output("stream", text="shown\n")]
        manager.save(model, f"notebooks/{book.name}")
        script, saved = book.with_suffix(".py").name, nbformat.read(tmp_path / "notebooks" / book.name, as_version=4)
        assert (tmp_path / "notebooks" / script).read_bytes() == book.with_suffix(".py").read_bytes()
        assert [kept(cell) for cell in saved.cells] == [kept(cell) for cell in before.cells]
        assert saved.cells[2].execution_count == 1 or saved.cells[1].execution_count == 1
        run_notebooks.check_pair(tmp_path / "notebooks" / book.name)


# What a reader does: open a notebook, set the profile, run all, save. Says what its cells then show.
READER = """(async () => {
  const {commands} = window.jupyterapp;
  const panel = await commands.execute('docmanager:open', {path: %s, factory: 'Notebook', kernel: {name: 'python3'}});
  await panel.context.ready;
  await panel.sessionContext.ready;
  const cells = [...panel.content.model.cells].map(cell => cell.sharedModel);
  const parameters = cells.find(cell => cell.getSource().startsWith('profile = "quick"'));
  parameters.setSource(parameters.getSource().replace('"quick"', '"smoke"'));
  await commands.execute('notebook:run-all-cells');
  await panel.context.save();
  const outputs = cells.flatMap(cell => cell.toJSON().outputs ?? []);
  const problems = outputs.filter(output => output.output_type === 'error').map(output => output.evalue);
  const pictures = outputs.filter(output => 'image/png' in (output.data ?? {})).length;
  const drawn = panel.node.querySelectorAll('.jp-RenderedImage img').length;
  await panel.sessionContext.shutdown();
  panel.dispose();
  return {problems, pictures, drawn};
})()"""


@pytest.fixture(scope="module")
def in_browser(smoke, tmp_path_factory):
    """A copy of the repository under git, open in JupyterLab in a browser, with the runs of the smoke profile."""
    if not browser.CHROMIUM or not shutil.which("git"):
        pytest.skip("there is no Chromium, or no git, to look at JupyterLab with")
    copy, own = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("browser")
    left_out = shutil.ignore_patterns("__pycache__", "cache", "*.zip", ".ipynb_checkpoints")
    for name in ("lib", "notebooks", "data"):
        shutil.copytree(ROOT / name, copy / name, ignore=left_out)
    shutil.copy(ROOT / ".gitignore", copy)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    variables = {"SCBERT_CACHE": str(smoke[0] / "cache"), "SCBERT_FIGURES": str(own / "figures"), "PYTHONPATH": ""}
    with browser.lab(copy, own, variables) as page:
        yield page, copy


@pytest.mark.slow
@pytest.mark.parametrize("book", BOOKS, ids=lambda path: path.stem)
def test_in_a_browser_a_reader_changes_a_parameter_runs_all_and_saves(in_browser, book):
    """No error, all figures in sight, both files saved; git shows the changed line, and in the .ipynb outputs besides."""
    if book.stem[:2] not in ("01", "05") and not os.environ.get("ALL_IN_BROWSER"):
        pytest.skip("two notebooks do; all with ALL_IN_BROWSER=1")
    page, copy = in_browser
    shown = page.run(READER % json.dumps(f"notebooks/{book.name}"))
    figures = re.findall(r'plots\.save\(\s*fig,\s*"(\w+)"', book.with_suffix(".py").read_text())
    assert shown["problems"] == [] and page.faults == []
    assert shown["pictures"] == len(figures) and shown["drawn"] > 0
    before, after = (nbformat.read(folder / "notebooks" / book.name, as_version=4) for folder in (ROOT, copy))
    assert [kept(cell) for cell in after.cells if "parameters" not in cell.metadata.get("tags", [])] == [
        kept(cell) for cell in before.cells if "parameters" not in cell.metadata.get("tags", [])
    ]
    script = book.with_suffix(".py").name
    changed = subprocess.run(["git", "diff", "-U0", "--", script], cwd=copy / "notebooks", text=True, capture_output=True)
    lines = [line for line in changed.stdout.splitlines() if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert [line.split("#")[0].strip() for line in lines] == ['-profile = "quick"', '+profile = "smoke"']
    there = subprocess.run(["git", "status", "--short", "--", "."], cwd=copy, text=True, capture_output=True).stdout.split()
    assert {name for name in there if book.stem[:2] in name} == {f"notebooks/{book.name}", f"notebooks/{script}"}
    run_notebooks.check_pair(copy / "notebooks" / book.name)


@pytest.mark.slow
def test_a_cell_changed_in_jupyter_is_in_both(tmp_path):
    """And one that was changed in one of them alone is refused, with the command that mends it."""
    for path in run_notebooks.NOTEBOOKS.glob("01_*"):
        shutil.copy(path, tmp_path)
    shutil.copy(run_notebooks.NOTEBOOKS / "jupytext.toml", tmp_path)
    manager, [book] = TextFileContentsManager(root_dir=str(tmp_path)), tmp_path.glob("*.ipynb")
    model = manager.get(book.name)
    model["content"].cells[1].source = 'profile = "laptop"'
    manager.save(model, book.name)
    script = book.with_suffix(".py")
    assert '# %% tags=["parameters"]\nprofile = "laptop"\n' in script.read_text()
    script.write_text(script.read_text().replace('"laptop"', '"smoke"'))
    with pytest.raises(DataError, match=f"hold other cells.*-m jupytext --sync {script}"):
        run_notebooks.check_pair(book)
    subprocess.run([sys.executable, "-m", "jupytext", "--sync", "--quiet", script], check=True, cwd=tmp_path)
    run_notebooks.check_pair(book)
    assert 'profile = \\"smoke\\"' in book.read_text()
