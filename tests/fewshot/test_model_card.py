"""Model cards say what the files say, and their examples run."""

from __future__ import annotations

import re

import pytest

from fewshot.card import read_card
from fewshot.model_card import class_lines, export_card, table, training_card, validation_sentence
from tests.tools import tiny
from tools.meta_train import meta_train
from tools.pretrain import pretrain


def test_the_card_of_a_training_run(tmp_path, monkeypatch):
    train, val = (tiny.pack(tmp_path / f"{name}.npz", 6, seed=i) for i, name in enumerate(("train", "val")))
    metrics = pretrain(tiny.pretrain_options(tmp_path / "run", train, val, "protonet"))
    text = (tmp_path / "run" / "card.md").read_text()
    assert text.startswith("# ProtoNet, conv4\n")
    kept = metrics["kept"]
    said = f"{100 * kept['val_accuracy']:.2f} ± {100 * kept['val_interval']:.2f} %"
    for part in (said, "over 10 episodes, 5-way 1-shot with 3 queries", "6 classes: class00, class01", str(train),
                 "shorter side to 18 px", "minus mean (0.472, 0.453, 0.41)", "chose these weights"):  # fmt: skip
        assert part in text, part
    # the example in the card, where the file and the folders are
    tiny.folder(tmp_path / "run" / "supports", classes=3, items=2)
    tiny.folder(tmp_path / "run" / "pictures", classes=3, items=1)
    monkeypatch.chdir(tmp_path / "run")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "card.md", "exec"), names)
    assert len(names["names"]) == 3

    weights = tmp_path / "run" / "best.safetensors"
    meta_train(tiny.meta_options(tmp_path / "meta", str(weights), train))
    text = (tmp_path / "meta" / "card.md").read_text()
    assert "meta-trained on episodes" in text
    assert "There was no validation" in text
    assert "chose these weights" not in text
    assert str(weights) in text
    assert read_card(weights)["std"] == [0.277, 0.268, 0.285]


def test_sentences():
    sizes = {"episodes": 1000, "n_way": 5, "k_shot": 1, "n_query": 15}
    assert "is not known" in validation_sentence(None, sizes)
    assert "is not known" in validation_sentence({"loss": 1.0}, sizes)
    assert validation_sentence({"val_accuracy": 0.5, "val_interval": 0.01}, sizes).startswith("50.00 ± 1.00 %")
    assert class_lines([f"c{i}" for i in range(70)])[0].endswith("c59, and 10 more (in the file).")
    assert table({"a|b": None, "c": "x|y"}) == ["| | |", "|---|---|", "| c | x\\|y |"]


@pytest.mark.parametrize(("kind", "word"), [("onnx", "onnxruntime"), ("torch", "torch.export.load")])
def test_the_card_of_an_export(kind, word):
    card = {
        **{"method": "protonet", "backbone": "conv4", "size": 84, "what": "episode", "versions": {"torch": "2"}},
        "inputs": [{"name": "query", "dtype": "float32", "shape": ["queries", 3]}],
        "output": {"name": "logits", "shape": ["queries", 5]},
    }
    text = export_card(card, "ProtoNet", "x.bin", kind, {"2 random pictures": "deviation 1e-7"})
    assert word in text
    assert "| input `query` | float32 ['queries', 3] |" in text
    assert "shorter side to 92 px" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "card", "exec")


def test_a_card_needs_no_class_names():
    card = {"method": "protonet", "backbone": "conv4", "size": 84, "stage": "distill"}
    assert "self-distilled" in training_card(card, "ProtoNet", "w.safetensors", {}, "", {})
