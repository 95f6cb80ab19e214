"""Every head against its definition, spelt out with loops in float64 for unequal shots."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from fewshot.adm import ADM, gaussian_kl, image_to_class
from fewshot.covnet import CovNet
from fewshot.deepemd import DeepEMD
from fewshot.frn import FRN, reconstruction
from fewshot.meta_baseline import MetaBaseline
from fewshot.meta_deepbdc import MetaDeepBDC
from fewshot.protonet import ProtoNet
from tests.fewshot.episodes import MAP, VECTOR, Episodes, random_episodes


def by_loops(data: Episodes, score) -> torch.Tensor:
    """Return (E, Q, K) of score(rows of the class, one query)."""
    return torch.stack(
        [
            torch.stack(
                [torch.stack([score(support[labels == k], query) for k in range(data.n_way)]) for query in queries]
            )
            for support, labels, queries in zip(data.support, data.labels, data.query, strict=True)
        ]
    )


def check(head, data: Episodes, score, **tolerance):
    mine = head(data.support, data.labels, data.query)
    torch.testing.assert_close(mine, by_loops(data, score), **(tolerance or {"rtol": 1e-9, "atol": 1e-9}))


def test_protonet():
    check(ProtoNet(), random_episodes(VECTOR), lambda rows, u: -((u - rows.mean(0)) ** 2).sum())


def test_protonet_with_the_root():
    check(ProtoNet("euclidean"), random_episodes(VECTOR), lambda rows, u: -torch.dist(u, rows.mean(0)))


def test_meta_deepbdc():
    check(MetaDeepBDC(k_shot=1), random_episodes(VECTOR), lambda rows, u: u @ rows.mean(0))
    check(MetaDeepBDC(k_shot=2), random_episodes(VECTOR), lambda rows, u: -((u - rows.mean(0)) ** 2).sum())


def symmetric(vector: torch.Tensor, size: int = 5) -> torch.Tensor:
    matrix = torch.zeros(size, size, dtype=vector.dtype)
    place = 0
    for i in range(size):
        for j in range(i, size):
            matrix[i, j] = matrix[j, i] = vector[place]
            place += 1
    return matrix


def test_meta_deepbdc_exact_trace():
    def trace(rows, u):
        return torch.trace(symmetric(rows.mean(0)).T @ symmetric(u))

    def frobenius(rows, u):
        return -((symmetric(rows.mean(0)) - symmetric(u)) ** 2).sum()

    check(MetaDeepBDC(k_shot=1, exact_trace=True), random_episodes(VECTOR), trace)
    check(MetaDeepBDC(k_shot=2, exact_trace=True), random_episodes(VECTOR), frobenius)


def test_meta_baseline():
    def score(rows, u):
        p = rows.mean(0)
        return 7 * (u @ p) / (u.norm() * p.norm())

    check(MetaBaseline(temperature=7.0).double(), random_episodes(VECTOR), score)


def test_covnet():
    def feature(x):
        f = x.reshape(x.shape[0], -1)
        p = f @ f.T / f.shape[1]
        return torch.sign(p) * torch.sqrt(p.abs() + 1e-5)

    check(
        CovNet(),
        random_episodes(MAP),
        lambda rows, u: -((feature(u) - torch.stack([feature(r) for r in rows]).mean(0)) ** 2).sum(),
    )


def descriptors(x: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) -> (all positions, C)."""
    return x.reshape(-1, x.shape[-3], x.shape[-2] * x.shape[-1]).transpose(1, 2).reshape(-1, x.shape[-3])


