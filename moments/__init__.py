"""The mathematics: pure functions and small layers that need torch alone."""

from moments.bdc import BDC, bdc_matrix, bdc_vector
from moments.bilinear import bilinear_matrix, compact_bilinear_vector, signed_root
from moments.covariance import covariance, gaussian_matrix
from moments.newton_schulz import NewtonSchulzRoot, newton_schulz_root
from moments.pooling import GlobalAveragePool
from moments.power import EigenPower, matrix_power
from moments.reduction import channel_reduction
from moments.second_order import (
    BilinearPool,
    CompactBilinearPool,
    CovariancePool,
    gaussian_pool,
    isqrt_pool,
    mpn_pool,
)
from moments.singular_power import singular_power
from moments.triangle import from_upper_triangle, reorder_triangle, upper_triangle

__all__ = [
    "BDC",
    "BilinearPool",
    "CompactBilinearPool",
    "CovariancePool",
    "EigenPower",
    "GlobalAveragePool",
    "NewtonSchulzRoot",
    "bdc_matrix",
    "bdc_vector",
    "bilinear_matrix",
    "channel_reduction",
    "compact_bilinear_vector",
    "covariance",
    "from_upper_triangle",
    "gaussian_matrix",
    "gaussian_pool",
    "isqrt_pool",
    "matrix_power",
    "mpn_pool",
    "newton_schulz_root",
    "reorder_triangle",
    "signed_root",
    "singular_power",
    "upper_triangle",
]
