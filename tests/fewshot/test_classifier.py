"""The classifier that users work with from Python: fit on a few pictures, ask about others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import UserError
from backbones.checkpoint import save_weights
from episodes.sources.folder import folder_set
from episodes.sources.loose import find_pictures
from fewshot import FewShotClassifier, create_encoder, create_head, load_classifier
from fewshot.card import design, read_card
from fewshot.encoder import EpisodeModel
from tests.tools import tiny

SMALL = {"width": 6, "pooled_stages": 2, "input_size": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Supports of three classes (2, 3 and 4 pictures) and queries of the same classes."""
    root = tmp_path_factory.mktemp("pictures")
    images = tiny.class_images(3, 9, size=20, noise=25)
    for number, (name, shots) in enumerate((("ant", 2), ("bee", 3), ("cat", 4))):
        for i, image in enumerate(images[number]):
            place = root / ("support" if i < shots else "query") / name / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
    return root


def small(method: str = "protonet", **options) -> FewShotClassifier:
    torch.manual_seed(0)
    encoder = create_encoder(method, "conv4", SMALL, map_size=(4, 4)).requires_grad_(False).eval()
    return FewShotClassifier(encoder, lambda k: create_head(method, k, encoder.out_dim), 16, **options)


@pytest.mark.parametrize("method", ["protonet", "meta_deepbdc", "simpleshot", "bd_cspn"])
def test_folders_in_names_out(folders, method):
    classifier = small(method).fit(folders / "support")
    assert classifier.class_names == ["ant", "bee", "cat"]
    truth = [path.parent.name for path in find_pictures([folders / "query"])]
    answers = classifier.predict(folders / "query")
    assert np.mean(np.array(answers) == np.array(truth)) > 0.8
    shares = classifier.predict_proba(folders / "query")
    assert shares.shape == (len(truth), 3)
    assert np.allclose(shares.sum(1), 1)
    assert [classifier.class_names[k] for k in shares.argmax(1)] == answers
    assert classifier.transductive == (method == "bd_cspn")


def test_every_way_to_give_pictures_is_the_same(folders):
    classifier = small(batch_size=4).fit(folders / "support")
    files = find_pictures([folders / "query"])
    expected = classifier.logits(files)
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).permute(0, 3, 1, 2)
    assert torch.equal(classifier.logits([str(file) for file in files]), expected)
    assert torch.equal(classifier.logits([Image.open(file) for file in files]), expected)
    assert torch.equal(classifier.logits(folders / "query"), expected)
    assert torch.allclose(classifier.logits(pixels), expected, atol=0.1 * float(expected.std()))  # another resize
    assert torch.allclose(classifier.logits(files[2]), expected[2:3], atol=1e-4)
    names = [file.parent.name for file in find_pictures([folders / "support"])]
    by_names = small(batch_size=4).fit(find_pictures([folders / "support"]), names)
    assert torch.equal(by_names.logits(files), expected)
    assert torch.equal(small(batch_size=4).fit(folder_set(folders / "support")).logits(files), expected)
    assert torch.equal(small(batch_size=4, workers=2).fit(folders / "support").logits(files), expected)


def test_batches_change_nothing(folders):
    one, many = (small("good_embed", batch_size=size).fit(folders / "support") for size in (1, 64))
    assert np.allclose(one.predict_proba(folders / "query"), many.predict_proba(folders / "query"), atol=1e-5)


def test_the_number_of_shots_builds_the_head(folders):
    seen = []

    def head(k_shot):
        seen.append(k_shot)
        return create_head("good_embed", k_shot)

    classifier = small()
    FewShotClassifier(classifier.encoder, head, 16).fit(folders / "support")
    assert seen == [3]  # nine pictures of three classes


def test_a_checkpoint_brings_its_method_head_and_size(tmp_path, folders):
    torch.manual_seed(0)
    plan, encoder = design("meta_baseline", "conv4", SMALL)
    head = create_head("meta_baseline", 1, temperature=3.0)
    save_weights(EpisodeModel(encoder, head), tmp_path / "w.safetensors", plan.card("meta", head={"temperature": 3.0}))
    classifier = load_classifier(tmp_path / "w.safetensors").fit(folders / "support")
    assert classifier.size == 16
    assert float(classifier.logits(folders / "query").abs().max()) <= 3.0 + 1e-4
    other = load_classifier(tmp_path / "w.safetensors", method="good_embed", C=5.0).fit(folders / "support")
    assert other.logits(folders / "query").shape == (18, 3)
    assert read_card(tmp_path / "w.safetensors")["mean"] == list(encoder.backbone.mean)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c, f: c.predict(f / "query"), "knows no classes yet"),
        (lambda c, f: c.fit(f / "none"), "does not exist"),
        (lambda c, f: c.fit(find_pictures([f / "support"])), "the classes of the support pictures are unknown"),
        (lambda c, f: c.fit(find_pictures([f / "support"]), ["a", "b"]), "9 support pictures and 2 class names"),
        (lambda c, f: c.fit(find_pictures([f / "support"]), ["a"] * 9), "one class \\('a'\\)"),
        (lambda c, f: c.fit(f / "support").predict([]), "there are no pictures"),
        (lambda c, f: c.fit(f / "support").predict(torch.rand(2, 3, 8, 8)), "must be uint8"),
        (lambda c, f: c.fit(f / "support").predict([3]), "must be a file or a PIL image, not int"),
        (lambda c, f: c.fit(f / "support").predict(f / "none.png"), "does not exist"),
    ],
)
def test_bad_input_is_one_sentence(folders, act, message):
    with pytest.raises(UserError, match=message):
        act(small(), folders)


def test_broken_weights_are_named(folders):
    classifier = small()
    torch.nn.init.constant_(next(classifier.encoder.parameters()), float("nan"))
    with pytest.raises(UserError, match="features of picture 0 are not finite"):
        classifier.fit(folders / "support")


def test_pictures_are_found_in_depth_once_and_in_order(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a/deep/x.png", "c.png", ".hidden/z.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.warns(UserWarning, match="1 files beside the pictures"):
        found = find_pictures([tmp_path, tmp_path / "c.png"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/deep/x.png", "b/1.JPG", "b/2.png", "c.png"]
    (tmp_path / "empty").mkdir()
    for place, message in (("empty", "holds no picture"), ("notes.txt", "no picture by its name"), ("no", "not exist")):
        with pytest.raises(UserError, match=message):
            find_pictures([tmp_path / place])
