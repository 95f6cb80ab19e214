"""Video models from files: whatever layout, what is in the file is in the model, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from backbones import UserError, create_backbone, save_weights
from backbones.checkpoint import read_checkpoint
from fewshot.methods import METHODS
from tests.tools import tiny_video
from tools.video.methods import create_video_head, find_video_method, list_video_methods
from tools.video.models import design_video, read_video_model, source_key
from tools.video.peek import is_video_file
from tools.video_groups import VideoModel
from video.tamt_layout import save_tuned


def read(path, model=None, **options):
    model = model or VideoModel(backbone_options=dict(tiny_video.NETWORK))
    return read_video_model(path, model, say=lambda text: None, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def source(root):
    return tiny_video.source(root / "source.safetensors", names=["run", "jump"])


@pytest.mark.parametrize("name", list_video_methods())
def test_every_method_scores_clips(name):
    torch.manual_seed(0)
    _, encoder = design_video(tiny_video.model(name), tiny_video.SIZE, tiny_video.FRAMES)
    features = encoder.eval().requires_grad_(False)(tiny_video.clips(6))
    quick = {"steps": 3} if name == "tim" else {}
    head = create_video_head(name, 1, encoder.out_dim, **quick).requires_grad_(False).eval()
    logits = head(features[None, :3], torch.tensor([[2, 0, 1]]), features[None, 3:], n_way=3)
    assert logits.shape == (1, 3, 3) and torch.isfinite(logits).all()
    assert find_video_method(name).title


def test_methods_are_those_of_images_and_more():
    assert set(list_video_methods()) - set(METHODS) == {"tamt", "otam", "trx"}
    assert not any(METHODS[name].adapts for name in list_video_methods() if name in METHODS)
    with pytest.raises(UserError, match="adapts the whole network.*pictures alone"):
        find_video_method("maml")
    with pytest.raises(UserError, match="'tamd' is unknown; did you mean .*'tamt'"):
        find_video_method("tamd")
    with pytest.raises(UserError, match="head of 'tamt' does not take these options"):
        create_video_head("tamt", 1, 24, exact_trace=True)
    with pytest.raises(UserError, match="TAMT adapts the blocks of a video transformer"):
        design_video(VideoModel("tamt", "frames:conv4"), 16, 4)


def test_tamt_scores_distances_and_as_released_products_at_one_shot():
    query, support, labels = torch.randn(1, 4, 24), torch.randn(1, 3, 24), torch.arange(3)[None]
    product, distance = query @ support.mT, -torch.cdist(query, support).square()
    for shots in (1, 5):
        torch.testing.assert_close(create_video_head("tamt", shots, 24)(support, labels, query), distance)
    released = create_video_head("tamt", 1, 24, similarity="auto")
    torch.testing.assert_close(released(support, labels, query), product)
    again, twice = support.repeat(1, 2, 1), labels.repeat(1, 2)
    torch.testing.assert_close(released(again, twice, query), distance)


@pytest.mark.parametrize("stage", ["ssl", "supervised"])
@pytest.mark.parametrize("method", ["tamt", "protonet", "otam", "stl_deepbdc"])
def test_source_weights_are_in_the_network_of_every_method(root, stage, method):
    path = tiny_video.source(root / f"{stage}.safetensors", stage, seed=3)
    loaded = read(path, method=method)
    state, network = load_file(path), loaded.encoder.backbone
    network = getattr(network, "vit", network)
    prefix = "encoder." if stage == "ssl" else "backbone."
    own = network.state_dict()
    assert own and all(torch.equal(value, state[prefix + key]) for key, value in own.items())
    norms = {key: value for key, value in loaded.encoder.state_dict().items() if "fc_norm." in key}
    if stage == "supervised" and method in ("tamt", "protonet"):
        assert all(torch.equal(value, state[f"fc_norm.{key.rpartition('.')[2]}"]) for key, value in norms.items())
        assert norms
    assert loaded.source == str(path) and loaded.state == {}
    assert (loaded.architecture.size, loaded.architecture.frames) == (tiny_video.SIZE, tiny_video.FRAMES)


def test_options_win_over_the_card_of_source_weights(source):
    loaded = read(
        source, VideoModel("tamt", backbone_options={"drop_path": 0.1}), size=32, frames=16, sampling="window"
    )
    plan = loaded.architecture
    assert (plan.size, plan.frames, plan.sampling, plan.step) == (32, 16, "window", 2)
    assert plan.backbone_options == {**tiny_video.NETWORK, "drop_path": 0.1}
    assert loaded.seen == ["run", "jump"]


@pytest.mark.parametrize(
    ("method", "tune"), [("tamt", "adapters"), ("tamt", "all"), ("protonet", "head"), ("trx", "all")]
)
def test_a_tuned_file_gives_the_model_that_was_written(root, source, method, tune):
    path = root / f"{method}-{tune}.safetensors"
    model = tiny_video.tuned(path, source, method, tune, class_names=["swim"])
    loaded = read(path)
    clips = tiny_video.clips()
    assert loaded.architecture.method == method
    assert torch.equal(loaded.encoder.eval()(clips), model.features(clips))
    head = loaded.load_head(create_video_head(method, 1, loaded.out_dim))
    assert all(torch.equal(value, model.head.state_dict()[key]) for key, value in head.state_dict().items())
    assert not torch.equal(read(source, method=method).encoder.eval()(clips), model.features(clips))
    if tune != "all":
        assert loaded.seen == ["swim", "run", "jump"] and loaded.source == str(source)
        assert path.stat().st_size < source.stat().st_size * (1.5 if method == "tamt" else 0.5)


def test_methods_on_averages_take_the_vectors_of_tamt(root, source):
    path = root / "vectors.safetensors"
    model = tiny_video.tuned(path, source)
    loaded = read(path, method="good_embed")
    assert loaded.architecture.method == "good_embed" and loaded.architecture.pooling == "tamt"
    assert torch.equal(loaded.encoder.eval()(tiny_video.clips()), model.features(tiny_video.clips()))
    with pytest.raises(UserError, match="was tuned for tamt, whose representations otam can't use"):
        read(path, method="otam")


def test_what_a_card_says_otherwise_is_refused_instead_of_ignored(root, source):
    tuned = root / "said.safetensors"
    tiny_video.tuned(tuned, source)
    for path in (source, tuned):
        with pytest.raises(UserError, match=r"is of video_vit_small, not of video_vit_base: leave the backbone out"):
            read(path, VideoModel("tamt", "video_vit_base"))
        with pytest.raises(UserError, match=r"is of video_vit_small, not of frames:conv4"):
            read(path, VideoModel("protonet", "frames:conv4"))
        read(path, VideoModel())
    assert read(source, tiny_video.model(options={"adapt": 1})).architecture.options == {"adapt": 1}
    with pytest.raises(UserError, match=r"options of its own, and adapt is 1 here where it has 2: leave the options"):
        read(tuned, VideoModel(options={"adapt": 1}))
    with pytest.raises(UserError, match=r"backbone_options of its own, and dim is 36 here where it has 24: leave"):
        read(tuned, VideoModel(backbone_options={"dim": 36}))
    with pytest.raises(UserError, match=r"and layer_scale is 0.1 here where it has None"):
        read(tuned, VideoModel(backbone_options={"layer_scale": 0.1}))
    with pytest.raises(UserError, match=r"and depht is 3 here where it has none"):
        read(tuned, VideoModel(backbone_options={"depht": 3}))
    same = {"dim": 24, "tubelet_size": 2, "mlp_ratio": 4.0, "frames": tiny_video.FRAMES}  # some by their defaults
    assert read(tuned, VideoModel("tamt", "video_vit_small", same, {"adapt": 2})).architecture.method == "tamt"
    prototypes = root / "prototypes.safetensors"
    tiny_video.tuned(prototypes, source, "protonet", "head")
    assert read(prototypes).architecture.method == "protonet"
    with pytest.raises(UserError, match="was tuned for protonet, whose representations tamt can't use"):
        read(prototypes, VideoModel("tamt"))
    for tune in ("adapters", "all"):
        tiny_video.tuned(tuned, source, tune=tune)
        with pytest.raises(UserError, match=r"was tuned on clips of 8 frames, .*: leave out frames, which is 16"):
            read(tuned, frames=16)
        assert read(tuned, frames=8).architecture.frames == read(tuned).architecture.frames == 8


def test_clips_with_too_few_frames_for_the_tuples_of_trx(source):
    loaded = read(source, method="trx", frames=4)  # two steps in time
    with pytest.raises(UserError, match=r"TRX needs 3 frames, and the network makes 2 of the 4 of a clip"):
        loaded.head(1)
    pairs = create_video_head("trx", 1, loaded.out_dim, cardinalities=[2], key_dim=4, value_dim=4)
    assert loaded.load_head(pairs, training=True) is pairs and pairs.least_frames == 2
    framewise = read(None, VideoModel("trx", "frames:conv4", {"width": 8, "input_size": 16}), frames=2)
    with pytest.raises(UserError, match=r"the network makes 2 of the 2 of a clip"):
        framewise.head(1)


def test_adapters_find_their_network(root, source, tmp_path):
    moved = tmp_path / "together"
    moved.mkdir()
    copy = tiny_video.source(moved / "net.safetensors")  # the same seed, the same weights
    tiny_video.tuned(moved / "tuned.safetensors", copy)
    expected = read(moved / "tuned.safetensors").encoder.eval()(tiny_video.clips())
    elsewhere = tmp_path / "elsewhere"
    moved.rename(elsewhere)
    assert torch.equal(read(elsewhere / "tuned.safetensors").encoder.eval()(tiny_video.clips()), expected)
    (elsewhere / "net.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"net.safetensors is not there: give its path with --source"):
        read(elsewhere / "tuned.safetensors")
    found = read(elsewhere / "tuned.safetensors", source=str(tmp_path / "other.safetensors"))
    assert torch.equal(found.encoder.eval()(tiny_video.clips()), expected)
    other = tiny_video.source(tmp_path / "wrong.safetensors", seed=9)
    with pytest.raises(UserError, match="was tuned around another network than .*wrong.safetensors"):
        read(elsewhere / "tuned.safetensors", source=str(other))


def test_the_key_of_a_source_is_of_the_network_alone(source):
    keys = {source_key(read(source, method=method).encoder) for method in ("tamt", "protonet", "otam")}
    assert len(keys) == 1
    assert source_key(read(None).encoder) not in keys


def test_released_files_of_tamt(root, tmp_path):
    _, encoder = design_video(tiny_video.model(), tiny_video.SIZE, tiny_video.FRAMES)
    tiny_video.jiggle(encoder, 4)
    path = tmp_path / "best_model.tar"
    save_tuned(encoder, path)
    model = VideoModel(backbone_options=dict(tiny_video.NETWORK))
    loaded = read(path, model, size=tiny_video.SIZE, frames=tiny_video.FRAMES)
    assert loaded.architecture.method == "tamt" and loaded.fresh == ""
    assert torch.equal(loaded.encoder.eval()(tiny_video.clips()), encoder.eval()(tiny_video.clips()))
    assert read(path, model, frames=tiny_video.FRAMES, method="simpleshot").architecture.pooling == "tamt"
    with pytest.raises(UserError, match="video transformer .TAMT, tuned model. and not resnet12: name its backbone"):
        read(path, VideoModel(backbone="resnet12"))
    with pytest.raises(UserError, match=r"width 24, 3 blocks.*, and the network has width 36: give .*{dim: 24"):
        read(path, VideoModel(backbone_options={**tiny_video.NETWORK, "dim": 36}), frames=tiny_video.FRAMES)
    with pytest.raises(UserError, match="tuned model of another architecture"):
        read(path, tiny_video.model(options={"adapt": 1}), frames=tiny_video.FRAMES)


def test_an_image_network_on_every_frame(tmp_path):
    torch.manual_seed(0)
    network = create_backbone("conv4", width=8, pooled_stages=2, input_size=16)
    path = tmp_path / "conv4.safetensors"
    save_weights(network, path, {"method": "protonet", "backbone": "conv4"})
    options = {"width": 8, "pooled_stages": 2, "input_size": 16}
    loaded = read(path, VideoModel("protonet", "frames:conv4", options, {"norm": False}), frames=4)
    clips = torch.randn(2, 3, 4, 16, 16)
    expected = network.eval()(clips.transpose(1, 2).flatten(0, 1)).mean((2, 3)).unflatten(0, (2, 4)).mean(1)
    torch.testing.assert_close(loaded.encoder.eval()(clips), expected)
    with pytest.raises(UserError, match="is a checkpoint of pictures .conv4.*--model.backbone frames:conv4"):
        read(path)
    assert not is_video_file(path)


def test_files_that_fit_nowhere(tmp_path, source):
    other = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(3)}, other)
    with pytest.raises(UserError, match="no weights of a video transformer"):
        read(other)
    with pytest.raises(UserError, match="no checkpoint at"):
        read(tmp_path / "absent.safetensors")
    other.write_bytes(source.read_bytes()[:300])
    with pytest.raises(UserError, match="no readable checkpoint"):
        read(other)
    with pytest.raises(UserError, match="source.safetensors is no adapter file"):
        read(source, source=str(source))
    with pytest.raises(UserError, match=r"width 24, .*, and the network has width 36: give --model.backbone_options"):
        read(source, VideoModel(backbone_options={"dim": 36}))
    with pytest.raises(UserError, match="clips of 8 frames of 20 pixels"):
        read(source, size=20)
    with pytest.raises(UserError, match="TAMT can't be built|TAMT does not take"):
        read(source, tiny_video.model(options={"adapter": {"nothing": 1}}))
    with pytest.raises(UserError, match="what pools the clips"):
        read(source, tiny_video.model("protonet", options={"reduce_dim": 3}))


def test_video_files_are_told_from_pictures(tmp_path, source):
    assert is_video_file(source)
    state, _ = read_checkpoint(source)
    foreign = {key.removeprefix("backbone."): value for key, value in state.items()}
    torch.save({"module": foreign}, tmp_path / "videomae.pth")
    assert is_video_file(tmp_path / "videomae.pth")
    foreign["patch_embed.proj.weight"] = torch.zeros(24, 3, 8, 8)  # a transformer of pictures has the same names
    torch.save(foreign, tmp_path / "vit.pth")
    assert not is_video_file(tmp_path / "vit.pth")
