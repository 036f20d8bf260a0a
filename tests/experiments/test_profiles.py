"""Profiles: what a rung of the ladder says, what a data set or a file changes in it, and what is refused."""

import pytest

from lib.datasets import catalogue, matrices, reading
from lib.datasets.scale import tell
from lib.errors import DataError
from lib.experiments import profiles, yours
from lib.prepare import cells, embeddings, preprocess, selection


def test_unknown_names_are_refused(profile):
    """Profiles and overrides that do not exist are named, with those that do."""
    with pytest.raises(DataError, match="Profiles: .*quick"):
        profiles.load("nonsense")
    with pytest.raises(DataError, match="no entry 'colour'.*seeds"):
        profiles.load("smoke", colour=1)


def test_macparland_in_the_paper_profile_has_its_own_search(place, monkeypatch):
    monkeypatch.setattr(selection, "prepared", lambda *_: None)
    for name in ("store", "store_depths"):
        monkeypatch.setattr(cells, name, lambda _: "0")
    monkeypatch.setattr(embeddings, "gene2vec_path", lambda: place[0] / "g2v")
    (place[0] / "g2v").write_text("")
    paper = profiles.load("paper")
    assert paper["logistic_regression"] == {"C": 0.1} and paper["pretraining"]["corpus"] == "panglao"
    liver = profiles.load("paper", dataset="macparland")
    assert liver["logistic_regression"]["C"] == [1, 10, 100, 1000, 10000] and liver["reproduces"] == "macparland"


def test_a_readers_file_is_named_by_its_content(profile, tmp_path):
    """A checkpoint or corpus by its path: what a specification holds is its hash, and its place aside."""
    for key in ("checkpoint", "corpus"):
        content, path = profiles.read("smoke"), tmp_path / key
        content["pretraining"][key] = str(path)
        with pytest.raises(DataError, match=f"no {key} at .*{key}"):
            profiles.load(content)
        path.write_bytes(b"abc")  # of the standard's examples
        named = profiles.load(content)["pretraining"][key]
        assert named["sha256"].startswith("ba7816bf8f01cfea") and named["_path"] == str(path)


def test_a_corpus_of_several_files_is_named_by_what_is_in_them(profile, tmp_path):
    """A folder or a list: the hash is the same under other names and in another order, and another where a file is added."""
    (tmp_path / "files").mkdir()
    first, second = (tmp_path / "files" / f"{name}.h5ad" for name in "ab")
    first.write_bytes(b"first")
    second.write_bytes(b"second")

    def named(given):
        content = profiles.read("smoke")
        content["pretraining"]["corpus"] = given
        return profiles.load(content)["pretraining"]["corpus"]

    folder = named(str(tmp_path / "files"))
    assert folder["_path"] == [str(first), str(second)] and named([str(second), str(first)])["sha256"] == folder["sha256"]
    assert named(str(first))["_path"] == str(first) and named([str(first)])["sha256"] == named(str(first))["sha256"]
    third = first.rename(tmp_path / "files" / "c.h5ad")
    assert named(str(tmp_path / "files"))["sha256"] == folder["sha256"]
    first.write_bytes(third.read_bytes() + b"more")
    assert named(str(tmp_path / "files"))["sha256"] != folder["sha256"]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: profiles.load("smoke", gene_embedding="word2vec"), "auto, gene2vec, coexpression"),
        (lambda: profiles.load("smoke", gene_embedding="gene2vec"), "data/README.md"),
        (lambda: profiles.load("smoke", vocabulary="nowhere.txt"), "one gene symbol a line"),
        (lambda: profiles.load("smoke", protocol="cleann"), "one of paper, clean"),
    ],
    ids=["embedding", "no gene2vec file", "no vocabulary", "protocol"],
)
def test_bad_calls_are_refused(call, words, monkeypatch, tmp_path):
    """An entry that names nothing is refused, with what there is."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=words):
        call()


def test_a_file_is_read_once(tmp_path, monkeypatch, raw):
    """Sizing the runs and preparing the cells take one reading of the file and one look for its scale."""
    path, scales = tmp_path / "mine.h5ad", []
    raw[::2].write_h5ad(path)

    def read_and_remove(path, *labels, read=reading.read):
        found = read(path, *labels)
        path.unlink()
        return found

    def noted(*given, recognise=tell):
        scales.append(recognise(*given))
        return scales[-1]

    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    monkeypatch.setattr(reading, "read", read_and_remove)
    monkeypatch.setattr(matrices, "tell", noted)
    for module in (catalogue, preprocess):
        monkeypatch.setattr(module, "value_scale", lambda *_: pytest.fail("the scale was looked for again"))
    chosen = yours.load("smoke", path, minutes=1)
    assert not path.exists() and chosen["adata"].n_obs > 50
    assert [scale.name for scale in scales] == ["counts"] == [chosen["adata"].uns["alignment"]["values"]]


def test_the_other_protocol_takes_its_own_fine_tuning_along():
    """Asked for by name, it changes places with the profile's own; both sides stay to be compared."""
    content = profiles.read("smoke") | {"protocol": "clean"}
    other = {"protocol": "paper", "seeds": [1], "finetuning": {"epochs": 3}}
    content |= {"finetuning": {"epochs": 2}, "other_protocol": other}
    assert profiles.load(content)["finetuning"] == {"epochs": 2}
    turned = profiles.load(content, protocol="paper")
    assert turned["finetuning"] == {"epochs": 3} and turned["protocol"] == "paper"
    assert turned["other_protocol"] == {"protocol": "clean", "seeds": [1], "finetuning": {"epochs": 2}}
