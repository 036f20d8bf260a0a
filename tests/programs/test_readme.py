"""README says what the published figures say, and its links and commands lead somewhere."""

import functools
import itertools
import re
import subprocess
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest

from lib.experiments import profiles
from lib.programs import committed, readme, run_notebooks, speed, texts
from lib.settings import ROOT


@functools.cache
def published(profile):
    """The published tables of a profile, none if it is not published; skips where they cannot be had."""
    if committed.content(f"figures/{profile}/{committed.SUMS}") is None:
        return {}
    found = committed.tables(profile)
    if not found or len(found) < len(committed.content(f"figures/{profile}/{committed.SUMS}").splitlines()):
        pytest.skip(f"figures/{profile} is not as published, and there is no git to ask")
    return found


@pytest.mark.parametrize("path", readme.PARTS)
def test_the_texts_say_what_the_published_figures_say(path):
    """Every number of a part is in the published figures, or computed from them (``python -m lib.readme``)."""
    text = committed.content(path).decode()
    assert readme.written(path, text, published) == text


def test_a_notebook_of_each_question_states_its_finding_first():
    """But for the one on the reader's own cells; .py and .ipynb say the same, in the first cell."""
    told = [path for path, parts in readme.NOTEBOOKS.items() if "finding" in parts]
    assert {path.split("/")[1][:2] for path in told} == {path.name[:2] for path in run_notebooks.notebooks()} - {"06"}
    for path in told:
        first = jupytext.read(ROOT / path).cells[0].source
        assert "**What we find** in sorted blood cells" in readme.part(first, "finding")


def test_each_notebook_and_readme_can_be_opened_on_binder_and_colab():
    """By links to the very notebook, README's to the first, at the one address in pyproject.toml."""
    owner = texts.address().removeprefix("https://github.com/")
    for path in [*readme.NOTEBOOKS, "README.md"]:
        text = committed.content(path).decode()
        target = "notebooks/01_baseline_comparison.ipynb" if path == "README.md" else str(Path(path).with_suffix(".ipynb"))
        assert f"(https://mybinder.org/v2/gh/{owner}/main?urlpath=lab/tree/{target})" in text
        assert f"(https://colab.research.google.com/github/{owner}/blob/main/{target})" in text
        assert (ROOT / target).is_file()


def test_another_address_is_written_everywhere(monkeypatch):
    """Changed in pyproject.toml, it is in the badges and in the cell that fetches the repository."""
    path = "notebooks/06_your_data.ipynb"
    monkeypatch.setattr(texts, "address", lambda: "https://github.com/someone/scbert.again")
    monkeypatch.setitem(readme.PARTS, path, {"badges": texts.badges(path)})
    made = readme.written(path, committed.content(path).decode(), published)
    assert made.count("someone/scbert.again") == 3 and "https://github.com/someone/scbert.again.git" in made


def test_readme_is_read_in_five_minutes():
    """8,000 characters, tables and links included."""
    assert len((ROOT / "README.md").read_text()) < 8000


def card(experiment, arm, metric, paper, ours, fraction=1.0):
    """A row of the scorecard: means, half widths a tenth of them, the paper's effect half of its mean."""
    return {
        "experiment": experiment,
        "dataset": "zheng68k",
        "arm": arm,
        "fraction": fraction,
        "metric": metric,
        "paper": paper,
        "half_width_paper": paper / 10,
        "ours": ours,
        "half_width_ours": ours / 10,
        "effect_paper": paper / 2,
        "low_paper": paper / 4,
        "high_paper": paper,
    }


@pytest.fixture
def tables():
    """Hand-made tables of a profile, each number in its own place."""
    rows = []
    for k, (_, experiment, arm, fraction) in enumerate(texts.ROWS, 1):
        rows += [
            card(experiment, arm, "accuracy", 0.1 * k, 0.1 * k + 0.05, fraction),
            card(experiment, arm, "macro_f1", 0.1 * k + 0.01, 0.1 * k + 0.06, fraction),
        ]
    rows += [card("masked", arm, metric, 0.7, 0.3) for _, arm, metric in texts.MASKED]
    other = [row | {"dataset": "macparland", "paper": 0.99, "ours": 0.99} for row in rows]

    def found(**keys):
        return {**keys, "low": 0.01, "high": 0.03}

    return {
        "05_scorecard.csv": pd.DataFrame(other + rows),
        "04_rules.csv": pd.DataFrame(
            [found(answer="gene_rule", metric="accuracy", value=0.9), found(answer="additive", metric="accuracy", value=0.02)]
        ),
        "01_difference.csv": pd.DataFrame([found(difference=0.02)]),
        "03_difference.csv": pd.DataFrame(
            [found(arm="no_gene2vec", difference=0.04), found(arm="no_pretraining", difference=-0.05)]
        ),
        "04_zero_shot.csv": pd.DataFrame(
            [found(arm=arm, metric="knn_accuracy", value=0.2 * k) for k, arm in enumerate(("no_pretraining", "full", "pca"), 1)]
        ),
    }


