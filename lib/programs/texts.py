"""Sentences and tables of our texts, made from published figures: README's, those of figures/ and of notebooks' first cells."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Callable, Mapping

import pandas as pd

from lib.evaluate import words
from lib.paper import findings, full_size
from lib.settings import ROOT

Tables = Mapping[str, pd.DataFrame]
Load = Callable[[str], Tables]  # from a profile to its published tables
# The profiles that carry findings, and what a sentence calls their cells.
CELLS = {"laptop": "sorted blood cells", "liver-laptop": "liver cells"}
FULL_SIZE = {"standard": "sorted blood cells at the paper's size"}  # notebook 08, and it alone
ROWS = (
    ("Logistic regression", "baseline", "logistic_regression", 1.0),
    ("scBERT", "baseline", "full", 1.0),
    ("scBERT, not pre-trained", "ablation", "no_pretraining", 1.0),
    ("scBERT, no gene embedding", "ablation", "no_gene2vec", 1.0),
    ("Logistic regression, 10 % of the labels", "few_shot", "logistic_regression", 0.1),
    ("scBERT, 10 % of the labels", "few_shot", "full", 0.1),
)
MASKED = (
    ("scBERT", "full", "masked_accuracy"),
    ("scBERT, no gene embedding", "no_gene2vec", "masked_accuracy"),
    ("saying the cell's most common bin", "no_gene2vec", "accuracy_of_most_common_bin"),
)
NEIGHBOURS = (("principal components", "pca"), ("scBERT", "full"), ("scBERT, not pre-trained", "no_pretraining"))
VERDICTS = (
    "In points, with 95 % intervals over cells, seeds and pre-trainings; *ahead*: above 0, and p, adjusted within its family, "
    "below 0.05; *equivalent*: within 2 points; else *undecided*."
)


def _told(load):
    """(profile, what its cells are called, finding) of all that is published.

    Of notebook 08 the full size has all, the others what they say of cells from elsewhere.
    """
    for profile, cells in (CELLS | FULL_SIZE).items():
        kept = full_size.TABLES if profile in FULL_SIZE else full_size.ELSEWHERE
        for found in findings.findings(load(profile)):
            if found.tables == kept or (found.notebook != "08" and profile not in FULL_SIZE):
                yield profile, cells, found


def finding(number: str) -> Callable[[Load], str]:
    """What makes the finding of a notebook's first cell: claim and caveat, for each set of cells that is published."""

    def make(load):
        told = [
            f"**What we find** in {cells} (`figures/{profile}`): {found.claim} {found.caveat}"
            for profile, cells, found in sorted(_told(load), key=lambda each: each[0] not in FULL_SIZE)
            if found.notebook == number
        ]
        return "\n\n".join(_wrapped(text) for text in told) + "\n"

    return make


def claims(load: Load) -> str:
    """README's findings: the paper's questions in rows, our data sets in columns, and what they come to in a sentence."""
    answers = {cells: findings.questions(load(profile)) for profile, cells in CELLS.items()}
    answers = {cells: rows for cells, rows in answers.items() if rows}
    asked = pd.DataFrame([row for rows in answers.values() for row in rows.values() if row["labels"]])
    least, verdicts = asked["fraction"].min(), asked.loc[asked["labels"] == "all", "verdict"]
    shown = dict.fromkeys(question for rows in answers.values() for question, row in rows.items() if _shown(row, least))
    same = asked.loc[asked["labels"] == "same", "verdict"]
    none = "" if "behind" in {*verdicts, *same} else " scBERT is shown to be ahead in none."
    said = (
        f"Of {len(verdicts)} comparisons of logistic regression with scBERT ({len(answers)} sets of cells, "
        f"{asked['fraction'].nunique()} shares of the labels, two scores) it is {_counted(verdicts)}. scBERT keeps a "
        f"fifth of its labels to end by: both learnt from the same four fifths, logistic regression is {_counted(same)}.{none} "
    )
    lines = [_wrapped(said + VERDICTS), "", *head("the first minus the second", *answers)]
    cells = {asked: [_points(rows[asked]) if asked in rows else "–" for rows in answers.values()] for asked in shown}
    for profile in FULL_SIZE:
        large = full_size.questions(load(profile))
        cells |= {asked: [_points(row), *["–"] * (len(answers) - 1)] for asked, row in large.items()}
    before = ""
    for asked in cells:  # what a row has in common with the one above is not said again
        of, _, rest = asked.partition(", ")
        lines.append(line(f"… {rest}" if of == before else asked, *cells[asked]))
        before = of
    lines += [f"\n{_wrapped(told)}" for profile in FULL_SIZE if (told := full_size.adverse(load(profile)))]
    return "\n".join(lines) + "\n"


def _counted(verdicts):
    """How many comparisons have which verdict; that none is *ahead* is said too."""
    return ", ".join(
        f"{word} in {sum(verdicts == word) or 'none'}" for word in words.SAID if word == "ahead" or word in set(verdicts)
    )


