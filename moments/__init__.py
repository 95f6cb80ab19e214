"""The mathematics: pure functions and small layers that need torch alone."""

from moments.bdc import BDC, bdc_matrix, bdc_vector
from moments.bilinear import bilinear_matrix, compact_bilinear_vector, signed_root
from moments.covariance import covariance, gaussian_matrix
from moments.cross_covariance import CrossCovariance, MultiHeadCovariance, cross_covariance, token_covariance
from moments.eca import ECA, eca_kernel_size
from moments.gsop import GSoP, position_covariance
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
from moments.svpn import SVPN, svpn
from moments.triangle import from_upper_triangle, reorder_triangle, upper_triangle

__all__ = [
    "BDC",
    "BilinearPool",
    "CompactBilinearPool",
    "CovariancePool",
    "CrossCovariance",
    "ECA",
    "EigenPower",
    "GSoP",
    "GlobalAveragePool",
    "MultiHeadCovariance",
    "NewtonSchulzRoot",
    "SVPN",
    "bdc_matrix",
    "bdc_vector",
    "bilinear_matrix",
    "channel_reduction",
    "compact_bilinear_vector",
    "covariance",
    "cross_covariance",
    "eca_kernel_size",
    "from_upper_triangle",
    "gaussian_matrix",
    "gaussian_pool",
    "isqrt_pool",
    "matrix_power",
    "mpn_pool",
    "newton_schulz_root",
    "position_covariance",
    "reorder_triangle",
    "signed_root",
    "singular_power",
    "svpn",
    "token_covariance",
    "upper_triangle",
]