@pytest.mark.parametrize("form", ["rows", "channels"])
def test_frn_forms_are_equal(form):
    data = random_episodes(MAP)
    support = data.support.flatten(3).transpose(2, 3)
    alpha = torch.tensor(0.3, dtype=torch.float64)
    hat, _ = reconstruction(support, data.labels, 3, alpha, form)
    for e in range(2):
        for k in range(3):
            pool = descriptors(data.support[e][data.labels[e] == k])
            ridge = len(pool) / pool.shape[1] * np.exp(0.3) + 1e-6
            eye = torch.eye(len(pool), dtype=torch.float64)
            expected = pool.T @ torch.linalg.inv(pool @ pool.T + ridge * eye) @ pool
            torch.testing.assert_close(hat[e, k], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", [MAP, (9, 2, 2)])  # more and fewer descriptors than channels
def test_frn(shape):
    head = FRN(divisor=2.0).double()
    with torch.no_grad():
        head.alpha.fill_(0.3)
        head.beta.fill_(-0.2)
        head.scale.fill_(1.5)

    def score(rows, u):
        pool, q = descriptors(rows) / 2, descriptors(u) / 2
        ridge = len(pool) / pool.shape[1] * np.exp(0.3) + 1e-6
        rebuilt = q @ pool.T @ torch.linalg.inv(pool @ pool.T + ridge * torch.eye(len(pool))) @ pool * np.exp(-0.2)
        return -1.5 * ((rebuilt - q) ** 2).sum(1).mean()

    check(head, random_episodes(shape, (2, 1, 1)), score, rtol=1e-7, atol=1e-7)


def kl_by_definition(rows, u):
    def gaussian(d):
        return d.mean(0), torch.cov(d.T) + 0.01 * torch.eye(d.shape[1], dtype=d.dtype)

    (mq, sq), (mc, sc) = gaussian(descriptors(u)), gaussian(descriptors(rows))
    inverse = torch.linalg.inv(sc)
    return 0.5 * (
        torch.trace(inverse @ sq) + (mq - mc) @ inverse @ (mq - mc) - len(mq) + torch.logdet(sc) - torch.logdet(sq)
    )


def i2c_by_definition(rows, u):
    total = 0.0
    pool = descriptors(rows)
    for q in descriptors(u):
        cosines = sorted((float(q @ p / (q.norm() * p.norm())) for p in pool), reverse=True)
        total += sum(cosines[:3])
    return torch.tensor(total, dtype=torch.float64)


def test_adm_parts():
    data = random_episodes(MAP)
    support, query = data.support.flatten(3), data.query.flatten(3)
    kl, _ = gaussian_kl(support, data.labels, query, 3)
    torch.testing.assert_close(kl, by_loops(data, kl_by_definition), rtol=1e-9, atol=1e-9)
    local = image_to_class(support, data.labels, query, 3)
    torch.testing.assert_close(local, by_loops(data, i2c_by_definition), rtol=1e-9, atol=1e-9)


def test_image_to_class_with_fewer_descriptors_than_neighbours():
    """A class of one row on a 1x2 map has two descriptors: it contributes two, whatever its neighbours have."""
    data = random_episodes((4, 1, 2), (3, 1))
    local = image_to_class(data.support.flatten(3), data.labels, data.query.flatten(3), 2)
    torch.testing.assert_close(local, by_loops(data, i2c_by_definition), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_way", [None, 3])
def test_adm_norm_and_filter(n_way):
    torch.manual_seed(0)
    head = ADM(n_way=n_way).double().eval()
    for buffer in (head.norm.running_mean, head.norm.running_var, head.norm.weight.data, head.norm.bias.data):
        buffer.copy_(torch.rand_like(buffer) + 0.5)
    data = random_episodes(MAP)
    norm = head.norm
    expected = torch.zeros(2, 4, 3, dtype=torch.float64)
    parts = (-by_loops(data, kl_by_definition), by_loops(data, i2c_by_definition))
    for k in range(3):
        for part, values in enumerate(parts):
            column = part if n_way is None else part * n_way + k
            scaled = (values[..., k] - norm.running_mean[column]) / torch.sqrt(norm.running_var[column] + norm.eps)
            expected[..., k] += head.taps[part].item() * (scaled * norm.weight[column] + norm.bias[column]).detach()
    torch.testing.assert_close(head(data.support, data.labels, data.query), expected, rtol=1e-9, atol=1e-9)


def emd_by_definition(rows, u):
    """12.5 / M * sum(flow * similarity) with the flow of a linear program written out."""
    p, q = descriptors(rows.mean(0)), descriptors(u)
    m = len(p)

    def weights(a, b):
        w = torch.relu(a @ b.mean(0)) + 1e-3 + 1e-5
        return (w * m / w.sum()).numpy()

    w_q, w_p = weights(q, p), weights(p, q)
    qc, pc = q - q.mean(1, keepdim=True), p - p.mean(1, keepdim=True)
    similarity = (qc @ pc.T) / (qc.norm(dim=1)[:, None] * pc.norm(dim=1)[None])
    equations = np.zeros((2 * m, m * m))
    for i in range(m):
        equations[i, i * m : (i + 1) * m] = 1
        equations[m + i, i::m] = 1
    bounds = np.concatenate([w_q, w_p])
    flow = linprog((1 - similarity).numpy().ravel(), A_eq=equations[:-1], b_eq=bounds[:-1]).x
    return torch.tensor(12.5 / m * (flow * similarity.numpy().ravel()).sum())


def test_deepemd():
    check(DeepEMD(tune_passes=0).eval(), random_episodes(MAP), emd_by_definition, rtol=1e-6, atol=1e-6)