def _shown(row, least):
    """Whether README has the row of a question: of the shares of labels, all and the least."""
    return row["labels"] == "" or row["fraction"] == least or (row["labels"] == "all" and row["fraction"] == 1)


def _points(row):
    """A difference, its interval and the verdict, for a cell of README's table."""
    return words.points(row, "{:+.1f} ({:.1f} to {:.1f}): ").replace("-", "−") + row["verdict"]


def evidence(load: Load) -> str:
    """All findings with their evidence, caveats and files."""
    told = []
    for profile, cells, found in _told(load):
        sources = ", ".join(f"[{name}]({profile}/{name})" for name in found.tables)
        parts = [f"- **{found.notebook}, {cells}. {found.claim}**", found.evidence]
        parts += [f"*Caveats.* {found.caveat}"] * bool(found.caveat) + [f"From {sources}."]
        told.append(_wrapped(" ".join(part for part in parts if part), "  "))
    return "\n".join(told) + "\n"


def _wrapped(text, indent=""):
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def three(load: Load) -> str:
    """README's table: logistic regression, scBERT, and scBERT that was not pre-trained."""
    lines = head("accuracy", *(f"{labels}, {who}" for labels in ("all labels", "10 % of them") for who in ("paper", "ours")))
    card = _card(load("laptop"))
    for name, experiment, arm, _ in ROWS[:3]:
        cells = []
        for key in ((experiment, arm, 1.0), ("few_shot", arm, 0.1)):
            found = card.loc[(*key, "accuracy")] if (*key, "accuracy") in card.index else None
            cells += ["–" if found is None else words.show(found[who], found[f"half_width_{who}"]) for who in ("paper", "ours")]
        lines.append(line(name, *cells))
    return "\n".join(lines) + "\n"


def _card(tables):
    card = tables["05_scorecard.csv"].query("dataset == 'zheng68k'")
    return card.set_index(["experiment", "arm", "fraction", "metric"]).sort_index()


def results(load: Load) -> str:
    """The results in tables, from ``figures/laptop``: the scorecard, the differences, the rules, the neighbours."""
    tables = load("laptop")
    card = _card(tables)
    lines = head("", "accuracy, paper", "accuracy, ours", "macro-F1, paper", "macro-F1, ours")
    for name, *key in ROWS:
        found = [card.loc[(*key, metric)] for metric in ("accuracy", "macro_f1")]
        lines.append(line(name, *(words.show(r[who], r[f"half_width_{who}"]) for r in found for who in ("paper", "ours"))))
    lines += ["", *head("masked task: hidden genes told right", "paper", "ours")]
    for name, arm, metric in MASKED:
        found = card.loc[("masked", arm, 1.0, metric)]
        lines.append(line(name, f"{found['paper']:.3f}", words.show(found["ours"], found["half_width_ours"])))
    rule = tables["04_rules.csv"].set_index(["answer", "metric"]).loc[("additive", "accuracy")]
    lines.append(
        line("a rule that counts bins of the cell and of the gene, no transformer", "–", _interval(rule, "value", ".3f"))
    )
    lines += ["", *head("accuracy, difference to scBERT in points", "paper", "ours")]
    ours = tables["03_difference.csv"].set_index("arm")
    ours.loc["logistic_regression"] = tables["01_difference.csv"].iloc[0]
    for name, *key in (ROWS[0], ROWS[2], ROWS[3]):
        paper = card.loc[(*key, "accuracy")].rename(lambda column: column.removesuffix("_paper"))
        lines.append(
            line(name, _interval(100 * paper, "effect", "+.1f"), _interval(100 * ours.loc[key[1]], "difference", "+.1f"))
        )
    found = tables["04_zero_shot.csv"].query("metric == 'knn_accuracy'").set_index("arm")
    lines += ["", *head("cells whose nearest neighbours give the right type", "ours")]
    lines += [line(name, _interval(found.loc[arm], "value", ".2f")) for name, arm in NEIGHBOURS]
    return "\n".join(lines) + "\n"


def head(*names):
    return [line(*names), "|" + "---|" * len(names)]


def line(*cells):
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _interval(row, value, form):
    """An estimate with its interval in brackets: ``+4.5 (+3.2 to +5.8)``."""
    return f"{row[value]:{form}} ({row['low']:{form}} to {row['high']:{form}})"


def address() -> str:
    """Where this repository is published, as pyproject.toml says: there alone it is changed."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["repository"]


def badges(notebook: str) -> Callable[[Load], str]:
    """What makes the links that open a notebook on Binder and on Colab; neither needs anything installed."""
    repository = address().removeprefix("https://github.com/")
    places = (
        ("Binder", "https://mybinder.org/badge_logo.svg", f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/"),
        (
            "Colab",
            "https://colab.research.google.com/assets/colab-badge.svg",
            f"https://colab.research.google.com/github/{repository}/blob/main/",
        ),
    )
    return lambda load: "".join(f"[![Open in {name}]({picture})]({begin}{notebook})\n" for name, picture, begin in places)
