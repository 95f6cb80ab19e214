"""The mathematics: pure functions and small layers that need torch alone."""

from moments.bdc import BDC, bdc_matrix, bdc_vector
from moments.pooling import GlobalAveragePool
from moments.triangle import from_upper_triangle, upper_triangle

__all__ = ["BDC", "GlobalAveragePool", "bdc_matrix", "bdc_vector", "from_upper_triangle", "upper_triangle"]
