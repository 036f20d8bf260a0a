"""README and the committed figures agree. ``python tests/programs/test_readme.py`` writes README's results table anew."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SPEED_MARKS = ("<!-- speed: tests/programs/test_readme.py -->\n", "<!-- end of speed -->")
MARKS = ("<!-- results: tests/programs/test_readme.py -->\n", "<!-- end of results -->")
ROWS = [
    ("Logistic regression", "baseline", "logistic_regression", 1.0, ["accuracy", "macro_f1"]),
    ("scBERT", "baseline", "full", 1.0, ["accuracy", "macro_f1"]),
    ("scBERT, not pre-trained", "ablation", "no_pretraining", 1.0, ["accuracy", "macro_f1"]),
    ("scBERT, no gene embedding", "ablation", "no_gene2vec", 1.0, ["accuracy", "macro_f1"]),
    ("Logistic regression, 10 % of the labels", "few_shot", "logistic_regression", 0.1, ["accuracy", "macro_f1"]),
    ("scBERT, 10 % of the labels", "few_shot", "full", 0.1, ["accuracy", "macro_f1"]),
]  # fmt: skip


def results_table():
    """README's table, from the scorecard that ``figures/quick`` holds."""
    sys.path.insert(0, str(ROOT))
    from lib.evaluate import words

    card = pd.read_csv(ROOT / "figures" / "quick" / "05_scorecard.csv")
    card = card[card["dataset"] == "zheng68k"].set_index(["experiment", "arm", "fraction", "metric"])
    lines = ["| | accuracy, paper | accuracy, ours | macro-F1, paper | macro-F1, ours |", "|---|---|---|---|---|"]
    for name, experiment, arm, fraction, metrics in ROWS:
        found = [card.loc[(experiment, arm, fraction, metric)] for metric in metrics]
        numbers = [words.show(r[who], r[f"half_width_{who}"]) for r in found for who in ("paper", "ours")]
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    lines += ["", "| masked task: hidden genes told right | paper | ours |", "|---|---|---|"]
    for name, arm, metric in (
        ("scBERT", "full", "masked_accuracy"),
        ("scBERT, no gene embedding", "no_gene2vec", "masked_accuracy"),
        ("saying the cell's most common bin", "no_gene2vec", "accuracy_of_most_common_bin"),
    ):
        row = card.loc[("masked", arm, 1.0, metric)]
        lines.append(f"| {name} | {row['paper']:.3f} | {words.show(row['ours'], row['half_width_ours'])} |")
    rule = pd.read_csv(ROOT / "figures" / "quick" / "04_rules.csv").set_index(["answer", "metric"]).loc[("additive", "accuracy")]
    lines.append(f"| a rule that knows cell and gene, no model | – | {rule['value']:.3f} ({rule['low']:.3f} to {rule['high']:.3f}) |")
    lines += ["", "| accuracy, difference to scBERT in points | paper | ours |", "|---|---|---|"]
    ours = pd.concat([pd.read_csv(ROOT / "figures" / "quick" / f"{name}_difference.csv") for name in ("01", "03")])
    ours["arm"] = ours["arm"].fillna("logistic_regression")
    for (name, experiment, arm, fraction, _), row in zip([ROWS[0], ROWS[2], ROWS[3]], ours.itertuples()):
        paper = card.loc[(experiment, arm, fraction, "accuracy")]
        assert row.arm == arm
        numbers = [paper["effect_paper"], paper["low_paper"], paper["high_paper"], row.difference, row.low, row.high]
        texts = [f"{100 * n:+.1f}" for n in numbers]
        lines.append(f"| {name} | {texts[0]} ({texts[1]} to {texts[2]}) | {texts[3]} ({texts[4]} to {texts[5]}) |")
    knn = pd.read_csv(ROOT / "figures" / "quick" / "04_zero_shot.csv").query("metric == 'knn_accuracy'").set_index("arm")
    lines += ["", "| cells whose nearest neighbours give the right type | ours |", "|---|---|"]
    for name, arm in (
        ("principal components", "pca"),
        ("scBERT", "full"),
        ("scBERT, not pre-trained", "no_pretraining"),
    ):
        row = knn.loc[arm]
        lines.append(f"| {name} | {row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f}) |")
    return "\n".join(lines) + "\n"


