"""What a profile's file and a notebook's parameters may say: names and types, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from lib.errors import DataError
from lib.scbert.rules import Plateau

Count, Positive = Annotated[int, Field(ge=1)], Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds, Shares = Annotated[list[Seed], Field(min_length=1)], Annotated[list[Share], Field(min_length=1)]
Protocol = Literal["paper", "clean"]


class Strict(BaseModel):
    """Unknown names and other types than these are refused; a whole number may stand for one with a fraction."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Data(Strict):
    dataset: str
    label: str | None = None
    vocabulary: str | None
    min_genes: Annotated[int, Field(ge=0)]
    library_size: str | None = None
    max_cells_per_type: Count | None = None
    min_cells_per_type: Count | None = None
    max_cells: Count | None = None
    variable_genes: Count | None = None


class Split(Strict):
    test_size: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class Size(Strict):
    dim: Count
    depth: Count
    heads: Count
    dim_head: Count
    features: Count
    ff_mult: Count = 4
    redraw_interval: Count = 1000
    stabiliser: Literal["cell", "head", "batch"] = "cell"


# Its rule's own arguments (lib.scbert.rules.Plateau), with their types; the rate may stand beside it.
Ends = create_model("Ends", __base__=Strict, **{name: (kind, None) for name, kind in Plateau.__annotations__.items()})


class Schedule(Strict):
    max_lr: Positive
    min_lr: Positive
    warmup: Annotated[int, Field(ge=0)]
    cycle: Count


class Pretraining(Strict):
    seeds: Seeds
    batch_size: Count
    max_lr: Positive
    epochs: Count | None = None
    ends: Ends | None = None
    corpus: str | Corpus | None = None
    checkpoint: str | None = None


class Finetuning(Strict):
    batch_size: Count
    epochs: Count | None = None
    ends: Ends | None = None
    schedule: Schedule | None = None
    weighted: bool = True


class LogisticRegression(Strict):
    C: Positive | list[Positive]
    folds: Annotated[int, Field(ge=2)] | None = None


class OtherProtocol(Strict):
    protocol: Protocol
    seeds: Seeds | None = None
    finetuning: Finetuning | None = None


class Tuning(Strict):
    seeds: Seeds | None = None
    full: dict[str, list] = {}
    logistic_regression: dict[str, list] = {}


class Controls(Strict):
    seeds: Seeds | None = None
    logistic_regression: LogisticRegression | None = None


class Repeated(Strict):
    splits: Count | None = None
    logistic_regression: LogisticRegression | None = None
    scbert: str | None = None
    scbert_splits: Annotated[int, Field(ge=0)] | None = None


class Factorial(Strict):
    fraction: Share = 1.0
    seeds: Seeds | None = None
    without: list[str] = []


class Effect(Strict):
    fractions: Shares | None = None
    seeds: Seeds | None = None


class FewLabels(Strict):
    fraction: Share = 0.1
    seeds: Seeds | None = None
    slow: dict[str, Seeds] = {}


class Corpus(Strict):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of its files (lib.prepare.corpus.content), wherever they lie


class Probe(Strict):
    name: str
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]  # of the prepared cells (lib.prepare.cells.store)


class Profile(Strict):
    """A file of lib/experiments/ladder."""

    data: Data
    split: Split
    reproduces: str | None
    protocol: Protocol
    seeds: Seeds
    fractions: Shares
    few_shot_seeds: Seeds
    gene_embedding: Literal["auto", "gene2vec", "coexpression", "random"]
    size: Size
    pretraining: Pretraining
    finetuning: Finetuning
    logistic_regression: LogisticRegression
    other_protocol: OtherProtocol
    few_labels: FewLabels | None = None
    corpora: dict[str, Corpus] = {}
    tuning: Tuning | None = None
    controls: Controls | None = None
    repeated: Repeated | None = None
    factorial: Factorial | None = None
    pretraining_effect: Effect | None = None
    crossed: bool = True
    unknown: dict[str, Annotated[int, Field(ge=0)]] | None = None
    external: str | None = None
    probe: Probe | None = None
    for_dataset: dict[str, dict[str, Any]] = {}


class Parameters(Strict):
    """The parameters of all notebooks; a notebook has some of them, and None stands for the profile's."""

    profile: str = "quick"
    dataset: str | None = None
    seeds: Seeds | None = None
    protocol: Protocol | None = None
    fractions: Shares | None = None
    external: str | None = None
    data: str | None = None
    label: str | None = None
    labels: str | None = None
    group: str | None = None
    minutes: Positive = 5
    min_genes: Annotated[int, Field(ge=0)] | None = None
    min_cells_per_type: Count | None = None


KINDS = ("float", "constrained-float", "list[constrained-float]")  # which of two allowed kinds a fault was found in

# How each kind of fault is said; what is not among them is said by pydantic.
FAULTS = {
    "extra_forbidden": "there is no such entry",
    "missing": "is missing",
    "float_type": "is no number. Give one, such as 5",
    "int_type": "is no whole number. Give one, such as 5",
    "string_type": "is no text",
    "list_type": "is no list, as in [0, 1]",
    "bool_type": "is neither true nor false",
    "dict_type": "has no entries of its own",
    "model_type": "has no entries of its own",
}


def check(model: type[Strict], values: Mapping, where: str) -> None:
    """Refuse values of other names or types than a model has.

    Raises
    ------
    DataError
        All that is wrong, each with its place, such as ``profile quick, finetuning.max_lr``, and what to do.
    """
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        said = {}
        for fault in error.errors():
            place = ".".join(str(part) for part in fault["loc"] if str(part) not in KINDS)
            said.setdefault(place, _told(fault, model))
        raise DataError(f"{where}: {'; '.join(f'{place} {words}' for place, words in said.items())}.") from error


def _told(fault, model):
    """A fault in words, with the value and the remedy."""
    kind, given = fault["type"], fault["input"]
    words = FAULTS.get(kind) or fault["msg"][:1].lower() + fault["msg"][1:]
    if kind == "missing":
        return words
    if kind == "extra_forbidden":
        names = _names(model, fault["loc"][:-1])
        return f"– {words}. Entries there: {', '.join(names)}" if names else f"– {words}"
    shown = f"is {given!r}: {words.removeprefix('is ')}"
    if kind in ("float_type", "int_type") and isinstance(given, str) and _number(given):
        return f"is the text {given!r}, no number: write {_number(given)}, as YAML has numbers"
    return shown


def _names(model, place):
    """The entries that a model has at a place."""
    for part in place:
        kinds = [model.model_fields[part].annotation] if part in model.model_fields else []
        kinds += [each for kind in kinds for each in getattr(kind, "__args__", ())]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _number(text):
    """How YAML would have a number that was written otherwise, or nothing."""
    try:
        value = float(text)
    except ValueError:
        return ""
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+") if "e" in text.lower() else f"{value:g}"
