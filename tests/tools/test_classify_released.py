"""tools.classify on published files: layouts, the order of the triangles, steps, averages, and names of classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backbones import UserError, create_network
from backbones.pooled import vgg_classifier, with_classifier, with_pooling
from backbones.released import to_released
from moments import reorder_triangle
from tests.tools import tiny
from tests.tools.tiny_classify import eval_options, network, train_options
from tools.classify import evaluate, predict, train
from tools.classify_config import ClassifyPredict, Network
from tools.classify_session import design_of, load_start

ONE = Network("gcp_resnet18", options={"reduction": 8})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("pictures"), 3, 4)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A file as the released code writes it, of a network whose triangles' diagonal stands out as in trained ones."""
    torch.manual_seed(0)
    model = create_network("gcp_resnet18", 3, reduction=8)
    with torch.no_grad():
        diagonal = torch.zeros(36, dtype=torch.bool)
        diagonal[[sum(8 - row for row in range(place)) for place in range(8)]] = True
        model.classifier.weight[:, diagonal] *= 30
    path = tmp_path_factory.mktemp("published") / "checkpoint.pth.tar"
    state = {f"module.{key}": value for key, value in to_released(model.state_dict(), "mpncov").items()}
    torch.save({"epoch": 3, "arch": "resnet18", "state_dict": state, "best_acc1": 1.0}, path)
    return path


def test_a_published_file_is_tested(tmp_path, pictures, published, capsys):
    config = eval_options(tmp_path, published, str(pictures), network=ONE, data={"size": 32})
    with pytest.warns(UserWarning, match="does not name its classes"):
        metrics = evaluate(config)
    assert metrics["classes"] == 3 and "layout: MPN-COV ResNet" in capsys.readouterr().out
    four = tiny.folder(tmp_path / "four", 4, 2)
    with pytest.raises(UserError, match="tells 3 classes apart and .* has 4"):
        evaluate(eval_options(tmp_path / "b", published, str(four), network=ONE, data={"size": 32}))


def test_another_order_of_triangles_is_told_with_the_option(tmp_path, pictures, published):
    content = torch.load(published, weights_only=True)
    weight = content["state_dict"]["module.fc.weight"]
    content["state_dict"]["module.fc.weight"] = reorder_triangle(weight, "row", "column")
    torch.save(content, tmp_path / "old.pth")
    config = eval_options(tmp_path / "run", tmp_path / "old.pth", str(pictures), network=ONE, data={"size": 32})
    with pytest.raises(UserError, match="triangles in column order.*--network.order says what the file has"):
        evaluate(config)
    mended = replace(config, network=replace(ONE, order="column"))
    plain = eval_options(tmp_path / "plain", published, str(pictures), network=ONE, data={"size": 32})
    with pytest.warns(UserWarning, match="does not name its classes"):
        assert evaluate(mended)["loss"] == pytest.approx(evaluate(plain)["loss"], rel=1e-5)


def test_another_number_of_steps_is_told_with_the_option(tmp_path, pictures, published):
    options = {"reduction": 8, "iterations": 3}
    config = eval_options(
        tmp_path, published, str(pictures), network=Network("gcp_resnet18", options=options), data={"size": 32}
    )
    with pytest.raises(
        UserError, match="trained with 5 Newton-Schulz steps and the model takes 3.*--network.iterations"
    ):
        evaluate(config)
    weights = train(train_options(tmp_path / "three", str(pictures), network=network(pool_options={"iterations": 3})))
    start = replace(network(), weights=weights["weights"])
    with pytest.raises(UserError, match="trained with 3 Newton-Schulz steps and the model takes 5"):
        train(train_options(tmp_path / "five", str(pictures), network=start))


def test_a_published_file_is_fine_tuned_and_asked(tmp_path, pictures, published, capsys):
    other = tiny.folder(tmp_path / "other", 4, 2)
    start = replace(ONE, weights=str(published))
    optim = {"epochs": 1, "batch_size": 8, "classifier_factor": 5.0}
    metrics = train(train_options(tmp_path / "run", str(other), network=start, data={"size": 32}, optim=optim))
    assert "starting fresh: classifier" in capsys.readouterr().out and metrics["epochs"] == 1
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    config = ClassifyPredict(
        str(tmp_path / "asked"), str(published), [str(pictures)], size=32, top=1, heat=2, machine=tiny.CPU,
        class_names=str(tmp_path / "names.txt"), network=ONE,
    )  # fmt: skip
    said = {answer["class"] for one in predict(config)["answers"].values() for answer in one}
    assert said <= {"one", "two", "three"}
    (tmp_path / "names.txt").write_text("one\n")
    with pytest.raises(UserError, match="names 1 classes and the network tells 3 apart"):
        predict(replace(config, run=str(tmp_path / "again")))


def test_another_network_and_no_name(tmp_path, pictures, published):
    with pytest.raises(UserError, match="checkpoint of another architecture"):
        evaluate(eval_options(tmp_path, published, str(pictures), network=Network("gcp_resnet34"), data={"size": 32}))
    with pytest.raises(UserError, match="no checkpoint at"):
        evaluate(eval_options(tmp_path, tmp_path / "nowhere.pth", str(pictures)))


def test_three_layers_of_a_published_vgg_make_way_for_one(tmp_path, capsys):
    """Fine-tuning replaces them all by one linear layer; covariance pooling and its reduction come from the file."""
    source = with_pooling("torchvision:vgg11_bn", "isqrt", 5, last_stride=1, reduction=8, size=64)
    source = with_classifier(source, vgg_classifier(36, 5, width=16))
    state = {f"module.{key}": value for key, value in to_released(source.state_dict(), "mpncov_plain").items()}
    torch.save({"state_dict": state}, tmp_path / "vgg.pth")
    options = Network("torchvision:vgg11_bn", "isqrt", last_stride=1, reduction=8, weights=str(tmp_path / "vgg.pth"))
    target = design_of(options, 64).build(3)
    load_start(target, options, ["a", "b", "c"], print)
    assert "starting fresh: classifier" in capsys.readouterr().out
    assert_same(source.backbone.state_dict(), target.backbone.state_dict())
    assert_same(source.pool.state_dict(), target.pool.state_dict())


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
