"""Pages made of executed notebooks: what they take from where, and that the published ones are what the notebooks say."""

import re
import subprocess

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from lib.errors import DataError
from lib.programs import report
from lib.settings import ROOT

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def code(source, *tags, **data):
    """A code cell that gave these outputs."""
    outputs = [nbformat.v4.new_output("display_data", {kind.replace("_", "/"): value}) for kind, value in data.items()]
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {}, outputs=outputs)


@pytest.fixture
def folder(tmp_path):
    """A folder of figures with one executed notebook."""
    table = "<style>#T_1 {}</style><table id='T_1'><tr><th class='a'>arm</th></tr><tr><td>A &lt; B</td></tr></table>"
    cells = [
        nbformat.v4.new_markdown_cell("# 2 · Is A < B?\n\nSome words."),
        nbformat.v4.new_markdown_cell("## Figure 1: all runs\n\nLook at them."),
        code('plots.save(fig, "02_few_shot", table, chosen)', "figure", image_png=PIXEL),
        code('plots.save(fig, "02_more", table, chosen)', image_png=PIXEL),
        code("answer()", "answer", "table", text_html=table, text_markdown="**It is**, by 3 points.\n\n- more"),
        code("other()", text_markdown="Not this."),
        code("table", text_html="<table><tr><td>a result</td></tr></table>"),
    ]
    cells[-1].outputs[0] = nbformat.v4.new_output("execute_result", cells[-1].outputs[0].data, execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), files_at(tmp_path / "mine" / "notebooks" / "02_few_shot.ipynb"))
    runs = pd.DataFrame({"arm": ["full", "full", "majority"], "run": ["a", "b", "c"], "source": ["ours"] * 2 + ["paper"]})
    for name in ("02_few_shot", "02_more"):
        runs.to_csv(tmp_path / "mine" / f"{name}.csv", index=False)
        (tmp_path / "mine" / f"{name}.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return tmp_path / "mine"


def files_at(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_question_is_taken_from_the_tagged_cells(folder):
    found = report.question(folder / "notebooks" / "02_few_shot.ipynb", folder)
    assert (found["number"], found["title"]) == (2, "Is A < B?")
    assert found["answers"] == ["**It is**, by 3 points.\n\n- more"]
    assert found["table"] == "<table><tr><th>arm</th></tr><tr><td>A &lt; B</td></tr></table>"
    assert found["figure"]["caption"].startswith("Figure 1: all runs. Each point is a run")
    assert found["figure"]["caption"].endswith("Runs of ours: scBERT 2.")  # not the paper's
    assert found["figure"]["alt"] == "Figure 1: all runs. The numbers are in 02_few_shot.csv."
    assert found["tables"] == ["02_few_shot.csv", "02_more.csv"] and [other["title"] for other in found["others"]] == [
        "Figure 1: all runs"
    ]


def test_the_index_escapes_what_is_no_markup(folder):
    """And holds answer, figure and table; it is the same text each time."""
    page = report.index(folder)
    assert page == report.index(folder)
    assert "<h2>2 · Is A &lt; B?</h2>" in page and "<strong>It is</strong>, by 3 points." in page and "Not this." not in page
    assert 'src="data:image/svg+xml;base64,' in page and "profile <strong>mine</strong>" in page


def test_of_a_large_svg_the_png_is_taken(folder, monkeypatch):
    (folder / "02_few_shot.png").write_bytes(b"png")
    monkeypatch.setattr(report, "LARGEST", 10)
    assert report.question(folder / "notebooks" / "02_few_shot.ipynb", folder)["figure"]["source"].startswith("data:image/png")


def test_the_page_of_a_notebook(folder):
    """Title first, then the answer; figures have an alternative text and link to their SVG."""
    page = report.notebook(folder / "notebooks" / "02_few_shot.ipynb")
    assert "<title>Is A &lt; B?</title>" in page
    assert page.index("<h1") < page.index("The answer, from below") < page.index("Figure 1")
    assert re.search(r'<a href="\.\./02_few_shot\.svg"><img [^>]*src="data:image/png', page)
    assert 'alt="Figure 1: all runs. The numbers are in 02_few_shot.csv."' in page and "http" not in page.replace(
        "http-equiv", ""
    )


def lacking(book, page):
    """What the cells of an executed notebook gave, as tables and Markdown, that its page does not show."""
    shown = BeautifulSoup(page, "html.parser").get_text()
    gave = [o.data for c in book.cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    texts = [BeautifulSoup(data["text/html"], "html.parser").find_all(["td", "th"]) for data in gave if "text/html" in data]
    words = [cell.get_text() for cells in texts for cell in cells]
    words += [re.sub(r"\W+", " ", data["text/markdown"])[:40] for data in gave if "text/markdown" in data]
    shown += re.sub(r"\W+", " ", shown)
    return [word for word in words if word not in shown]


def test_all_that_cells_gave_is_on_the_page(folder):
    """What is displayed, and what a cell's last line gives: the latter once was not."""
    path = folder / "notebooks" / "02_few_shot.ipynb"
    assert lacking(nbformat.read(path, as_version=4), report.notebook(path)) == []
    assert "a result" in report.notebook(path) and lacking(nbformat.read(path, as_version=4), "") != []


@pytest.mark.parametrize("path", sorted(ROOT.glob("figures/*/notebooks/0[18]_*.ipynb")), ids=lambda path: str(path.parts[-3:]))
def test_all_that_published_notebooks_gave_is_on_their_pages(path):
    assert lacking(nbformat.read(path, as_version=4), path.with_suffix(".html").read_text(encoding="utf-8")) == []


def test_the_closing_summary_is_short(folder):
    said = report.summary([folder / "notebooks" / "02_few_shot.ipynb"])
    assert said.splitlines() == ["", "2 · Is A < B?", "    It is, by 3 points."]
    path = folder / "notebooks" / "02_few_shot.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells[4].outputs[1].data["text/markdown"] = f"**It is**, by 3 points ({'on this (and that), ' * 20}so)."
    nbformat.write(book, path)
    assert report.summary([path]).splitlines()[2:] == ["    It is, by 3 points."], "the sentence is whole"


def test_a_notebook_without_an_answer_and_a_folder_without_notebooks(folder):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 1 · Broken off?")])
    nbformat.write(book, folder / "notebooks" / "01_broken.ipynb")
    assert "This notebook did not come to its answer." in report.index(folder)
    with pytest.raises(DataError, match=r"no executed notebook in .*other.*run_all\.sh --profile other"):
        report.index(folder.parent / "other")


def test_the_program_writes_pages_anew(folder, monkeypatch, capsys):
    monkeypatch.setenv("SCBERT_FIGURES", str(folder.parent))
    assert report.main(["mine"]) == 0
    assert (folder / "index.html").read_text() == report.index(folder)
    assert (folder / "notebooks" / "02_few_shot.html").exists() and "index.html written anew" in capsys.readouterr().out


@pytest.mark.parametrize("profile", ["quick", "laptop", "standard"])
def test_the_published_index_is_what_its_notebooks_say(tmp_path, profile):
    """As git has them: ``python -m lib.report PROFILE`` writes it anew from the notebooks that lie there."""
    listed = subprocess.run(["git", "ls-files", f"figures/{profile}"], cwd=ROOT, capture_output=True, text=True)
    if f"figures/{profile}/index.html" not in listed.stdout.splitlines():
        pytest.skip(f"no index of {profile} is published here")
    copy = ["git", "checkout-index", "--stdin", f"--prefix={tmp_path}/"]
    subprocess.run(copy, cwd=ROOT, input=listed.stdout, text=True, check=True)
    published = (tmp_path / "figures" / profile / "index.html").read_text(encoding="utf-8")
    assert report.index(tmp_path / "figures" / profile) == published, f"run: python -m lib.report {profile}, and stage it"
    assert len(published.encode()) < 5_000_000
