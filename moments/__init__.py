"""The mathematics: pure functions and small layers that need torch alone."""

from moments.bdc import BDC, bdc_matrix, bdc_vector
from moments.covariance import covariance
from moments.newton_schulz import newton_schulz_root
from moments.pooling import GlobalAveragePool
from moments.triangle import from_upper_triangle, upper_triangle

__all__ = [
    "BDC",
    "GlobalAveragePool",
    "bdc_matrix",
    "bdc_vector",
    "covariance",
    "from_upper_triangle",
    "newton_schulz_root",
    "upper_triangle",
]
