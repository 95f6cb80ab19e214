"""Image classification: training, and the study of covariance pooling in training."""