def test_every_number_of_the_results_stands_in_its_place(tables):
    """Paper and ours, accuracy and macro-F1, arms and their differences; the other data set's rows are left out."""
    lines = texts.results(lambda profile: tables).splitlines()
    assert "| Logistic regression | 0.100 ± 0.010 | 0.150 ± 0.015 | 0.110 ± 0.011 | 0.160 ± 0.016 |" in lines
    assert "| scBERT, 10 % of the labels | 0.600 ± 0.060 | 0.650 ± 0.065 | 0.610 ± 0.061 | 0.660 ± 0.066 |" in lines
    assert "| scBERT | 0.700 | 0.300 ± 0.030 |" in lines
    assert "| a rule that counts bins of the cell and of the gene, no transformer | – | 0.020 (0.010 to 0.030) |" in lines
    assert "| Logistic regression | +5.0 (+2.5 to +10.0) | +2.0 (+1.0 to +3.0) |" in lines
    assert "| scBERT, not pre-trained | +15.0 (+7.5 to +30.0) | -5.0 (+1.0 to +3.0) |" in lines
    assert "| scBERT, no gene embedding | +20.0 (+10.0 to +40.0) | +4.0 (+1.0 to +3.0) |" in lines
    assert lines[-3:] == [
        "| principal components | 0.60 (0.01 to 0.03) |",
        "| scBERT | 0.40 (0.01 to 0.03) |",
        "| scBERT, not pre-trained | 0.20 (0.01 to 0.03) |",
    ]


@pytest.fixture
def measured():
    """A benchmark's table: stock takes a second a cell for everything, the k-th model of ours a k-th of it."""
    rows = [{"job": "products", "model": kind, "matrix_rate": rate, "machine": "A machine"} for kind, rate in RATES.items()]
    parts = {"compiled functions": 0.25, "matrix products": 0.2, "exponentials": 0.05, "the rest": 0.5}
    for job in speed.STEPS:
        for size, genes in (("full", 16_906), ("small", 2000)):
            for k, model in enumerate([*speed.MODELS, speed.KEPT], 1):
                if model == speed.KEPT and (job, size) != ("finetuning step", "full"):
                    continue
                row = {"job": job, "model": model, "genes": genes, "size": size, "threads": 2, "bytes": k * 2**20}
                row |= {"ratio": k, "ratio_low": k - 0.1, "ratio_high": k + 0.1, "seconds": (1 if size == "full" else 0.01) / k}
                rows.append(row | {"share_of_rate": k / 10 if model in speed.MODELS[:3] else np.nan})
        for model in speed.MODELS[1:3]:
            rows.append(
                {
                    "job": f"{job}: error",
                    "model": model,
                    "genes": 16_906,
                    "error": 3e-7,
                    "error_overall": np.nan,
                    "agreement": 0.999,
                }
            )
            about = {"job": f"{job}: profile", "model": model, "genes": 16_906}
            rows += [about | {"part": part, "seconds": seconds} for part, seconds in parts.items()]
    rows += [
        {"job": "feeding", "model": model, "genes": 16_906, "seconds": seconds, "ratio": 1e-3 / seconds}
        for model, seconds in (("ours", 1e-5), ("stock", 1e-3))
    ]
    about = {"job": "preparation", "genes": 16_906, "cells": 1000}
    rows += [
        about | {"model": f"ours, {kind} tokens", "seconds": seconds, "bytes": seconds * 2**30}
        for kind, seconds in (("sparse", 0.002), ("dense", 0.003))
    ]
    return pd.DataFrame(rows)


RATES = {"float32": 5e10, "bfloat16": 1e11}


