"""The texts and the start of the small BERT that `python -m benchmarks.small_bert` pre-trains."""

import json

from benchmarks import small_bert
from jaxbert import BertForMaskedLM
from jaxbert.data import load_tokenizer
from jaxbert.data.demo import Demo


def test_no_text_of_another_set_is_trained_with(tmp_path, monkeypatch):
    films = {name: tmp_path / f"{name}.csv" for name in ("train", "dev", "test")}
    films["train"].write_text('id,text,label\n1,A good  film .,1\n2,"It\'s dull.",0\n3,mine,1\n')
    films["dev"].write_text("id,text,label\n4,its dull .,0\n")
    films["test"].write_text("id,text,label\n5,theirs,1\n")
    demo = Demo(tmp_path, **films, out_of_domain={})
    monkeypatch.setattr("jaxbert.data.load_demo", lambda: demo)
    question = {"question": "Who ?", "id": "a", "answers": [{"text": "it", "answer_start": 0}]}
    paragraph = {"context": "It is. So there", "qas": [question]}
    lines = {
        "sst2.train.tsv": "mine\t1\nwide\t0\n", "sst2.test.tsv": "Wide !\t0\n",
        "cola.train.tsv": "they go\t1\n", "cola.dev.tsv": "A good film\t1\n",
        "stsb.train.csv": "one,two,3.0\n", "stsb.dev.csv": "three,one,0\n",
        "wnut17.train.conll": "a\tO\nLondon\tB-loc\n\n", "wnut17.dev.conll": "x\tO\n",
        "xquad.train.json": json.dumps({"data": [{"paragraphs": [paragraph]}]}),
    }  # fmt: skip
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
    kept = small_bert.kept(small_bert.texts(tmp_path), small_bert.texts(tmp_path, training=False))
    assert kept == ["It is", "So there", "Who ?", "a London", "mine", "they go", "two"]


def test_it_starts_from_nothing_with_a_vocabulary_of_its_texts(tmp_path):
    small_bert.make_start(["a good film", "a dull film"] * 2, tmp_path / "start")
    model, tokenizer = (
        load(tmp_path / "start") for load in (BertForMaskedLM.from_pretrained, load_tokenizer)
    )
    assert model.config.vocab_size == len(tokenizer) < small_bert.VOCABULARY
    assert model.config.num_hidden_layers == small_bert.SHAPE["num_hidden_layers"]
    assert tokenizer.unk_token_id not in tokenizer("A dull FILM")["input_ids"]
