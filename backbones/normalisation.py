"""Channel statistics that backbones declare, for RGB in [0, 1]."""

FEW_SHOT_MEAN = (0.472, 0.453, 0.410)  # the DeepBDC family uses these for every data set
FEW_SHOT_STD = (0.277, 0.268, 0.285)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
