"""Method objects of easyfsl's form as heads, and the two libraries against each other."""

from __future__ import annotations

import pytest
import torch

from fewshot.bd_cspn import rectified
from fewshot.matching_net import MatchingNet
from fewshot.protonet import ProtoNet
from fewshot.wrapped import WrappedMethod
from tests.fewshot.episodes import MAP, VECTOR, random_episodes

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


class NearestMean:
    """The form that is wrapped, without the library."""

    def process_support_set(self, support, labels):
        assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
        assert torch.isfinite(support).all()
        self.means = torch.stack([support[labels == k].mean(0) for k in labels.unique()])

    def __call__(self, query):
        assert torch.isfinite(query).all()
        return -torch.cdist(query.flatten(1), self.means.flatten(1)).square()


@pytest.mark.parametrize("shape", [VECTOR, MAP])
def test_a_plain_object_scores_episodes(shape):
    data = random_episodes(shape)
    flat = [x.flatten(2) for x in (data.support, data.query)]
    expected = ProtoNet()(flat[0], data.labels, flat[1])
    torch.testing.assert_close(WrappedMethod(NearestMean())(data.support, data.labels, data.query), expected, **TIGHT)


def test_padding_and_absent_classes_stay_outside():
    data = random_episodes(VECTOR)
    data.labels[0] = torch.where(data.labels[0] == 1, -1, data.labels[0])  # class 1 is absent from the first episode
    data.support[0][data.labels[0] < 0] = float("nan")
    mask = torch.tensor([[True, False, True, False], [True] * 4])
    data.query[~mask] = float("nan")
    logits = WrappedMethod(NearestMean())(data.support, data.labels, data.query, n_way=4, query_mask=mask)
    expected = ProtoNet()(data.support, data.labels, data.query, n_way=4)
    torch.testing.assert_close(logits[mask], expected[mask], **TIGHT)
    assert (logits[0, 1, [0, 2]] == 0).all()


def test_an_object_without_the_form_is_refused():
    with pytest.raises(ValueError, match="function needs process_support_set"):
        WrappedMethod(lambda query: query)


@pytest.fixture
def methods():
    return pytest.importorskip("easyfsl.methods", reason="easyfsl is an optional peer")


def equal_shots():
    """Episodes of two shots, ordered by class, since the library counts classes and reads one-hot labels."""
    return random_episodes(VECTOR, (2, 2, 2))


def test_prototypical_networks_of_the_library(methods):
    data = equal_shots()
    head = WrappedMethod(methods.PrototypicalNetworks())
    expected = ProtoNet("euclidean")(data.support, data.labels, data.query)
    torch.testing.assert_close(head(data.support, data.labels, data.query), expected, rtol=1e-7, atol=1e-7)
    assert not head.transductive


@pytest.mark.parametrize("name", ["SimpleShot", "Finetune", "TIM", "BDCSPN", "LaplacianShot"])
def test_other_methods_of_the_library_run(methods, name):
    """With unequal shots and padding; gradients through a wrapped method are the library's business."""
    data = random_episodes(VECTOR)
    data.labels[0, 0] = -1
    head = WrappedMethod(getattr(methods, name)())
    with torch.no_grad():
        logits = head(data.support.float(), data.labels, data.query.float(), n_way=3)
    assert logits.shape == (2, 4, 3)
    assert head.transductive == (name in ("TIM", "BDCSPN", "LaplacianShot"))
    present = torch.isfinite(logits).all(1)
    assert present[1].all()


def test_matching_networks_with_context_agree(methods):
    data = equal_shots()
    torch.manual_seed(0)
    peer = methods.MatchingNetworks(feature_dimension=15).double()
    mine = MatchingNet(context=True, in_channels=15).double()
    mine.support_encoder.load_state_dict(peer.support_features_encoder.state_dict())
    mine.query_encoder.load_state_dict(peer.query_features_encoding_cell.state_dict())
    with torch.no_grad():
        # the library keeps one-hot labels in float32
        expected = WrappedMethod(peer.float())(data.support.float(), data.labels, data.query.float())
        logits = mine(data.support, data.labels, data.query)
    torch.testing.assert_close(logits.float(), expected, rtol=1e-4, atol=1e-4)


def test_bd_cspn_prototypes_agree(methods):
    """The library pseudo-labels every query, weighs with temperature 1 and scores the queries unshifted."""
    data = equal_shots()
    peer = methods.BDCSPN()
    for e in range(2):
        support, labels, query = data.support[e], data.labels[e], data.query[e]
        peer.process_support_set(support, labels)
        peer.rectify_prototypes(query)
        moved = query + support.mean(0) - query.mean(0)
        mine, _ = rectified(
            support[None], labels[None], moved[None], torch.ones(1, 4, dtype=torch.float64), 3, 1.0, None
        )
        torch.testing.assert_close(mine[0], peer.prototypes, **TIGHT)