def test_costs_are_computed_from_the_seconds_a_cell(measured):
    """Ten epochs of 54,760 cells at 1 s are 6.3 days; ratios, memory and shares stand beside their model."""
    said = speed.tables(lambda profile: {"cpu.csv": measured})
    for line in (
        "Measured on A machine, 2 threads, where products of matrices reach 100 GFLOP/s in bfloat16, 50 GFLOP/s in float32.",
        "| forward | 1 s, 1 MiB | 0.5 s, 2.0× (1.9 to 2.1), 2 MiB | 0.333 s, 3.0× (2.9 to 3.1), 3 MiB | "
        "0.25 s, 4.0× (3.9 to 4.1), 4 MiB | – |",
        "| forward: rate over that of products, zeros counted | 10% | 20% | 30% | | |",
        "| fine-tuning, 10 epochs of 54,760 cells | 6.3 days | 3.2 days | 2.1 days | 1.6 days |",
        "| forward | 10 ms, 1 MiB | 5 ms, 2.0× (1.9 to 2.1), 2 MiB | 3.33 ms, 3.0× (2.9 to 3.1), 3 MiB | "
        "2.5 ms, 4.0× (3.9 to 4.1), 4 MiB |",
        "| hidden genes with the same answer | 99.90% | 99.90% |",
        "| compiled functions | 25% | 25% |",
        "A batch of 32 cells is fed in 0.32 ms, 100× faster",
        "1,000 simulated cells of 32,738 genes takes 2 s and 2.0 GiB (sparse tokens) and 3 s and 3.0 GiB (dense tokens).",
    ):
        assert line in said
    assert "0.2 s, 5.0× (4.9 to 5.1), 5 MiB |" in next(
        line for line in said.splitlines() if line.startswith("| fine-tuning step")
    )


def test_readme_has_three_lines_of_speed(measured):
    """One each job; without bf16 units there is one column less."""
    said = speed.short(lambda profile: {"cpu.csv": measured}).splitlines()
    assert said[0] == "| a cell, 16,906 genes | performer-pytorch | ours, fp32, faster by | ours, bf16, faster by |"
    assert said[2:] == [f"| {name} | 1 s | 2.0× (1.9 to 2.1) | 3.0× (2.9 to 3.1) |" for name in speed.STEPS.values()]
    plain = measured[measured["model"] != "ours, bf16"]
    assert speed.short(lambda profile: {"cpu.csv": plain}).splitlines()[-1] == "| pre-training step | 1 s | 2.0× (1.9 to 2.1) |"


def test_the_program_writes_what_is_old_and_nothing_else(tmp_path, monkeypatch, capsys, tables):
    """``python -m lib.readme`` mends a table and the sums; ``--check`` only says so, with exit status 1."""
    laptop = tmp_path / "figures" / "laptop"
    laptop.mkdir(parents=True)
    for name, table in tables.items():
        table.to_csv(laptop / name, index=False)
    (laptop / committed.SUMS).touch()
    before = "A title.\n<!-- results: python -m lib.readme -->\nold\n<!-- end of results -->\nThe end.\n"
    (tmp_path / "README.md").write_text(before)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "PARTS", {"README.md": {"results": texts.results}})
    assert readme.main(["--check"]) == 1 and (tmp_path / "README.md").read_text() == before
    assert capsys.readouterr().out.splitlines() == [
        "README.md is not what the figures say",
        "figures/laptop/SHA256SUMS is not what the figures say",
    ]
    assert readme.main([]) == 0 and readme.main(["--check"]) == 0
    assert (tmp_path / "README.md").read_text() == before.replace("old\n", texts.results(lambda profile: tables))
    assert (laptop / committed.SUMS).read_text() == committed.sums(laptop)


PAGES = [
    *("README.md", "CONTRIBUTING.md", "data/README.md", "lib/README.md"),
    *("figures/README.md", "figures/benchmark/README.md"),
]


def test_links_and_pictures_exist():
    """Every relative link of the Markdown files leads somewhere."""
    for page in (ROOT / name for name in PAGES):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_are_understood():
    """Every run_all.sh command of README is one that the program accepts, up to running it."""
    commands = re.findall(r"^(\./run_all\.sh.*?|bash tests/run\.sh.*?)(?:\s+#.*)?$", (ROOT / "README.md").read_text(), re.M)
    assert len(commands) >= 4
    for command in commands:
        words = command.split()
        if words[0] != "./run_all.sh" or "ADDRESS" in command:
            continue
        options = dict(itertools.pairwise(words))
        profiles.read(options.get("--profile", "quick"))
        books = run_notebooks.notebooks([options["--only"]] if "--only" in options else None)
        for name in [words[i + 1] for i, word in enumerate(words) if word == "-p"]:
            for book in books:
                run_notebooks.check_parameters(book, [name])


def test_no_path_of_a_machine_is_committed():
    """No tracked text file names a home or working folder of the machine that made it."""
    pattern = r"(^|[^A-Za-z0-9_.])/(work|root|home)/"
    found = subprocess.run(
        ["git", "grep", "--cached", "-nIE", pattern, "--", ".", ":!figures/*.svg"], cwd=ROOT, capture_output=True, text=True
    )
    if found.returncode > 1:
        pytest.skip("no git here")
    assert [line for line in found.stdout.splitlines() if "test_readme.py" not in line] == []