def speed_table():
    """README's tables of speed, from the benchmark that ``figures/benchmark`` holds; costs are computed from it."""
    table = pd.read_csv(ROOT / "figures" / "benchmark" / "cpu.csv")
    table = table.drop_duplicates(["job", "genes", "model"]).set_index(["job", "genes", "model"])
    lines = ["| 16,906 genes, a cell | stock | ours | ours, no gene embedding | error of ours |", "|---|---|---|---|---|"]
    models = ("stock", "ours", "ours, no gene embedding")
    for job in ("forward", "finetuning step", "pretraining step"):
        rows = [table.loc[(job, 16_906, model)] for model in models]
        cells = [f"{row['seconds']:.3g} s ({row['ratio']:,.1f}×), {row['bytes'] / 2**20:.0f} MiB" for row in rows]
        error = table.loc[(f"{job}: error", 16_906, "ours"), "error"]
        lines.append(f"| {job} | {' | '.join(cells)} | {error:.0e} |")
    shares = [f"{table.loc[('forward', 16_906, model), 'share_of_rate']:.0%}" for model in models[:2]]
    rate = table.loc[("forward", 16_906, "stock"), "matrix_rate"] / 1e9
    lines.append(f"| forward: share of this machine's {rate:.0f} GFLOP/s in products | {' | '.join(shares)} | | |")
    lines += ["", "| *computed* from the above | stock | ours | ours, no gene embedding |", "|---|---|---|---|"]
    for name, job, cells in (
        ("fine-tuning, 10 epochs of 54,760 cells", "finetuning step", 10 * 54_760),
        ("pre-training, one pass over 1.1 million cells", "pretraining step", 1.1e6),
        ("naming 10,000 cells", "forward", 10_000),
    ):
        seconds = [cells * table.loc[(job, 16_906, model), "seconds"] for model in models]
        lines.append(f"| {name} | {' | '.join(map(duration, seconds))} |")
    parts, forward = table.loc[("forward: profile", 16_906), "seconds"], table.loc[("forward", 16_906)]
    limit = forward.loc["stock", "seconds"] / parts["matrix products"]
    lines += ["", f"Of a forward of ours {parts['matrix products'] / parts.sum():.0%} of the time is matrix products, "
              f"{parts['exponentials'] / parts.sum():.0%} exponentials, {parts['the rest'] / parts.sum():.0%} the rest (profile). If "
              f"everything but the products took no time, ours would be {limit:.1f}× stock: that is the limit in fp32 here."]  # fmt: skip
    fed = table.loc["feeding"].droplevel(0)
    made = table.loc["preparation"].droplevel(0)
    lines += ["", f"A batch of 32 cells is fed in {32e3 * fed.loc['ours', 'seconds']:.2f} ms, "
              f"{fed.loc['ours', 'ratio']:.0f}× faster than by one `.toarray()` a cell. To align, normalise and tokenise "
              f"{int(made['cells'].iloc[0]):,} simulated cells of 32,738 genes takes "
              + " and ".join(f"{row.seconds * row.cells:.0f} s and {row.bytes * row.cells / 2**30:.1f} GiB ({name.split(', ')[1]})"
                             for name, row in made.iterrows()) + "."]  # fmt: skip
    return "\n".join(lines) + "\n"


def duration(seconds):
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.2g} {unit}" if seconds < 99 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def block(text, marks=MARKS):
    return text.split(marks[0])[1].split(marks[1])[0]


def test_speed_is_that_of_the_committed_benchmark():
    """Every number of the table of speed is in figures/benchmark, or computed from it."""
    assert block(README.read_text(), SPEED_MARKS) == speed_table()


def test_results_are_those_of_the_committed_figures():
    """Every number of the results table is in figures/quick."""
    assert block(README.read_text()) == results_table()


def test_links_and_pictures_exist():
    """Every relative link of the Markdown files leads somewhere."""
    for page in (README, ROOT / "data" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_are_understood():
    """Every run_all.sh command of README is one that the program accepts, up to running it."""
    from lib.experiments import profiles
    from lib.programs import run_notebooks

    commands = re.findall(r"^(\./run_all\.sh.*?|bash tests/run\.sh.*?)(?:\s+#.*)?$", README.read_text(), re.M)
    assert len(commands) >= 4
    for command in commands:
        words = command.split()
        if words[0] != "./run_all.sh" or "ADDRESS" in command:
            continue
        options = dict(zip(words[1:], words[2:]))
        profiles.read(options.get("--profile", "quick"))
        books = run_notebooks.notebooks([options["--only"]] if "--only" in options else None)
        for name in [words[i + 1] for i, word in enumerate(words) if word == "-p"]:
            for book in books:
                run_notebooks.check_parameters(book, [name])


def test_layout_names_every_file_of_lib():
    """README's map of lib/ has each module, and none that is not there."""
    named = set(re.findall(r"^  (\w+(?:/|\.py))  ", README.read_text(), re.M))
    there = {path.name + "/" if path.is_dir() else path.name for path in (ROOT / "lib").iterdir()}
    assert named == there - {"__init__.py", "__pycache__/", "README.md"}


@pytest.mark.parametrize("name", ["requirements.txt", "environment.yml"])
def test_pins_stand_once(name):
    """Exact versions are in requirements.txt alone; environment.yml includes it."""
    text = (ROOT / name).read_text()
    if name == "environment.yml":
        assert "-r requirements.txt" in text and "==" not in text
    else:
        pins = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)
        assert "torch==2.13.0" in pins and len({line.split("==")[0].lower() for line in pins}) == len(pins)


def test_no_path_of_a_machine_is_committed():
    """No tracked text file names a home or working folder of the machine that made it."""
    found = subprocess.run(["git", "grep", "-nIE", r"(^|[^A-Za-z0-9_.])/(work|root|home)/", "--", ".", ":!figures/*.svg"],
                           cwd=ROOT, capture_output=True, text=True).stdout  # fmt: skip
    assert [line for line in found.splitlines() if "test_readme.py" not in line] == []


if __name__ == "__main__":
    for marks, table in ((MARKS, results_table), (SPEED_MARKS, speed_table)):
        before, rest = README.read_text().split(marks[0])
        README.write_text(before + marks[0] + table() + marks[1] + rest.split(marks[1])[1])
