"""So-ViT and SoT: token embeddings, positions, heads on their tokens and on those of other networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from backbones import UserError, create_backbone
from backbones.so_vit import SoViT, position_table
from backbones.token_embedding import KINDS, NonLocal, TokenEmbedding
from backbones.token_heads import SoTHead, SoViTHead, TokenClassifier


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [112, 224])
def test_fourteen_rows_of_tokens(kind, size):
    embed = TokenEmbedding(4, kind, size, stem_channels=2).eval()
    rows = 28 if (kind, size) == ("nonlocal", 224) else 14  # its stride is 8 always
    with torch.no_grad():
        assert embed(torch.zeros(1, 3, size, size)).shape == (1, 4, rows, rows)
    assert size // embed.stride == rows


@pytest.mark.parametrize(("kind", "rows"), [("densenet", 56), ("inception", 112)])
def test_large_outputs(kind, rows):
    embed = TokenEmbedding(4, kind, 224, stem_channels=2, large_output=True).eval()
    with torch.no_grad():
        assert embed(torch.zeros(1, 3, 224, 224)).shape[2:] == (rows, rows) and 224 // embed.stride == rows
    with pytest.raises(ValueError, match="no large output"):
        TokenEmbedding(4, "resnet", large_output=True)


def test_tiny_images():
    for kind in KINDS:
        embed = TokenEmbedding(4, kind, 112, stem_channels=2).eval()
        if kind == "densenet":
            with pytest.raises(UserError, match="7x9 px are smaller than the stride 8"):
                embed(torch.zeros(1, 3, 7, 9))
        else:
            assert embed(torch.zeros(1, 3, 1, 1)).shape == (1, 4, 1, 1)


def test_dense_layers_have_no_norm_and_others_have_theirs():
    names = TokenEmbedding(4, "densenet").state_dict()
    assert not any("denselayer1.norm" in name for name in names)
    resnet = TokenEmbedding(4, "resnet")
    norms = [(n.eps, n.momentum) for n in (resnet.stage[0].bn1, resnet.stage[0].downsample[1])]
    assert norms == [(1e-3, 0.01), (1e-5, 0.1)]
    assert TokenEmbedding(4, "resnet", 112).stage[2].downsample is None


@pytest.mark.parametrize("training", [True, False])
def test_non_local_derivatives_hold_for_one_image(training):
    torch.manual_seed(0)
    block = NonLocal(3, 4, inner=2).double().train(training)
    nn.init.normal_(block.W.weight)
    x = torch.randn(1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)


def test_position_table_against_a_loop():
    table = position_table(5, 6)[0]
    for p in range(5):
        for j in range(6):
            phase = p / 10000 ** (2 * (j // 2) / 6)
            assert table[p, j] == pytest.approx(math.cos(phase) if j % 2 else math.sin(phase), abs=1e-6)


def small(**options) -> SoViT:
    return SoViT(**{"dim": 8, "depth": 2, "heads": 2, "stem_channels": 4, "input_size": 112, **options})


def test_map_and_tokens_are_the_same_numbers():
    network, image = small().eval(), torch.randn(1, 3, 112, 112)
    tokens, grid = network.token_sequence(image), network(image)
    assert tokens.shape == (1, 197, 8) and grid.shape == (1, 8, 14, 14)
    torch.testing.assert_close(grid[0, :, 2, 3], tokens[0, 1 + 2 * 14 + 3])
    torch.testing.assert_close(tokens.mean(2), torch.zeros(1, 197), atol=1e-5, rtol=0)  # normed


def test_positions_are_resampled_for_other_sizes_only():
    network = small()
    assert network.positions(14, 14) is network.pos_embed
    wide = network.positions(7, 21)
    assert wide.shape == (1, 148, 8)
    torch.testing.assert_close(wide[:, 0], network.pos_embed[:, 0])
    assert network.eval()(torch.zeros(1, 3, 56, 168)).shape == (1, 8, 7, 21)
    assert "pos_embed" in network.state_dict() and "pos_embed" not in dict(network.named_parameters())


def test_stochastic_depth_rises_linearly():
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in small(depth=3, drop_path=0.2).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_so_vit_head_adds_two_classifiers():
    head, tokens = SoViTHead(8, 3, dims=(5, 4)).eval(), torch.randn(2, 7, 8)
    visual = tokens[:, 1:]
    expected = head.visual_fc(head.pool(visual)) + head.cls_fc(tokens[:, 0])
    torch.testing.assert_close(head(tokens), expected)
    torch.testing.assert_close(head.pool(visual), head.pool(visual[:, torch.randperm(6)]))
    first = SoViTHead(8, 3, "first-order").eval()
    torch.testing.assert_close(first.pool(visual), visual.mean(1))
    with pytest.raises(ValueError, match="'third-order' is unknown"):
        SoViTHead(8, 3, "third-order")


def test_fusions_of_sot():
    tokens, options = torch.randn(2, 7, 8), {"heads": 2, "width": 3}
    heads = {name: SoTHead(8, 5, fusion=name, **options).eval() for name in ("sum_fc", "sum_loss", "aggre_all")}
    for head in heads.values():
        head.load_state_dict(heads["sum_fc"].state_dict())
    visual, own = heads["sum_loss"](tokens)
    torch.testing.assert_close(heads["sum_fc"](tokens), visual + own)
    alone = SoTHead(8, 5, class_token=False, **options).eval()
    alone.load_state_dict({k: v for k, v in heads["sum_fc"].state_dict().items() if not k.startswith("cls_fc")})
    torch.testing.assert_close(heads["aggre_all"](tokens), alone(tokens))
    torch.testing.assert_close(visual, alone(tokens[:, 1:]))
    concat = SoTHead(8, 5, fusion="concat", **options).eval()
    joined = torch.cat([tokens[:, 0], concat.representation(tokens[:, 1:])], 1)
    torch.testing.assert_close(concat(tokens), concat.visual_fc(joined))
    assert not concat.cls_fc.weight.requires_grad and heads["sum_fc"].cls_fc.weight.requires_grad
    with pytest.raises(ValueError, match="fusion 'mean'"):
        SoTHead(8, 5, fusion="mean")


@pytest.mark.parametrize("head", ["so_vit", "sot"])
@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:deit_tiny_distilled_patch16_224"])
def test_heads_on_other_transformers(head, name):
    backbone = create_backbone(name, input_size=32, depth=1)
    layer = SoViTHead(192, 3, dims=(5, 4)) if head == "so_vit" else SoTHead(192, 3, heads=2, width=3)
    model, image = TokenClassifier(backbone, layer).eval(), torch.randn(2, 3, 32, 32)
    tokens = backbone.network.forward_features(image)
    prefix = backbone.prefix_tokens  # the second prefix token of a distilled network is neither class nor visual token
    torch.testing.assert_close(model(image), layer(torch.cat([tokens[:, :1], tokens[:, prefix:]], 1)))


def test_heads_on_networks_without_class_token():
    backbone = create_backbone("conv4", width=8)
    model = TokenClassifier(backbone, SoTHead(8, 3, class_token=False, heads=2, width=3)).eval()
    image = torch.randn(2, 3, 32, 32)
    expected = model.head(backbone(image).flatten(2).transpose(1, 2))
    torch.testing.assert_close(model(image), expected)
    with pytest.raises(UserError, match="class_token=False"):
        TokenClassifier(backbone, SoTHead(8, 3))


def test_wrong_options():
    with pytest.raises(UserError, match="'mlp'"):
        create_backbone("so_vit_7", mlp=3)
    with pytest.raises(UserError, match="token embedding 'vgg' is unknown"):
        create_backbone("so_vit_7", tokens="vgg")
