"""A head fitted to its support once answers as the head that sees the support at every call."""

from __future__ import annotations

import pytest
import torch

from fewshot import CovNet, DeepEMD, MetaDeepBDC, RelationNet, SimpleShot, create_head
from fewshot.fitted import KeptSupport, Linear, fit_head
from fewshot.methods import METHODS

LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 1])  # uneven and out of order
HEADS = {
    **{name: lambda name=name: create_head(name, 2, 6) for name in METHODS if not METHODS[name].adapts},
    "deepemd": lambda: DeepEMD(tune_passes=3),
    "sklearn": lambda: create_head("good_embed", 2, solver="sklearn"),
    "zeros": lambda: create_head("baseline", 2, start="zeros"),
    "means": lambda: create_head("baseline_pp", 2, start="means"),
    "auto": lambda: MetaDeepBDC(),
    "trace": lambda: MetaDeepBDC(2, exact_trace=True),
    "UN": lambda: SimpleShot("UN"),
    "CL2N": lambda: SimpleShot("CL2N"),
    "centre": lambda: SimpleShot("CL2N", torch.full((6,), 0.3)),
    "sum": lambda: RelationNet(6, class_map="sum"),
    "sinkhorn": lambda: DeepEMD(solver="sinkhorn", tune_passes=3),
}
KIND = {"auto": "meta_deepbdc", "trace": "meta_deepbdc", "sum": "relation_net", "sinkhorn": "deepemd"}


@pytest.mark.parametrize("name", HEADS)
def test_fitted_once_is_the_head(name):
    torch.manual_seed(0)
    head = HEADS[name]().eval()
    pool = METHODS[KIND.get(name, name)].pool if KIND.get(name, name) in METHODS else "gap"
    shape = (6, 3, 2) if pool == "map" else (6,)
    support, query = torch.rand(7, *shape), torch.rand(5, *shape)
    with torch.no_grad():
        expected = head(support[None], LABELS[None], query[None])[0]
        fitted = fit_head(head, support, LABELS)
        answers = fitted(query)
        assert answers.shape == (5, 3)
        assert torch.allclose(answers, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        transductive = getattr(fitted, "transductive", False)
        assert transductive == getattr(head, "transductive", False)
        if not transductive:  # one by one as all together
            alone = torch.cat([fitted(one[None]) for one in query])
            assert torch.allclose(alone, answers, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_one_shot_of_the_auto_rule_is_decided_by_the_pictures():
    support, query, labels = torch.rand(3, 6), torch.rand(4, 6), torch.arange(3)
    assert torch.allclose(fit_head(MetaDeepBDC(), support, labels)(query), query @ support.T, atol=1e-6)


def test_the_support_is_gone_where_it_can_be():
    support = torch.rand(7, 6)
    assert isinstance(fit_head(create_head("stl_deepbdc", 5), support, LABELS), Linear)
    assert fit_head(create_head("protonet", 5), support, LABELS).support.shape == (3, 6)
    kept = fit_head(CovNet(), torch.rand(7, 4, 2, 2), LABELS)
    assert isinstance(kept, KeptSupport)
    assert kept.support.shape == (3, 16)


def test_a_class_without_a_row_is_refused():
    with pytest.raises(ValueError, match="class 1 of 3 has no support row"):
        fit_head(create_head("protonet", 1), torch.rand(2, 4), torch.tensor([0, 2]))
