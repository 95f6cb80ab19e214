"""Numbers of the study as published, to stand beside one's own: ImageNet, single centre crop."""

from __future__ import annotations

# Top-1 accuracy in percent with LRnorm, LRfast, LRadju: of average pooling, of covariance pooling.
PUBLISHED_TOP1: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "MobileNetV2": ((71.62, 69.29, 71.27), (74.39, 72.45, 73.97)),
    "ShuffleNetV2": ((67.96, 66.13, 67.15), (71.83, 70.29, 71.17)),
    "ResNet-18": ((70.47, 66.02, 69.62), (75.48, 72.02, 74.86)),
    "ResNet-34": ((74.19, 69.88, 73.13), (77.11, 73.88, 76.81)),
    "ResNet-50": ((76.02, 71.08, 75.32), (78.56, 75.31, 78.03)),
    "ResNet-101": ((77.67, 73.13, 77.53), (79.47, 76.38, 79.18)),
}
# mCE, relative mCE, flip rate against AlexNet's ("mFP" in the source, but it is the divided rate), mT5D; in percent.
PUBLISHED_ROBUSTNESS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "MobileNetV2": ((86.4, 113.6, 79.1, 96.0), (81.7, 110.6, 64.3, 87.6)),
    "ShuffleNetV2": ((92.7, 126.7, 94.7, 108.2), (85.2, 112.6, 75.2, 95.5)),
    "ResNet-18": ((84.7, 103.9, 72.8, 87.0), (76.3, 101.3, 53.2, 77.1)),
    "ResNet-34": ((77.9, 98.7, 61.7, 79.5), (72.4, 96.9, 47.7, 72.4)),
    "ResNet-50": ((76.7, 105.0, 58.0, 78.3), (70.7, 97.9, 47.5, 74.6)),
    "ResNet-101": ((70.3, 93.7, 52.6, 73.9), (65.5, 89.1, 42.1, 68.3)),
}
